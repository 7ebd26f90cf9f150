"""Constrained greedy decoding: forced tokens cost no pass of their own, drafts are verified in one pass.

A step of a batch is one forward pass. Each row puts into it the tokens that it has committed since the last
one (its own choice, and what the grammar forces after it) and a draft of what may follow. From the logits,
the row commits what one-token-at-a-time decoding would: forced tokens without asking, else the likeliest
token that the grammar allows; the draft serves as long as it says the same.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bases import family_of
from extraction.decoding import drafting
from extraction.decoding.grammar import AnswerGrammar
from extraction.decoding.row_cache import RowCache
from extraction.decoding.source_text import SourceText
from task.triplets import KEYS, Triplet

MAX_DRAFT = 32  # tokens
_JSON = json.JSONDecoder()


@dataclass
class Statistics:
    """What decoding took, over all calls.

    Args:
        answers, tokens: finished answers, and the tokens of them.
        row_passes: forward passes, counted once for each row that took part.
        passes: forward passes of the model.
        constraint_seconds: spent on grammars, masks and forced tokens.
    """

    answers: int = 0
    tokens: int = 0
    row_passes: int = 0
    passes: int = 0
    constraint_seconds: float = 0.0


@dataclass(frozen=True)
class Answer:
    """A decoded answer.

    Args:
        token_ids: what was committed, without what ends an answer.
        triplets: the whole ones, in the notation of the answer (normalised), without repetitions.
        scores: their probabilities under the constraint; empty if not asked for.
        truncated: the budget ended before the list did.
    """

    token_ids: list[int]
    triplets: list[Triplet]
    scores: list[float]
    truncated: bool


@dataclass
class _Row:
    """A sentence being decoded."""

    index: int
    source: SourceText
    matcher: Future[Any]  # done before the first choice
    prompt_length: int
    pending: list[int]  # committed (or of the prompt), but not yet in the cache
    length: int = 0  # tokens in the cache
    committed: list[int] = field(default_factory=list)
    text: bytes = b""  # of the answer behind its last whole triplet
    triplets: list[Triplet] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    score: float = 0.0  # log probability of the choices since the last whole triplet
    repetitions: int = 0  # in a row
    draft: list[int] = field(default_factory=list)
    done: bool = False
    truncated: bool = False


class ConstrainedDecoder:
    """Decodes answers under a grammar.

    Args:
        model: with its head, with or without an adapter, in evaluation mode; see `bases.interface.Family`.
        grammar: of the answers.
        max_new_tokens: an answer that has as many tokens ends there, in the middle of what is forced, too.
        batch_size: rows at most.
        with_scores: compute the probabilities of triplets; takes a mask for every choice.
        drafts: guess and verify; without it, results are the same and passes more.
        statistics: counts along.
    """

    def __init__(
        self,
        model: Any,
        grammar: AnswerGrammar,
        *,
        max_new_tokens: int,
        batch_size: int,
        with_scores: bool = False,
        drafts: bool = True,
        statistics: Statistics | None = None,
    ) -> None:
        self.model = model
        self.grammar = grammar
        self.vocabulary = grammar.vocabulary
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.with_scores = with_scores
        self.drafts = drafts
        self.statistics = statistics or Statistics()

    # Not inference_mode: layers may keep what they make here (4-bit on the CPU does), and its tensors would
    # be useless to a training step after an evaluation.
    @torch.no_grad()
    def decode(self, prompts: Sequence[list[int]], sentences: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Answer prompts, in the order given, as many at a time as there are rows.

        Args:
            prompts: ids of the prompts, as the tokenizer's `prompt_ids` gives them.
            sentences: what the values come from, one for each prompt.

        Yields:
            The index of a prompt and its answer, as they finish.
        """
        if not prompts:
            return
        waiting = deque(range(len(prompts)))
        rows: list[_Row] = []
        capacity = max(map(len, prompts)) + self.max_new_tokens + 4 * MAX_DRAFT
        cache = RowCache(min(self.batch_size, len(prompts)), capacity)
        with ThreadPoolExecutor(1) as pool:
            while waiting or rows:
                new: list[_Row] = []
                # Prompts are computed together: a pass for each finished row's successor would cost more.
                refill = len(rows) <= self.batch_size // 2
                while refill and waiting and len(rows) + len(new) < self.batch_size:
                    index = waiting.popleft()
                    started = time.perf_counter()
                    row = self._start(index, prompts[index], sentences[index], pool)
                    self.statistics.constraint_seconds += time.perf_counter() - started
                    if row.done:
                        yield index, self._finish(row)
                    else:
                        new.append(row)
                first = len(rows)
                rows += new
                if new:
                    self._step(new, list(range(first, len(rows))), cache)
                elif rows:
                    self._step(rows, list(range(len(rows))), cache)
                for place in reversed(range(len(rows))):
                    if (row := rows[place]).done:
                        yield row.index, self._finish(row)
                        last = rows.pop()
                        if last is not row:
                            cache.move(len(rows), place)
                            rows[place] = last

    def _start(self, index: int, prompt: list[int], sentence: str, pool: Executor) -> _Row:
        """Begin an answer; its grammar is compiled while the prompt is computed."""
        source = self.grammar.source(sentence)
        row = _Row(index, source, Future(), len(prompt), list(prompt))
        if self.grammar.can_have_items(source):
            opening = self.grammar.opening[: self.max_new_tokens]
            row.done = row.truncated = len(opening) == self.max_new_tokens
            row.matcher = pool.submit(self._opened, source)
            row.committed += opening
            row.pending += opening
            row.text = self._write(opening)
        else:
            row.matcher.set_result(self.grammar.matcher(source))
            self._force(row)
        return row

    def _opened(self, source: SourceText) -> Any:
        """Return the grammar of an answer, the opening behind it."""
        matcher = self.grammar.matcher(source)
        if not matcher.consume_tokens(self.grammar.opening):
            raise RuntimeError(f"llguidance: {matcher.get_error()}")
        return matcher

    def _write(self, tokens: list[int]) -> bytes:
        return b"".join(self.vocabulary.token_bytes[token] for token in tokens)

    def _finish(self, row: _Row) -> Answer:
        self.statistics.answers += 1
        self.statistics.tokens += len(row.committed)
        return Answer(row.committed, row.triplets, row.scores, row.truncated)

    # --- one pass

    def _step(self, rows: list[_Row], places: list[int], cache: RowCache) -> None:
        """Run a pass over rows and let each commit what it can."""
        for row in rows:
            row.draft = self._draft(row) if self.drafts else []
        inputs = [row.pending + row.draft for row in rows]
        width = max(map(len, inputs))
        device = self.model.device
        lengths = torch.tensor([row.length for row in rows])
        slots = lengths[:, None] + torch.arange(width)  # [B, S]
        prompt_lengths = torch.tensor([row.prompt_length for row in rows])
        config = self.model.config
        batch = family_of(config).next_inputs(inputs, slots, prompt_lengths, config)
        # Logits after the last committed token and after each token of the draft.
        kept = torch.zeros(slots.shape, dtype=torch.bool)
        for place, row in enumerate(rows):
            kept[place, len(row.pending) - 1 : len(row.pending) + len(row.draft)] = True
        cache.prepare(places, slots.to(device), int(slots.max()) + 1)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        logits = self.model(**batch, cache=cache, logits_to_keep=kept.to(device)).logits  # [T, V]
        self.statistics.passes += 1
        self.statistics.row_passes += len(rows)
        likeliest = logits.argmax(-1).tolist()
        first = 0
        for row in rows:
            count = len(row.draft) + 1
            self._advance(row, logits[first : first + count], likeliest[first : first + count])
            first += count

    def _draft(self, row: _Row) -> list[int]:
        """Return the tokens of a guess at what follows."""
        text = drafting.draft(row.text.decode("utf-8", "ignore"), row.source.escaped, row.triplets)
        return self.vocabulary.encode(text)[:MAX_DRAFT] if text else []

    def _advance(self, row: _Row, logits: torch.Tensor, likeliest: list[int]) -> None:
        """Commit the choices that the logits [len(draft) + 1, V] decide, and what is forced after each."""
        started = time.perf_counter()
        row.matcher.result()
        self.statistics.constraint_seconds += time.perf_counter() - started
        row.length += len(row.pending)
        row.pending = []
        used = 0  # tokens of the draft that turned out right
        while not row.done:
            if len(row.committed) >= self.max_new_tokens:
                row.done = row.truncated = True
                break
            self._choose(row, logits[used], likeliest[used])
            new = row.pending
            if row.done or new != row.draft[used : used + len(new)]:
                break
            used += len(new)
            row.length += len(new)
            row.pending = []
        if row.pending and used < len(row.draft):  # a beginning of them may be right
            for token, drafted in zip(row.pending[:-1], row.draft[used:], strict=False):
                if token != drafted:
                    break
                row.length += 1
                row.pending = row.pending[1:]

    def _choose(self, row: _Row, logits: torch.Tensor, likeliest: int) -> None:
        """Commit the likeliest token that the grammar allows, and the tokens that it forces then."""
        started = time.perf_counter()
        mask = None
        if self.with_scores or row.matcher.result().validate_tokens([likeliest]) == 0:
            mask = self.grammar.mask(row.matcher.result())
        chosen = likeliest
        if mask is not None:
            scores = logits.float().masked_fill(~torch.from_numpy(mask).to(logits.device), -math.inf)
            chosen = int(scores.argmax())
            if self.with_scores:
                row.score += self._log_probability(scores, chosen, mask)
        self._commit(row, [chosen])
        if not row.done:
            self._force(row)
        self.statistics.constraint_seconds += time.perf_counter() - started

    def _log_probability(self, scores: torch.Tensor, chosen: int, mask: np.ndarray) -> float:
        """Return the log probability of a choice, of all tokens that end the value if it does."""
        quotes = self.vocabulary.starts_with_quote
        if quotes[chosen]:
            same = torch.from_numpy(np.flatnonzero(mask & quotes)).to(scores.device)
        else:
            same = torch.tensor([chosen], device=scores.device)
        return float(scores[same].logsumexp(-1) - scores.logsumexp(-1))

    def _force(self, row: _Row) -> None:
        """Commit what the grammar leaves no choice about."""
        while not row.done and (forced := row.matcher.result().compute_ff_tokens()):
            self._commit(row, forced)

    def _commit(self, row: _Row, tokens: list[int]) -> None:
        """Append tokens to the answer; a triplet that ends in them may end it."""
        matcher = row.matcher.result()
        room = self.max_new_tokens - len(row.committed)
        is_cut, tokens = len(tokens) > room, tokens[:room]
        # One by one only where a triplet may end.
        parts = [[token] for token in tokens] if b"}" in self._write(tokens) else [tokens]
        for part in parts:
            if not matcher.consume_tokens(part):
                raise RuntimeError(f"llguidance: {matcher.get_error()}")
            row.committed += part
            row.pending += part
            written = self._write(part)
            row.text += written
            if b"}" in written:
                self._collect(row)
            if row.done:
                return
        row.done = matcher.is_stopped() or is_cut
        row.truncated = is_cut

    def _collect(self, row: _Row) -> None:
        """Take whole triplets out of the text; a second repetition in a row ends the answer."""
        while (start := row.text.find(b'{"')) >= 0:
            text = row.text[start:].decode("utf-8", "ignore")
            try:
                fields, end = _JSON.raw_decode(text)
            except ValueError:
                return  # a brace inside a value
            row.text = row.text[start + len(text[:end].encode()) :]
            triplet = Triplet(*(fields[key] for key in KEYS))
            if triplet in row.triplets:
                row.repetitions += 1
                row.done = row.done or row.repetitions == 2
            else:
                row.repetitions = 0
                row.triplets.append(triplet)
                row.scores += [min(1.0, math.exp(row.score))] if self.with_scores else []
            row.score = 0.0

"""Constrained greedy decoding: forced tokens cost no pass of their own, drafts are verified in one pass.

A step of a batch is one forward pass. Each row puts into it the tokens that it has committed since the last
one (its own choice, and what the grammar forces after it) and a draft of what may follow. From the logits,
the row commits what one-token-at-a-time decoding would: forced tokens without asking, else the likeliest
token that the grammar allows; the draft serves as long as it says the same.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from extraction.decoding.grammar import AnswerGrammar
from extraction.decoding.masks import packed_masks, unpack_masks
from extraction.decoding.passes import lay_out
from extraction.decoding.row import MAX_DRAFT, Answer, Choice, Row
from extraction.decoding.row_cache import RowCache

# Prompt tokens of a pass: more hardly speed a device up, and take memory.
PROMPT_TOKENS = 4096
# Grammars of waiting sentences that are prepared while a pass computes on a card.
AHEAD = 16

__all__ = ["MAX_DRAFT", "Answer", "ConstrainedDecoder", "Statistics"]


# With NaN or infinity on top of the logits, the constraint alone would decide.
NOT_FINITE = "模型算出的不是有限的数（NaN 或无穷大），权重可能已损坏，或半精度放不下"


@dataclass
class Statistics:
    """What decoding took, over all calls.

    Args:
        answers, tokens: finished answers, and the tokens of them.
        row_passes: forward passes, counted once for each row that took part.
        passes: forward passes of the model.
        constraint_seconds: spent on grammars, masks and forced tokens.
        cache_tokens, pass_tokens, logits: the most that there was room for, that a pass had, and that got
            logits in one.
    """

    answers: int = 0
    tokens: int = 0
    row_passes: int = 0
    passes: int = 0
    constraint_seconds: float = 0.0
    cache_tokens: int = 0
    pass_tokens: int = 0
    logits: int = 0

    def note_sizes(self, cache_tokens: int, pass_tokens: int, logits: int) -> None:
        """Keep the largest sizes."""
        self.cache_tokens = max(self.cache_tokens, cache_tokens)
        self.pass_tokens = max(self.pass_tokens, pass_tokens)
        self.logits = max(self.logits, logits)


class ConstrainedDecoder:
    """Decodes answers under a grammar: sentences are added at any time, `step` runs one pass over them.

    It is used by one thread at a time. `decode` does a whole list.

    Args:
        model: with its head, with or without an adapter, in evaluation mode; see `bases.interface.Family`.
        grammar: of the answers, unless a sentence brings its own.
        max_new_tokens: an answer that has as many tokens ends there, in the middle of what is forced, too.
        batch_size: rows at most; sentences beyond wait for a place.
        with_scores: compute the probabilities of triplets; takes a mask for every choice.
        drafts: guess and verify; without it, results are the same and passes more.
        at_once: a waiting sentence takes the next free row. Otherwise it waits until half of them are free:
            prompts are computed together, because a pass for each one's would cost more. That is better for
            a list, the other for those who wait for an answer.
        statistics: counts along.
        pool: compiles grammars; one of its own when None, which is left with `close`.
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
        at_once: bool = False,
        statistics: Statistics | None = None,
        pool: Executor | None = None,
    ) -> None:
        self.model = model
        self.grammar = grammar
        self.vocabulary = grammar.vocabulary
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.with_scores = with_scores
        self.drafts = drafts
        self.at_once = at_once
        self.statistics = statistics or Statistics()
        self._own_pool = ThreadPoolExecutor(1, thread_name_prefix="grammar") if pool is None else None
        self._pool = pool or self._own_pool
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []  # their places in the list are those in the cache
        self._cache = RowCache()
        self._is_filling = False

    def __len__(self) -> int:
        """Return how many sentences wait or are in work."""
        return len(self._waiting) + len(self._rows)

    def add(
        self,
        key: Hashable,
        prompt: list[int],
        sentence: str,
        *,
        grammar: AnswerGrammar | None = None,
        max_new_tokens: int | None = None,
        with_scores: bool | None = None,
    ) -> None:
        """Let a sentence wait for a row; between two steps, at any time.

        Args:
            key: what its answer is known by; no other sentence that waits or is in work has it.
            prompt: its ids, as the tokenizer's `prompt_ids` gives them.
            sentence: what the values come from.
            grammar: of the answer, for the same tokenizer as the decoder's; that one when None.
            max_new_tokens: of the answer; the decoder's when None.
            with_scores: compute the probabilities of its triplets; as the decoder does when None.
        """
        if grammar is not None and grammar.vocabulary is not self.vocabulary:
            raise ValueError("the grammar is for another tokenizer")
        self._waiting.append(
            Row(
                key,
                prompt,
                sentence,
                grammar or self.grammar,
                max_new_tokens=self.max_new_tokens if max_new_tokens is None else max_new_tokens,
                with_scores=self.with_scores if with_scores is None else with_scores,
            )
        )

    def cancel(self, key: Hashable) -> bool:
        """Give up a sentence, between two steps; return whether it was waiting or in work."""
        for row in self._waiting:
            if row.key == key:
                self._waiting.remove(row)
                return True
        place = next((place for place, row in enumerate(self._rows) if row.key == key), None)
        if place is not None:
            self._remove([place])
        return place is not None

    def unfinished(self) -> Iterator[tuple[Hashable, Answer]]:
        """Yield the keys of the sentences in work and what there is of their answers, between two steps."""
        for row in self._rows:
            yield row.key, row.answer

    def clear(self) -> None:
        """Give up all sentences, and the memory of the cache."""
        self._waiting.clear()
        self._rows.clear()
        self._cache = RowCache()

    def close(self) -> None:
        """Give up everything, threads included."""
        self.clear()
        if self._own_pool is not None:
            self._own_pool.shutdown()

    # Not inference_mode: layers may keep what they make here (4-bit on the CPU does), and its tensors would
    # be useless to a training step after an evaluation.
    @torch.no_grad()
    def step(self) -> list[tuple[Hashable, Answer | Exception]]:
        """Run one pass: over new sentences if there are any and rows for them, else over those in work.

        Returns:
            Keys and answers of the sentences that are finished, perhaps none; what went wrong instead of
            the answer, where it concerns one sentence only.

        Raises:
            Exception: the pass itself failed (out of memory, say). Its sentences wait again, so that another
                step begins them anew.
        """
        finished: list[tuple[Hashable, Answer | Exception]] = []
        new = self._admit(finished)
        rows = new or self._rows
        if rows:
            first = len(self._rows) - len(rows)
            try:
                self._pass(rows, first)
            except BaseException:
                self._send_back(first)
                raise
        done = [place for place, row in enumerate(self._rows) if row.done]
        finished += [(self._rows[place].key, self._result(self._rows[place])) for place in reversed(done)]
        self._remove(done)
        return finished

    def decode(
        self,
        prompts: Sequence[list[int]],
        sentences: Sequence[str],
        grammars: Sequence[AnswerGrammar] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Answer prompts, in the order given, as many at a time as there are rows.

        Args:
            prompts: ids of the prompts, as the tokenizer's `prompt_ids` gives them.
            sentences: what the values come from, one for each prompt.
            grammars: of each answer; the decoder's when None.

        Yields:
            The index of a prompt and its answer, as they finish.

        Raises:
            Exception: a pass failed, or a single sentence.
        """
        for index, (prompt, sentence) in enumerate(zip(prompts, sentences, strict=True)):
            self.add(index, prompt, sentence, grammar=None if grammars is None else grammars[index])
        try:
            while len(self):
                for key, answer in self.step():
                    if isinstance(answer, Exception):
                        raise answer
                    assert isinstance(key, int)
                    yield key, answer
        finally:
            self.clear()

    # --- rows

    def _admit(self, finished: list[tuple[Hashable, Answer | Exception]]) -> list[Row]:
        """Give waiting sentences the free rows; those that need no pass are finished."""
        new: list[Row] = []
        tokens = 0
        if not (self.at_once or self._is_filling) and len(self._rows) > self.batch_size // 2:
            return new
        assert self._pool is not None
        while self._waiting and len(self._rows) < self.batch_size:
            tokens += self._waiting[0].prompt_length
            if new and tokens > PROMPT_TOKENS:
                self._is_filling = True
                return new
            row = self._waiting.popleft()
            with _Clock(self.statistics):
                self._guard(row, partial(row.start, self._pool))
            if row.done:
                finished.append((row.key, self._result(row)))
            else:
                new.append(row)
                self._rows.append(row)
        self._is_filling = False
        return new

    def _look_ahead(self) -> None:
        """Let grammars be compiled for sentences that will be next."""
        assert self._pool is not None
        due = (row for row in islice(self._waiting, self.batch_size) if not row.is_compiling)
        for row in islice(due, AHEAD):
            self._guard(row, partial(row.compile, self._pool))

    def _send_back(self, first: int) -> None:
        """Let the rows from a place on wait again, before all others."""
        for row in reversed(self._rows[first:]):
            row.restart()
            self._waiting.appendleft(row)
        del self._rows[first:]

    def _remove(self, places: list[int]) -> None:
        """Free rows; the last ones take their places."""
        origin = list(range(len(self._rows)))  # where what stands in each place has stood
        for place in reversed(places):
            last = origin.pop()
            if place < len(origin):
                origin[place] = last
        moved = [place for place, source in enumerate(origin) if place != source]
        self._cache.move([origin[place] for place in moved], moved)
        self._rows = [self._rows[source] for source in origin]

    def _result(self, row: Row) -> Answer | Exception:
        if row.error is not None:
            return row.error
        self.statistics.answers += 1
        self.statistics.tokens += len(row.committed)
        return row.answer

    def _guard(self, row: Row, work: Callable[[], Any]) -> Any:
        """Do what concerns one row; if it fails, the row ends with that."""
        try:
            return work()
        except MemoryError:
            raise
        except Exception as error:
            row.error, row.done = error, True
            return None

    # --- one pass

    def _pass(self, rows: list[Row], first: int) -> None:
        """Run a pass over rows, which stand together from a place on, and let each commit what it can."""
        for row in rows:
            row.draft = []
            if self.drafts:
                row.prepare_draft()
        inputs, count = lay_out(rows, first, self._cache, self.model.config, self.model.device)
        logits = self.model(**inputs, cache=self._cache).logits.flatten(0, -2)[:count]  # [T, V]
        self.statistics.passes += 1
        self.statistics.row_passes += len(rows)
        self.statistics.note_sizes(self._cache.tokens, inputs["input_ids"].numel(), count)
        chosen = torch.where(logits.amax(-1).isfinite(), logits.argmax(-1), -1)
        if logits.is_cuda:  # computing goes on meanwhile; on a CPU, threads would take its cores from it
            self._look_ahead()
        likeliest = chosen.tolist()
        if -1 in likeliest:
            raise FloatingPointError(NOT_FINITE)
        with _Clock(self.statistics):
            self._advance(rows, logits, likeliest)

    def _advance(self, rows: list[Row], logits: torch.Tensor, likeliest: list[int]) -> None:
        """Let each row commit what its logits (len(draft) + 1 of [T, V], row after row) decide.

        Where the grammar forbids the likeliest token, the rows' other choices are made together.
        """
        asking: list[tuple[Row, int, Generator[int, Choice, None], int]] = []
        first = 0
        for row in rows:
            count = len(row.draft) + 1
            work = row.advance(self._preferred(row, likeliest[first : first + count]))
            place = self._guard(row, partial(next, work, None))
            if place is not None:
                asking.append((row, first, work, place))
            first += count
        while asking:
            choices = self._choose([row for row, *_ in asking], logits[[a[1] + a[3] for a in asking]])
            still: list[tuple[Row, int, Generator[int, Choice, None], int]] = []
            for (row, start, work, _), choice in zip(asking, choices, strict=True):
                place = self._guard(row, partial(_send, work, choice))
                if place is not None:
                    still.append((row, start, work, place))
            asking = still

    def _preferred(self, row: Row, likeliest: list[int]) -> list[int]:
        """Return what a row shall take for the model's choices (a benchmark has another opinion)."""
        return likeliest

    def _choose(self, rows: list[Row], logits: torch.Tensor) -> list[Choice]:
        """Return the likeliest token that each row's grammar allows, from its logits [R, V]."""
        bits = packed_masks(self.vocabulary, [row.matcher for row in rows])
        allowed = _unpack(bits, self.vocabulary.size, logits.device)
        scores = logits.float().masked_fill(~allowed, -math.inf)
        chosen = scores.argmax(-1)
        if not any(row.with_scores for row in rows):
            return [Choice(token, 0.0) for token in chosen.tolist()]
        # The log probability of a choice, of all tokens that end the value if it does.
        quotes = self._quotes(logits.device)
        ending = scores.masked_fill(~quotes, -math.inf).logsumexp(-1)
        own = scores.gather(-1, chosen[:, None])[:, 0]
        own = torch.where(quotes[chosen], ending, own) - scores.logsumexp(-1)
        return [Choice(*pair) for pair in zip(chosen.tolist(), own.tolist(), strict=True)]

    def _quotes(self, device: torch.device) -> torch.Tensor:
        """Return which tokens end a value, [V] bool."""
        return torch.from_numpy(self.vocabulary.starts_with_quote).to(device)


def _unpack(bits: np.ndarray, size: int, device: torch.device) -> torch.Tensor:
    """Turn packed masks into [R, V] bool on a device; only the bits travel there."""
    if device.type == "cpu":
        return torch.from_numpy(unpack_masks(bits, size))
    octets = torch.from_numpy(bits.view(np.uint8)).to(device)
    places = torch.arange(8, dtype=torch.uint8, device=device)
    return (octets[..., None] >> places & 1).flatten(1)[:, :size].bool()


def _send(work: Generator[int, Choice, None], choice: Choice) -> int | None:
    """Let a row go on with a choice; return where it asks for the next one, None for nowhere."""
    try:
        return work.send(choice)
    except StopIteration:
        return None


class _Clock:
    """Adds the time within to `constraint_seconds`."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._statistics.constraint_seconds += time.perf_counter() - self._started

"""Constrained greedy decoding: forced tokens cost no pass of their own, drafts are verified in one pass.

A step of a batch is one forward pass. Each row puts into it the tokens that it has committed since the last
one (its own choice, and what the grammar forces after it) and a draft of what may follow. From the logits,
the row commits what one-token-at-a-time decoding would: forced tokens without asking, else the likeliest
token that the grammar allows; the draft serves as long as it says the same.

Many rows on a card are in two groups that take turns: while the device computes the pass of one, the host
reads what came of the other's, and asks for its next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch

from extraction.decoding.choosing import Chooser
from extraction.decoding.grammar import AnswerGrammar
from extraction.decoding.group import Flight, Group
from extraction.decoding.passes import lay_out
from extraction.decoding.row import MAX_DRAFT, Answer, Choice, Row
from extraction.decoding.transfer import Fetched, is_card

# Prompt tokens of a pass: more hardly speed a device up, and take memory.
PROMPT_TOKENS = 4096
# Grammars of waiting sentences that are prepared while a pass computes on a card.
AHEAD = 16
# Rows from which on two groups are worth it: a pass over half of them still keeps a card busy.
ENOUGH_FOR_TWO = 32

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
        at_once: a waiting sentence takes the next free row. Otherwise it waits until many of them are free:
            prompts are computed together, because a pass for each one's would cost more. That is better for
            a list, the other for those who wait for an answer.
        statistics: counts along.
        pool: compiles grammars; one of its own when None, which is left with `close`.
        groups: of rows that take turns, 1 or 2; None for what suits the device. With two, `step` comes back
            while passes are under way.
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
        groups: int | None = None,
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
        self._finished: list[tuple[Hashable, Answer | Exception]] = []  # to be handed out
        device = torch.device(getattr(model, "device", "cpu"))
        self.chooser = Chooser(self.vocabulary, device)
        on_card = is_card(device)
        if groups is None:
            # Who waits for an answer has few rows as a rule, and a pass over few costs as much as over more.
            groups = 2 if on_card and not at_once and batch_size >= ENOUGH_FOR_TWO else 1
        # While a card computes, the host is free; on a CPU, threads would take the model's cores from it.
        self._looks_ahead = on_card or groups > 1
        # Share of the rows from which on others have to wait for company. Two groups fare better with fewer
        # prompts at a time: while a long pass computes, the host has little to do.
        self._full = 1 / 2 if groups == 1 else 3 / 4
        self._groups = deque(Group((batch_size + other) // groups) for other in range(groups))

    @property
    def _rows(self) -> list[Row]:
        """All in work."""
        return [row for group in self._groups for row in group.rows]

    def __len__(self) -> int:
        """Return how many sentences wait, are in work, or have an answer that nobody got yet."""
        return len(self._waiting) + len(self._finished) + sum(len(group.rows) for group in self._groups)

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
        for group in self._groups:
            for place, row in enumerate(group.rows):
                if row.key == key:
                    row.done = True  # a pass that is under way does nothing to it
                    group.remove([place])
                    return True
        return False

    def unfinished(self) -> Iterator[tuple[Hashable, Answer]]:
        """Yield the keys of the sentences in work and what there is of their answers, between two steps."""
        for row in self._rows:
            yield row.key, row.answer

    def clear(self) -> None:
        """Give up all sentences, and the memory of the cache."""
        self._waiting.clear()
        self._finished.clear()
        self._groups = deque(Group(group.size) for group in self._groups)

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

        With two groups, finish the pass of the one whose turn it is, and begin its next.

        Returns:
            Keys and answers of the sentences that are finished, perhaps none; what went wrong instead of
            the answer, where it concerns one sentence only.

        Raises:
            Exception: the pass itself failed (out of memory, say). Its sentences wait again, so that another
                step begins them anew.
        """
        group = self._turn()
        try:
            self._land(group)
            rows = self._admit(group) or group.rows
            if rows:
                self._pass(rows, group)
            if len(self._groups) == 1:
                self._land(group)
        except BaseException:
            self._send_back(group)
            raise
        finished, self._finished = self._finished, []
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

    def _turn(self) -> Group:
        """Return the group whose turn it is, if it has anything to do; else the other."""
        for _ in range(len(self._groups)):
            self._groups.rotate(-1)
            if self._waiting or self._groups[0].rows:
                break
        return self._groups[0]

    def _admit(self, group: Group) -> list[Row]:
        """Give waiting sentences the free rows of a group; those that need no pass are finished."""
        new: list[Row] = []
        tokens = 0
        if not (self.at_once or group.is_filling) and len(group.rows) > group.size * self._full:
            return new
        assert self._pool is not None
        while self._waiting and len(group.rows) < group.size:
            tokens += self._waiting[0].prompt_length
            if new and tokens > PROMPT_TOKENS:
                group.is_filling = True
                return new
            row = self._waiting.popleft()
            with self._clock():
                self._guard(row, partial(row.start, self._pool))
            if row.done:
                self._finished.append((row.key, self._result(row)))
            else:
                new.append(row)
                group.rows.append(row)
        group.is_filling = False
        return new

    def _look_ahead(self) -> None:
        """Let grammars be compiled for sentences that will be next."""
        assert self._pool is not None
        due = (row for row in islice(self._waiting, self.batch_size) if not row.is_compiling)
        for row in islice(due, AHEAD):
            self._guard(row, partial(row.compile, self._pool))

    def _send_back(self, group: Group) -> None:
        """Let the rows of a pass wait again, before all others."""
        failed, group.passing, group.flight = group.passing, [], None
        places = {row: place for place, row in enumerate(group.rows)}
        failed = [row for row in failed if row in places]
        group.remove(sorted(places[row] for row in failed))
        for row in reversed(failed):
            row.restart()
            self._waiting.appendleft(row)

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

    def _pass(self, rows: list[Row], group: Group) -> None:
        """Ask for a pass over the last rows of a group, or all."""
        group.passing = rows = list(rows)
        for row in rows:
            row.draft = []
            if self.drafts:
                row.prepare_draft()
        first = len(group.rows) - len(rows)
        inputs, count = lay_out(rows, first, group.cache, self.model.config, self.model.device)
        logits = self.model(**inputs, cache=group.cache).logits.flatten(0, -2)[:count]  # [T, V]
        group.flight = Flight(rows, logits, self._fetch(logits))
        self.statistics.passes += 1
        self.statistics.row_passes += len(rows)
        room = sum(each.cache.tokens for each in self._groups)
        count = sum(len(each.flight.logits) for each in self._groups if each.flight)
        self.statistics.note_sizes(room, inputs["input_ids"].numel(), count)
        if self._looks_ahead:
            self._look_ahead()

    def _fetch(self, logits: torch.Tensor) -> Fetched:
        """Ask for the likeliest tokens of logits [T, V], -1 where they are not numbers."""
        return Fetched(torch.where(logits.amax(-1).isfinite(), logits.argmax(-1), -1))

    def _clock(self) -> AbstractContextManager[None]:
        """Return what counts the time within as the constraint's."""
        return _clock(self.statistics)

    def _land(self, group: Group) -> None:
        """Let the rows of a pass that was asked for commit what it decides; take away those that are done."""
        if group.flight is None:
            return
        likeliest = group.flight.likeliest.wait()
        if -1 in likeliest:
            raise FloatingPointError(NOT_FINITE)
        with self._clock():
            self._advance(group.flight.rows, group.flight.logits, likeliest)
        group.flight, group.passing = None, []
        done = [place for place, row in enumerate(group.rows) if row.done]
        for row in [group.rows[place] for place in reversed(done)]:
            self._finished.append((row.key, self._result(row)))
        group.remove(done)

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
            places = [start + place for _, start, _, place in asking]
            choices = self.chooser.choose([row for row, *_ in asking], logits, places)
            still: list[tuple[Row, int, Generator[int, Choice, None], int]] = []
            for (row, start, work, _), choice in zip(asking, choices, strict=True):
                place = self._guard(row, partial(_send, work, choice))
                if place is not None:
                    still.append((row, start, work, place))
            asking = still

    def _preferred(self, row: Row, likeliest: list[int]) -> list[int]:
        """Return what a row shall take for the model's choices (a benchmark has another opinion)."""
        return likeliest


def _send(work: Generator[int, Choice, None], choice: Choice) -> int | None:
    """Let a row go on with a choice; return where it asks for the next one, None for nowhere."""
    try:
        return work.send(choice)
    except StopIteration:
        return None


@contextmanager
def _clock(statistics: Statistics) -> Iterator[None]:
    """Add the time within to `constraint_seconds`."""
    started = time.perf_counter()
    try:
        yield
    finally:
        statistics.constraint_seconds += time.perf_counter() - started

"""What the engine works on: a request's sentences, cut into pieces as rows become free for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from extraction.decoding.decoder import Answer
from extraction.decoding.grammar import Constraint
from extraction.result import Extraction


class Question(NamedTuple):
    """A sentence, and what is wanted of it.

    Attributes:
        prompt: the whole context that the model reads.
        constraint: what the answer may hold; None lets the model write what it likes.
    """

    prompt: str
    constraint: Constraint | None
    with_scores: bool = False
    min_score: float = 0.0


class Outcome(NamedTuple):
    """What came of a question, and the tokens that it took."""

    extraction: Extraction
    prompt_tokens: int = 0
    answer_tokens: int = 0
    failure: str | None = None  # its kind, for the metrics
    whole: bool = True  # else it is a beginning, whose triplets stay as they are


class Piece(NamedTuple):
    """A part of a sentence that fits into a prompt: what one row decodes."""

    offset: int
    text: str
    input_ids: list[int]
    constraint: Constraint | None = None  # of its answer: the question's, or a part of it
    place: int = 0  # among the pieces of its question


@dataclass
class Job:
    """The questions of one request.

    Args:
        model: the name of the one that is asked.
        questions: in their order.
        deliver: called in the engine's thread with the number of a question and its outcome.
        growing: deliver beginnings of answers, too, whenever a triplet has been added.
    """

    model: str
    questions: Sequence[Question]
    deliver: Callable[[int, Outcome], None]
    growing: bool = False
    cancelled: bool = False  # nobody waits for what is left
    submitted: float = field(default_factory=time.perf_counter)
    begun: int = 0  # questions
    finished: int = 0

    @property
    def waiting(self) -> int:
        """Questions not begun."""
        return 0 if self.cancelled else len(self.questions) - self.begun

    @property
    def open(self) -> int:
        """Questions not finished."""
        return 0 if self.cancelled else len(self.questions) - self.finished


class Work:
    """A question in work: the answers to its pieces, until there are all."""

    def __init__(self, job: Job, number: int) -> None:
        self.job = job
        self.number = number
        self.question = job.questions[number]
        self.parts: list[tuple[Piece, Answer]] = []
        self.failure: tuple[str, str] | None = None  # kind and message
        self.source_truncated = False
        self.delivered = False
        self.shown = 0  # triplets that have been delivered as a beginning
        self._begun = 0  # pieces so far
        self._out = 0  # pieces without an answer
        self._whole = False  # there are no more pieces

    def pieces(self, split: Iterator[Piece]) -> Iterator[tuple[Work, Piece]]:
        """Yield the pieces of the sentence; none after a failure, or when nobody waits any more."""
        following = next(split, None)
        while following is not None:
            piece, following = following._replace(place=self._begun), next(split, None)
            self._whole = following is None  # known at once: its answer must not wait for the next turn
            self._begun += 1
            self._out += 1
            yield self, piece
            if self.failure is not None or self.job.cancelled:
                break
        self._whole = True

    def beginning(self, unfinished: Mapping[int, tuple[Piece, Answer]]) -> list[tuple[Piece, Answer]]:
        """Return the parts of the answer, from its start, whose triplets will stay as they are.

        Args:
            unfinished: pieces in work by their places, with what there is of their answers.
        """
        assert self.question.constraint is not None
        only_piece = self._whole and self._begun == 1
        if self.question.with_scores and (self.question.constraint.free_values or not only_piece):
            return []  # the same triplet, found once more, may raise its score
        finished = {part[0].place: part for part in self.parts}
        parts = []
        for place in range(self._begun):
            if (part := finished.get(place) or unfinished.get(place)) is not None:
                parts.append(part)
            if place not in finished:
                break
        return parts

    def take(self, piece: Piece, answer: Answer) -> None:
        """Take the answer to a piece."""
        self._out -= 1
        self.parts.append((piece, answer))

    def fail(self, kind: str, message: str) -> None:
        """Take note that there is no answer to a piece."""
        self._out -= 1
        self.failure = self.failure or (kind, message)

    @property
    def done(self) -> bool:
        """Whether every piece has its answer, so far as there will be more."""
        return self._out == 0 and (self._whole or self.failure is not None)

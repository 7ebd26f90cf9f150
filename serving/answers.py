"""A request's sentences on their way: questions to the engine, results back on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from extraction.decoding.grammar import Constraint
from extraction.files import result_fields
from extraction.records import typed_problem
from extraction.result import Extraction
from serving.engine import Engine
from serving.errors import RequestError
from serving.jobs import Job, Outcome, Question
from serving.lane import Lane
from serving.limits import Limits
from serving.schemas import Choices
from task.prompt import build_prompt
from utils.command_line import closest_name


class Wanted(NamedTuple):
    """What is wanted of answers."""

    constraint: Constraint | None
    min_score: float
    scores: bool
    spans: bool

    @property
    def with_scores(self) -> bool:
        """Whether scores have to be computed."""
        return self.constraint is not None and (self.scores or self.min_score > 0)


def choose(lane: Lane, choices: Choices, predicates: Sequence[str] | None = None) -> Wanted:
    """Return what a request wants of a model.

    Args:
        lane: the model's.
        choices: the request's.
        predicates: a further choice of them.

    Raises:
        RequestError: the model can't write what is chosen.
    """
    constraint = lane.extractor.constraint
    for chosen in (choices.predicates, predicates):
        if chosen is not None:
            constraint = _restrict(constraint, chosen)
    if choices.relations is not None:
        free_values = constraint is not None and constraint.free_values
        constraint = Constraint(choices.relations.to_schema(), free_values)
    min_score = choices.min_score
    if min_score is None:
        min_score = lane.extractor.min_score if choices.relations is None else 0.0
    return Wanted(constraint, min_score, choices.scores, choices.spans)


def _restrict(constraint: Constraint | None, predicates: Sequence[str]) -> Constraint:
    if constraint is None or constraint.schema is None:
        raise RequestError(
            400, "open_schema", "这个模型的谓语不受限制，不能只选谓语，请改写 schema。", param="predicates"
        )
    known = {each.predicate for each in constraint.schema.combinations}
    unknown = [each for each in predicates if each not in known]
    if unknown:
        hint = closest_name(unknown[0], known)
        hint = f"，是不是 {hint}？" if hint else "（可用的见 /v1/models）。"
        raise RequestError(
            400, "unknown_predicate", f"模型的 schema 里没有谓语 {unknown[0]!r}{hint}", param="predicates"
        )
    wanted = set(predicates)
    kept = [each for each in constraint.schema.combinations if each.predicate in wanted]
    return Constraint(constraint.schema.restricted(kept), constraint.free_values)


def check_size(sentences: Sequence[str], limits: Limits) -> None:
    """Refuse too much at a time.

    Raises:
        RequestError: with the limit.
    """
    if len(sentences) > limits.sentences:
        raise RequestError(
            413,
            "too_many_sentences",
            f"一次至多 {limits.sentences} 句，现在是 {len(sentences)} 句，请分几次发送。",
            param="texts",
            limit=limits.sentences,
        )
    if (characters := sum(map(len, sentences))) > limits.characters:
        raise RequestError(
            413,
            "too_many_characters",
            f"一次至多 {limits.characters:,} 个字符，现在是 {characters:,} 个，请分几次发送。",
            param="texts",
            limit=limits.characters,
        )


def make_question(prompt: str, wanted: Wanted) -> Question:
    """Return the question for a prompt."""
    return Question(prompt, wanted.constraint, wanted.with_scores, wanted.min_score)


class Answers:
    """The outcomes of questions, as they come.

    Args:
        engine: asked.
        model: by name.
        questions: in their order.
        seconds: to wait at most.
        growing: beginnings of answers are wanted, too.
    """

    def __init__(
        self,
        engine: Engine,
        model: str,
        questions: Sequence[Question],
        seconds: float,
        growing: bool = False,
    ) -> None:
        self.timed_out = False
        self._engine = engine
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._arrived: asyncio.Queue[tuple[int, Outcome]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._open = set(range(len(questions)))
        self.job = Job(model, questions, self._deliver, growing)
        if questions:
            engine.submit(self.job)

    def _deliver(self, number: int, outcome: Outcome) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to read it
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, (number, outcome))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Outcome]]:
        """Yield the number of a question and its outcome; when time is up, an error for each that is left."""
        try:
            while self._open:
                try:
                    async with asyncio.timeout(max(0.0, self._end - time.monotonic())):
                        number, outcome = await self._arrived.get()
                except TimeoutError:
                    self.timed_out = True
                    error = Extraction(error=f"超过了 {self._seconds:g} 秒的时限")
                    for number in sorted(self._open):
                        yield number, Outcome(error, failure="timeout")
                    return
                if number in self._open:
                    if outcome.whole:
                        self._open.discard(number)
                    yield number, outcome
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give up what is left."""
        if self._open:
            self._engine.cancel(self.job)


class Extractions:
    """The results of sentences, in the shape of the command's output, as they come.

    Args:
        engine: asked.
        lane: the model's.
        sentences: in their order; one that is none (empty, say) has its error at once.
        wanted: of the answers.
        seconds: to wait at most.
    """

    def __init__(
        self, engine: Engine, lane: Lane, sentences: Sequence[str], wanted: Wanted, seconds: float
    ) -> None:
        self._sentences = sentences
        self._wanted = wanted
        self._problems = {
            number: problem
            for number, sentence in enumerate(sentences)
            if (problem := typed_problem(sentence)) is not None
        }
        self._good = [number for number in range(len(sentences)) if number not in self._problems]
        questions = [make_question(build_prompt(sentences[number]), wanted) for number in self._good]
        self.answers = Answers(engine, lane.name, questions, seconds)

    async def __aiter__(self) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """Yield the number of a sentence and its result, as they finish."""
        for number, problem in self._problems.items():
            yield number, {"text": self._sentences[number], "triplets": [], "error": problem}
        wanted = self._wanted
        async for place, outcome in self.answers:
            number = self._good[place]
            spans = wanted.spans and bool(outcome.extraction.spans)
            fields = result_fields(outcome.extraction, wanted.scores and wanted.with_scores, spans)
            yield number, {"text": self._sentences[number], **fields}

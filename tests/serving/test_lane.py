"""Rows and turns: who gets a row, what a failure costs, what a request's cancelling frees."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import pytest
import torch

from extraction.decoding.decoder import ConstrainedDecoder
from extraction.extractor import TripletExtractor
from serving.errors import RequestError
from serving.jobs import Job, Outcome, Question
from serving.lane import Lane
from serving.limits import Limits
from serving.metrics import Metrics
from task.prompt import build_prompt
from tests.helpers.extraction_samples import FILM, FILM_TRIPLETS, NOVEL, NOVEL_TRIPLETS, RAIN
from tests.helpers.service import make_engine
from utils.memory import give_back_free_memory


class Asker:
    """A lane, and what it has delivered."""

    def __init__(self, extractor: TripletExtractor, capacity: int) -> None:
        self.metrics = Metrics()
        self.lane = Lane("tiny", extractor, lambda: None, self.metrics)
        self.lane.capacity = capacity
        self.order: list[tuple[str, int]] = []
        self.outcomes: dict[str, dict[int, Outcome]] = defaultdict(dict)

    def ask(self, name: str, *sentences: str) -> Job:
        def deliver(number: int, outcome: Outcome) -> None:
            assert number not in self.outcomes[name]
            self.order.append((name, number))
            self.outcomes[name][number] = outcome

        constraint = self.lane.extractor.constraint
        job = Job("tiny", [Question(build_prompt(text), constraint) for text in sentences], deliver)
        self.lane.take(job)
        return job

    def work(self) -> None:
        while self.lane.busy:
            self.lane.step()

    def triplets(self, name: str, number: int = 0) -> Any:
        return self.outcomes[name][number].extraction.triplets


@pytest.fixture
def asker(extractor: TripletExtractor) -> Asker:
    return Asker(extractor, 2)


def test_a_long_request_does_not_hold_up_a_short_one(asker: Asker) -> None:
    asker.ask("long", *[FILM] * 8)
    asker.lane.step()
    asker.ask("short", NOVEL)
    asker.work()
    assert asker.order.index(("short", 0)) <= 3
    assert asker.triplets("short") == NOVEL_TRIPLETS
    assert all(asker.triplets("long", number) == FILM_TRIPLETS for number in range(8))


def test_nor_does_a_long_sentence(asker: Asker) -> None:
    asker.ask("long", FILM * 12)  # in as many pieces
    asker.lane.step()
    asker.ask("short", NOVEL)
    asker.work()
    assert asker.order == [("short", 0), ("long", 0)]
    assert asker.triplets("long") == FILM_TRIPLETS
    assert asker.outcomes["long"][0].answer_tokens > 2 * asker.outcomes["short"][0].answer_tokens


def test_an_answer_does_not_wait_for_the_turn_of_the_next(asker: Asker) -> None:
    asker.lane.capacity = 1
    for name in "abcdef":
        asker.ask(name, NOVEL)
    while not asker.order:
        asker.lane.step()
    assert asker.order == [("a", 0)] and not asker.lane._rows


def test_a_sentence_joins_while_others_are_in_the_middle(asker: Asker) -> None:
    asker.lane.capacity = 4
    asker.ask("first", FILM)
    for _ in range(3):
        asker.lane.step()
    asker.ask("second", NOVEL)
    asker.lane.step()
    assert asker.lane.rows == 2
    asker.work()
    assert asker.triplets("first") == FILM_TRIPLETS
    assert asker.triplets("second") == NOVEL_TRIPLETS


def test_what_nobody_waits_for_is_given_up(asker: Asker) -> None:
    given_up = asker.ask("given up", *[FILM] * 5)
    asker.lane.step()
    assert asker.lane.rows == 2
    given_up.cancelled = True
    asker.ask("next", NOVEL)
    asker.lane.step()
    assert asker.lane.rows == 1
    asker.work()
    assert list(asker.outcomes) == ["next"]
    assert asker.triplets("next") == NOVEL_TRIPLETS


def test_short_memory_halves_the_rows_and_loses_nothing(
    asker: Asker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = ConstrainedDecoder._pass

    def cramped(self: ConstrainedDecoder, rows: list[Any], *rest: Any) -> None:
        if len(self._rows) > 2:
            raise torch.OutOfMemoryError
        whole(self, rows, *rest)

    monkeypatch.setattr(ConstrainedDecoder, "_pass", cramped)
    asker.lane.capacity = 8
    asker.ask("many", *[FILM, NOVEL, RAIN, FILM] * 2)
    asker.work()
    assert [asker.triplets("many", number) for number in range(8)] == [
        FILM_TRIPLETS, NOVEL_TRIPLETS, [], FILM_TRIPLETS,
    ] * 2  # fmt: skip
    assert asker.lane.capacity == 2
    assert "从 8 减到 4" in caplog.text and "从 4 减到 2" in caplog.text


def test_no_memory_at_all_is_the_sentences_error(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ConstrainedDecoder, "_pass", full)
    asker.ask("two", FILM, NOVEL)
    asker.work()
    outcomes = asker.outcomes["two"].values()
    assert [outcome.extraction.error for outcome in outcomes] == ["内存不足，这一句单独生成也放不下"] * 2
    assert [outcome.failure for outcome in outcomes] == ["out_of_memory"] * 2
    monkeypatch.undo()
    asker.ask("after", NOVEL)
    asker.work()
    assert asker.triplets("after") == NOVEL_TRIPLETS


def test_a_sentence_that_breaks_every_pass_fails_alone(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ConstrainedDecoder._pass

    def breaking(self: ConstrainedDecoder, rows: list[Any], *rest: Any) -> None:
        if any("编剧" in row._sentence for row in self._rows):
            raise RuntimeError("CUDA error: what a sentence")
        whole(self, rows, *rest)

    monkeypatch.setattr(ConstrainedDecoder, "_pass", breaking)
    asker.lane.capacity = 3
    asker.ask("good", FILM, NOVEL)
    asker.ask("bad", "他是编剧。")
    asker.work()
    assert asker.triplets("good", 0) == FILM_TRIPLETS and asker.triplets("good", 1) == NOVEL_TRIPLETS
    assert asker.outcomes["bad"][0].extraction.error == "RuntimeError: CUDA error: what a sentence"


def test_a_prompt_without_room_for_a_sentence(asker: Asker) -> None:
    job = asker.ask("plain", NOVEL)
    long = Question(build_prompt(NOVEL, "抽取三元组" * 100), job.questions[0].constraint)
    asker.lane.take(Job("tiny", [long], lambda _, outcome: asker.order.append((str(outcome.failure), 0))))
    asker.work()
    assert ("instruction", 0) in asker.order and ("plain", 0) in asker.order


def test_an_engine_that_drains_answers_what_it_took(extractor: TripletExtractor) -> None:
    gate, done = threading.Event(), threading.Event()
    engine = make_engine([("tiny", extractor)], Limits(), Metrics(), 1, before_step=gate.wait)
    with pytest.raises(RequestError, match="模型还在加载"):
        engine.find(None)
    engine.start()
    gate.set()
    while engine.state == "loading":
        pass
    gate.clear()
    question = Question(build_prompt(RAIN), extractor.constraint)
    engine.submit(Job("tiny", [question], lambda *_: done.set()))
    engine.drain()
    with pytest.raises(RequestError, match="服务正在停止") as refused:
        engine.submit(Job("tiny", [question], lambda *_: None))
    assert refused.value.status_code == 503
    assert not engine.join(0.1)
    gate.set()
    assert engine.join(20) and done.is_set() and engine.idle


def test_an_error_of_the_engine_itself_answers_everybody(extractor: TripletExtractor) -> None:
    def broken() -> None:
        raise KeyError("lost")

    arrived: list[Outcome] = []
    engine = make_engine([("tiny", extractor)], Limits(), Metrics(), 1, before_step=broken)
    engine.start()
    while engine.state == "loading":
        pass
    question = Question(build_prompt(RAIN), extractor.constraint)
    engine.submit(Job("tiny", [question] * 2, lambda _, outcome: arrived.append(outcome)))
    engine.drain()
    assert engine.join(20)
    assert [outcome.failure for outcome in arrived] == ["engine"] * 2


def test_how_fast_it_is_does_not_count_the_time_without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("serving.metrics.time.monotonic", lambda: now)
    metrics = Metrics()
    assert metrics.rate() == 0
    for moment in (0.0, 1000.0, 1001.0, 1002.0, 1003.0):
        now = moment
        metrics.sentence("tiny", "ok", 1, 1)
    now = 1004.0
    assert metrics.rate() == 1.0
    now = 1100.0
    assert metrics.rate() == 0


def test_free_memory_goes_back_to_the_system(
    extractor: TripletExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[bool] = []
    monkeypatch.setattr("serving.engine.TIDY", 0.0)
    monkeypatch.setattr("serving.engine.give_back_free_memory", lambda: called.append(True))
    engine = make_engine([("tiny", extractor)], Limits(), Metrics(), 1)
    engine.start()
    while engine.state == "loading":
        pass
    arrived: list[Outcome] = []
    question = Question(build_prompt(RAIN), extractor.constraint)
    engine.submit(Job("tiny", [question], lambda _, outcome: arrived.append(outcome)))
    engine.drain()
    assert engine.join(20) and len(arrived) == 1 and called
    give_back_free_memory()  # the real one

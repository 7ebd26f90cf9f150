"""How much of the host's work a device hides: a watched card, or one that is only simulated.

The simulated one computes nothing: its passes take as long as they are said to. Time is simulated too: what
the host does takes the CPU time of its thread, what other threads do for it is done beside, nobody sleeps.
So the figures do not depend on what else the machine is busy with. The answers are those of the data.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from extraction.decoding.decoder import ConstrainedDecoder
from extraction.decoding.grammar import AnswerGrammar
from extraction.decoding.group import Group
from extraction.decoding.masks import packed_masks
from extraction.decoding.row import Choice, Row
from extraction.decoding.transfer import Fetched

ROUND_TRIP = 0.0003  # seconds, to a card and back, of a few numbers
MASK_THREADS = 4
Span = tuple[float, float]  # seconds of the host's clock


class Speed(NamedTuple):
    """Of a simulated device, in milliseconds: a pass takes the larger of `least` and what its tokens take."""

    least: float
    per_1000_tokens: float
    launch: float  # that the host is busy asking for a pass


class Clock:
    """The host's time: the CPU time of this thread, and what it would have waited."""

    def __init__(self) -> None:
        self._waited = 0.0

    def now(self) -> float:
        """Return seconds."""
        return time.thread_time() + self._waited

    def wait(self, until: float) -> None:
        """Let time pass."""
        self._waited += max(0.0, until - self.now())

    def forget(self, seconds: float) -> None:
        """Take back time that this thread took for what another one would have done."""
        self._waited -= seconds


class _Ready:
    """A future of `Pool`."""

    def __init__(self, clock: Clock, due: float, value: Any) -> None:
        self._clock, self._due, self._value = clock, due, value

    def result(self) -> Any:
        """Return it when it is there."""
        self._clock.wait(self._due)
        return self._value


class Pool:
    """Threads that compile grammars, beside the host's own."""

    def __init__(self, clock: Clock, threads: int) -> None:
        self._clock = clock
        self._free = [0.0] * threads

    def submit(self, work: Any, *args: Any) -> _Ready:
        """Have work done; the clock counts it for the thread that is free first."""
        begun = self._clock.now()
        value = work(*args)
        took = self._clock.now() - begun
        self._clock.forget(took)
        self._free.sort()
        self._free[0] = max(self._free[0], begun) + took
        return _Ready(self._clock, self._free[0], value)


class Simulated:
    """A model without weights on a device without kernels; it says what the data's answers say.

    Args:
        config: of the model that it stands for.
        speed: of the device.
        scripts: ids of the answers, by the keys of rows.
        clock: of the host.
    """

    device = torch.device("cpu")

    def __init__(self, config: Any, speed: Speed, scripts: Sequence[list[int]], clock: Clock) -> None:
        self.config = config
        self.speed = speed
        self.clock = clock
        self.scripts = scripts
        self.rows: Sequence[Row] = ()  # of the next pass
        self.said: list[int] = []
        self.spans: list[Span] = []
        self._logits = torch.zeros(1, config.vocab_size)

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        begun = self.clock.now()
        took = max(self.speed.least, self.speed.per_1000_tokens * input_ids.numel() / 1000) / 1000
        start = max(begun, self.spans[-1][1] if self.spans else 0.0)
        self.spans.append((start, start + took))
        self.said = [token for row in self.rows for token in self._say(row)]
        self.clock.wait(begun + self.speed.launch / 1000)
        return SimpleNamespace(logits=self._logits.expand(len(self.said), -1))

    def _say(self, row: Row) -> list[int]:
        """Return what is said after a row's last pending token and after each of its draft."""
        assert isinstance(row.key, int)
        begun, count = len(row.committed), len(row.draft) + 1
        known = self.scripts[row.key][begun : begun + count]
        return known + [0] * (count - len(known))


class _Due(Fetched):
    """What a simulated device has computed at a time."""

    def __init__(self, model: Simulated) -> None:
        self.said = model.said
        self._clock, self._due = model.clock, model.spans[-1][1]

    def wait(self) -> list:
        self._clock.wait(self._due)
        return self.said


class SimulatedDecoder(ConstrainedDecoder):
    """Decodes with a `Simulated` model as if on a card, and notes when the host works on the constraint."""

    def __init__(self, model: Simulated, *args: Any, **options: Any) -> None:
        pool: Any = Pool(model.clock, 4)
        super().__init__(model, *args, pool=pool, **options)
        self._looks_ahead = True
        self.constraint: list[Span] = []
        self.chooser.choose = self._choose  # type: ignore[method-assign]
        self._said: list[int] = []

    def _pass(self, rows: list[Row], group: Group) -> None:
        self.model.rows = rows
        super()._pass(rows, group)

    def _fetch(self, logits: torch.Tensor) -> Fetched:
        return _Due(self.model)

    def _land(self, group: Group) -> None:
        if group.flight is not None:
            assert isinstance(group.flight.likeliest, _Due)
            self._said = group.flight.likeliest.said
        super()._land(group)

    def _choose(self, rows: Sequence[Row], logits: torch.Tensor, places: Sequence[int]) -> list[Choice]:
        whole, own = time.process_time(), time.thread_time()
        packed_masks(self.vocabulary, [row.matcher for row in rows])
        others = time.process_time() - whole - (time.thread_time() - own)  # llguidance's threads
        self.model.clock.wait(self.model.clock.now() + others / MASK_THREADS + ROUND_TRIP)
        return [Choice(self._said[place], 0.0) for place in places]

    @contextmanager
    def _clock(self) -> Iterator[None]:
        begun = self.model.clock.now()
        yield
        ended = self.model.clock.now()
        self.constraint.append((begun, ended))
        self.statistics.constraint_seconds += ended - begun


class Watch:
    """Times the passes of a real model, and the host's work on the constraint, of one decoder.

    Args:
        decoder: that has not begun yet.
    """

    def __init__(self, decoder: ConstrainedDecoder) -> None:
        self.constraint: list[Span] = []
        self._model, self._count = decoder.model, decoder._clock
        self.config, self.device = self._model.config, self._model.device
        self._spans: list[Span] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._on_card = self.device.type == "cuda"
        if self._on_card:
            self._base = torch.cuda.Event(enable_timing=True)
            self._base.record()
            self._base.synchronize()
            self._based = time.perf_counter()
        decoder.model = self
        decoder._clock = self._clock  # type: ignore[method-assign]

    def __call__(self, **inputs: Any) -> Any:
        if not self._on_card:
            started = time.perf_counter()
            outputs = self._model(**inputs)
            self._spans.append((started, time.perf_counter()))
            return outputs
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        outputs = self._model(**inputs)
        ended.record()
        self._events.append((begun, ended))
        return outputs

    @contextmanager
    def _clock(self) -> Iterator[None]:
        begun = time.perf_counter()
        with self._count():
            yield
        self.constraint.append((begun, time.perf_counter()))

    @property
    def passes(self) -> list[Span]:
        """When passes were computed."""
        if not self._on_card:
            return self._spans
        torch.cuda.synchronize()
        seconds = [[self._base.elapsed_time(event) / 1000 for event in pair] for pair in self._events]
        return [(self._based + begun, self._based + ended) for begun, ended in seconds]


def exposed(work: Sequence[Span], busy: Sequence[Span]) -> float:
    """Return the seconds of some work of the host during which the device had nothing to do.

    Args:
        work: in order, one after the other.
        busy: of the device, in order, one after the other.
    """
    hidden, first = 0.0, 0
    for begun, ended in work:
        while first < len(busy) and busy[first][1] <= begun:
            first += 1
        for start, end in busy[first:]:
            if start >= ended:
                break
            hidden += min(end, ended) - max(start, begun)
    return sum(ended - begun for begun, ended in work) - hidden


def compare(
    config: Any, grammar: AnswerGrammar, lines: Sequence[Any], rows: int, speed: Speed, with_scores: bool
) -> dict[str, dict[str, float]]:
    """Answer lines beside a simulated device, with one group of rows and with two.

    Args:
        config: of the model that it stands for.
        grammar: of the answers.
        lines: with `prompt`, `sentence` and `answer`.
        rows: in work at a time.
        speed: of the device.
        with_scores: compute scores too: a mask for each choice.

    Returns:
        Figures by the number of groups.
    """
    found = {}
    for groups in (1, 2):
        clock = Clock()
        model = Simulated(config, speed, [line.answer for line in lines], clock)
        decoder = SimulatedDecoder(
            model, grammar, max_new_tokens=256, batch_size=rows, with_scores=with_scores, groups=groups
        )
        begun, own = clock.now(), time.thread_time()
        for _ in decoder.decode([line.prompt for line in lines], [line.sentence for line in lines]):
            pass
        wall, own = clock.now() - begun, time.thread_time() - own
        passes = decoder.statistics.passes
        found[str(groups)] = {
            "per_second": round(len(lines) / wall, 1),
            "busy": round(sum(end - start for start, end in model.spans) / wall, 4),
            "constraint": round(decoder.statistics.constraint_seconds / wall, 4),
            "exposed_constraint": round(exposed(decoder.constraint, model.spans) / wall, 4),
            "host_ms_a_pass": round(own / passes * 1000, 2),
            "passes": passes,
        }
    return found


FIGURES = {
    "per_second": "句/秒",
    "busy": "设备在算的时间",
    "constraint": "约束占的时间",
    "exposed_constraint": "其中设备空闲的",
    "host_ms_a_pass": "主机每次前向的 CPU 毫秒（含编译语法，不含启动）",
}


def table(found: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    """Return the figures of `compare` for people."""
    rows: list[tuple[str, ...]] = [("模拟的设备", "一组", "两组轮流")]
    for name, label in FIGURES.items():
        values = [figures[name] for figures in found.values()]
        rows.append((label, *(f"{value:.1%}" if max(values) <= 1 else f"{value:g}" for value in values)))
    return rows

"""The engine: one thread owns the model, a bounded queue leads to it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from extraction.result import Extraction
from serving.errors import RequestError
from serving.jobs import Job, Outcome
from serving.lane import Lane
from serving.limits import Limits
from serving.metrics import Metrics
from utils.memory import give_back_free_memory

logger = logging.getLogger(__name__)

STEPS = 8  # of a model before another one that waits has its turn: changing the adapter takes time, too
TIDY = 60.0  # seconds of work after which free memory goes back to the system; that takes some milliseconds
State = Literal["loading", "ready", "draining", "failed"]


class Engine:
    """Answers jobs from many threads in one of its own.

    Args:
        load: returns the lanes, the default one first; called in the engine's thread.
        limits: how many sentences may wait.
        metrics: counts along.
    """

    def __init__(self, load: Callable[[], Sequence[Lane]], limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.state: State = "loading"
        self.failure: BaseException | None = None  # of loading
        self.lanes: dict[str, Lane] = {}
        self.ready_since = 0.0  # Unix time
        self._load = load
        self._jobs: list[Job] = []  # not finished
        self._new: deque[Job] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        metrics.watch("queue_sentences", "Sentences that wait for a row", lambda: self.waiting)
        metrics.watch("rows_in_use", "Rows being decoded", lambda: self.rows)
        metrics.watch("rows_capacity", "Rows that can be decoded together", lambda: self.capacity)

    # --- for everybody

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Sentences that wait for a row."""
        return sum(job.waiting for job in list(self._jobs))

    @property
    def rows(self) -> int:
        """Rows being decoded."""
        return sum(lane.rows for lane in self.lanes.values())

    @property
    def capacity(self) -> int:
        """Rows that one model can decode together."""
        return max((lane.capacity for lane in self.lanes.values()), default=0)

    @property
    def idle(self) -> bool:
        """Whether no job is open."""
        return not any(job.open for job in list(self._jobs))

    def find(self, name: str | None) -> Lane:
        """Return the lane of a model; the first one for None.

        Raises:
            RequestError: the engine is not ready, or has no such model.
        """
        if self.state != "ready":
            said = {"draining": "服务正在停止，不再接受新的请求"}.get(self.state, "模型还在加载")
            code = "draining" if self.state == "draining" else "loading"
            raise RequestError(503, code, f"{said}，请稍后再试。", retry_after=5)
        if name is None:
            return next(iter(self.lanes.values()))
        if name not in self.lanes:
            known = "、".join(self.lanes)
            raise RequestError(
                404, "model_not_found", f"没有模型 {name[:100]!r}，现有的是：{known}。", param="model"
            )
        return self.lanes[name]

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            RequestError: too many sentences wait already, or the engine is not ready.
        """
        with self._changed:
            self.find(job.model)
            waiting, limit = self.waiting, self.limits.queue
            if waiting + len(job.questions) > limit and waiting:
                raise RequestError(
                    429,
                    "queue_full",
                    f"排队的句子已有 {waiting} 句，加上这次的 {len(job.questions)} 句超过上限 {limit} 句，"
                    "请稍后再试。",
                    limit=limit,
                    retry_after=self._patience(waiting),
                )
            self._jobs.append(job)
            self._new.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Give up what is left of a job; its rows are free before the next pass."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def drain(self) -> None:
        """Take no more jobs."""
        with self._changed:
            if self.state in ("loading", "ready"):
                self.state = "draining"
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait for the thread, which ends when it is draining and nothing is open; tell whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _patience(self, waiting: int) -> int:
        """Return the seconds after which a full queue will have room, by how fast sentences are answered."""
        rate = self.metrics.rate()
        return max(1, min(60, round(waiting / 2 / rate))) if rate else 5

    # --- the engine's thread

    def _run(self) -> None:
        try:
            lanes = {lane.name: lane for lane in self._load()}
        except BaseException as error:
            self.failure, self.state = error, "failed"
            return
        with self._changed:
            self.lanes = lanes
            self.ready_since = time.time()
            if self.state == "loading":
                self.state = "ready"
        lane = next(iter(lanes.values()))
        steps = 0
        tidied = time.monotonic()
        while self._wait():
            if not lane.busy or steps >= STEPS:
                lane, steps = self._next_lane(lane), 0
            try:
                lane.step()
            except Exception as error:  # not of a pass: that is the lane's own to deal with
                logger.exception("engine")
                self._give_up(lane, error)
            steps += 1
            if time.monotonic() - tidied > TIDY:
                give_back_free_memory()
                tidied = time.monotonic()

    def _wait(self) -> bool:
        """Hand new jobs to their lanes; sleep while there is nothing to do; tell whether to go on."""
        with self._changed:
            while True:
                while self._new:
                    job = self._new.popleft()
                    self.lanes[job.model].take(job)
                self._jobs = [job for job in self._jobs if job.open]
                if any(lane.busy for lane in self.lanes.values()):
                    return True
                if self.state == "draining":
                    return False
                self._changed.wait()

    def _next_lane(self, lane: Lane) -> Lane:
        """Return the next lane after this one that has something to do."""
        lanes = list(self.lanes.values())
        place = lanes.index(lane)
        return next(each for each in [*lanes[place + 1 :], *lanes[: place + 1]] if each.busy)

    def _give_up(self, lane: Lane, error: Exception) -> None:
        """Answer all jobs of a lane with an error: what is wrong is not known."""
        outcome = Outcome(Extraction(error=f"{type(error).__name__}: {error}"), failure="engine")
        lane.reset()
        for job in [job for job in self._jobs if job.model == lane.name]:
            job.cancelled = True
            for number in range(len(job.questions)):
                job.deliver(number, outcome)

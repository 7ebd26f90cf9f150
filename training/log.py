"""What a run says and records: console (bar or plain lines), metrics.jsonl, TensorBoard."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from glm_config import ProjectConfig
from training.schedule import is_due
from training.state import RunState
from utils.common_utils import UserError, log, seconds_since_last_line
from utils.memory import MemoryReading, read_memory
from utils.progress import Progress, show_duration

# What a user looks at first, under one heading of TensorBoard; the rest has headings of its own below.
_MAIN_CURVES = {
    "train": ("loss", "learning_rate", "tokens_per_second"),
    "eval": ("dev_loss", "triplet_f1"),
}
_METRICS_BYTES = 2**30  # a record has some hundred bytes
_MAIN_HEADING = "1_主要"
_HEADINGS = {"train": "2_训练", "eval": "3_评估", "final": "4_结束"}


class MetricsLog:
    """Writes each record to `metrics.jsonl` and its numbers to TensorBoard, both beside the adapter.

    A record that a full or broken disk does not take is lost, and the user told; training goes on.

    Args:
        directory: where the files go; None writes none (every process but the main one).
        tensorboard: write event files too, under `tensorboard/`.
        after_step: records of later optimiser steps are dropped: the run goes on from here.

    Raises:
        UserError: `metrics.jsonl` is there, but no plain file, or enormous.
        OSError: it can't be written.
    """

    def __init__(self, directory: Path | None, tensorboard: bool, after_step: int = 0) -> None:
        self._file = self._writer = None
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        if os.path.lexists(path):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):  # a link, or a pipe that would wait for a reader
                raise UserError(f"{path} 不是普通文件，不会往里写；请移走，或用 --save_dir 换一个目录。")
            if status.st_size > _METRICS_BYTES:
                raise UserError(
                    f"{path} 有 {status.st_size / 2**30:.1f} GB，不像是训练的记录；"
                    "请移走，或用 --save_dir 换一个目录。"
                )
            _keep_records(path, after_step)
        self._path = path
        self._file = path.open("ab", buffering=0)  # nothing stays behind for a later write to fail on
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # tensorboard itself may be missing

            self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=after_step + 1)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one record, for example kind "train" or "eval", at an optimiser step."""
        if self._file is not None:
            finite = {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in values.items()
            }  # JSON has no NaN
            record = {"kind": kind, "step": step, **finite}
            self._append((json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())
        if self._writer is not None:
            try:
                for name, value in values.items():
                    if isinstance(value, (int, float)) and not isinstance(value, bool):
                        main = name in _MAIN_CURVES.get(kind, ())
                        heading = _MAIN_HEADING if main else _HEADINGS.get(kind, kind)
                        self._writer.add_scalar(f"{heading}/{name}", value, step)
            except OSError as error:
                log(f"警告：写不了 TensorBoard 的事件文件（{error.strerror or error}），此后不再写。")
                self._writer = None

    def _append(self, line: bytes) -> None:
        """Append a whole line to the file, or nothing."""
        assert self._file is not None
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) == len(line):
                return
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            log(f"警告：写不了 {self._path}（{error.strerror}），少了一条记录；训练继续。")

    def close(self) -> None:
        """Close the files."""
        for target in (self._file, self._writer):
            if target is not None:
                with contextlib.suppress(OSError):
                    target.close()


def _keep_records(path: Path, after_step: int) -> None:
    """Drop the records of later steps and of an earlier end, and a line that a kill left unfinished."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as kept, path.open("rb") as lines:
            while line := lines.readline(2**20):  # a line of ours has some hundred bytes
                try:
                    record = json.loads(line)
                    keep = record["step"] <= after_step and record["kind"] != "final"
                except (ValueError, KeyError, TypeError, RecursionError):
                    keep = False
                if keep:
                    kept.write(line)
        new.chmod(path.stat().st_mode & 0o777)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


class Meter:
    """How fast training goes: tokens per second since the last record, and the time left.

    Args:
        total_steps: at which training ends.
    """

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps
        self._seconds_per_step = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget the steps so far: a record has been written."""
        self._steps = self._tokens = 0
        self._seconds = 0.0
        self.start_clock()

    def start_clock(self) -> None:
        """Take time from now on: what came before (an evaluation, a save) was no training."""
        self._started = time.perf_counter()

    def add(self, tokens: int) -> None:
        """Count one optimiser step and its tokens (of context and answer)."""
        self._seconds += time.perf_counter() - self._started
        self.start_clock()
        self._steps += 1
        self._tokens += tokens
        self._seconds_per_step = self._seconds / self._steps

    def tokens_per_second(self) -> float:
        """Return the speed since the last record."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def time_left(self, step: int) -> str:
        """Return how long the steps after `step` will take at the present speed, as h:mm:ss."""
        return show_duration(self._seconds_per_step * max(self._total_steps - step, 0))


class RunLog:
    """All that a run says and records; silent but in the main process.

    Where stderr is no terminal, a thread says what is under way whenever nothing was said for `SILENCE`
    seconds: during a long step, an evaluation, loading.

    Args:
        is_main: this is the process that talks and writes.

    Attributes:
        doing: what is under way, in Chinese.
    """

    SILENCE = 10.0  # seconds

    def __init__(self, is_main: bool) -> None:
        self.is_main = is_main
        self.doing = "准备"
        self._since = time.monotonic()
        self._metrics: MetricsLog | None = None
        self._progress: Progress | None = None
        self._spoke = False  # of a step, in this process
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._break_silence, daemon=True)

    def __enter__(self) -> RunLog:
        if self.is_main and not sys.stderr.isatty():
            self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._watch.is_alive():
            self._watch.join()
        if self._progress is not None:
            self._progress.close()
        if self._metrics is not None:
            self._metrics.close()

    def begin(self, doing: str) -> None:
        """Note what is under way from now on."""
        self.doing, self._since = doing, time.monotonic()

    def _break_silence(self) -> None:
        while not self._over.wait(1.0):
            if seconds_since_last_line() >= self.SILENCE:
                log(f"{self.doing}（已 {time.monotonic() - self._since:.0f} 秒）")

    def say(self, line: str) -> None:
        """Say something that must be seen, with a bar or without."""
        if not self.is_main:
            return
        if self._progress is not None:
            self._progress.message(line)
        else:
            log(line)

    def open(self, config: ProjectConfig, state: RunState, total_steps: int, steps_per_epoch: int) -> None:
        """Open the files and show the bar: training begins.

        Args:
            config: the knobs.
            state: where it begins.
            total_steps: at which it ends.
            steps_per_epoch: optimiser steps.

        Raises:
            UserError: the files can't be written.
        """
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._logging_steps = config.logging_steps
        directory = Path(config.save_dir) if self.is_main else None
        try:
            self._metrics = MetricsLog(directory, config.tensorboard, state.global_step)
        except OSError as error:
            place = error.filename or directory
            raise UserError(f"写不了 {place}（{error.strerror}），请检查权限和磁盘空间。") from error
        self._meter, self._tokens_seen = Meter(total_steps), state.tokens_seen
        self._progress = Progress(
            total_steps, unit="步", done=state.global_step, enabled=self.is_main, leave=sys.stderr.isatty()
        )
        self.begin(f"第 {state.global_step + 1}/{total_steps} 步")

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Write one record to metrics.jsonl and TensorBoard."""
        if self._metrics is not None:
            self._metrics.write(kind, step, values)

    @contextlib.contextmanager
    def paused(self, doing: str) -> Iterator[None]:
        """Take the time of what is no training, and say meanwhile what it is."""
        before = self.doing
        self.begin(doing)
        try:
            yield
        finally:
            self._meter.start_clock()
            self.begin(before)

    def step(self, state: RunState, learning_rate: float, device: torch.device) -> None:
        """Show an optimiser step; every `logging_steps` record the figures since the last record."""
        assert self._progress is not None
        self._meter.add(state.tokens_seen - self._tokens_seen)
        self._tokens_seen = state.tokens_seen
        memory, values = read_memory(device), state.means() | {"learning_rate": learning_rate}
        speed = self._meter.tokens_per_second()
        due = is_due(state.global_step, self._logging_steps)
        if due or not self._spoke or seconds_since_last_line() >= self.SILENCE:
            self._spoke = True
            epoch = state.epoch + state.steps_in_epoch / self._steps_per_epoch
            self._progress.step_line(
                f"步 {state.global_step}/{self._total_steps} | 第 {epoch:.2f} 轮 | {describe_step(values)} | "
                f"{speed:.0f} token/s | {memory.describe()} | 剩余 {self._meter.time_left(state.global_step)}"
            )
            if due:
                self._record_steps(state, values | {"epoch": epoch, "tokens_per_second": speed}, memory)
        self._progress.advance(1, f"{describe_step(values)} | {speed:.0f} token/s | {memory.brief()}")
        self.begin(f"第 {state.global_step + 1}/{self._total_steps} 步")

    def _record_steps(self, state: RunState, values: dict[str, float], memory: MemoryReading) -> None:
        counts = {name: getattr(state, name) for name in ("tokens_seen", "nonfinite_steps", "scaler_skips")}
        sizes = {
            f"memory_{name}": getattr(memory, name) for name in ("allocated", "reserved", "peak", "total")
        }
        self.record("train", state.global_step, values | counts | sizes)
        state.forget_means()
        self._meter.restart()


def describe_step(values: dict[str, float]) -> str:
    """Return the figures of training steps as one short phrase."""
    return f"loss {values['loss']:.4f} | lr {values['learning_rate']:.2e} | 梯度 {values['grad_norm']:.2f}"

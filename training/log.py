"""Where the figures of a run go: metrics.jsonl, TensorBoard, and the console (bar or plain lines)."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from utils.common_utils import log


class MetricsLog:
    """Writes each record to `metrics.jsonl` and its numbers to TensorBoard, both beside the adapter.

    A record that a full or broken disk does not take is lost, and the user told; training goes on.

    Args:
        directory: where the files go; None writes none (every process but the main one).
        tensorboard: write event files too, under `tensorboard/`.
        after_step: records of later optimiser steps are dropped: the run goes on from here.
    """

    def __init__(self, directory: Path | None, tensorboard: bool, after_step: int = 0) -> None:
        self._file = self._writer = None
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        if path.exists():
            _keep_records(path, after_step)
        self._path = path
        self._file = path.open("ab", buffering=0)  # nothing stays behind for a later write to fail on
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

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
                        self._writer.add_scalar(f"{kind}/{name}", value, step)
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
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            keep = record["step"] <= after_step and record["kind"] != "final"
        except (ValueError, KeyError, TypeError):
            keep = False
        if keep:
            kept.append(line + "\n")
    new = path.with_name(f".{path.name}.new")
    new.write_text("".join(kept), encoding="utf-8")
    new.replace(path)


class Meter:
    """How fast training goes: tokens per second since the last log line, and the time left.

    Args:
        total_steps: at which training ends.
    """

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps
        self._seconds_per_step = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget the steps so far: a line has been written."""
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
        """Return the speed since the last log line."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def time_left(self, step: int) -> str:
        """Return how long the steps after `step` will take at the present speed, as h:mm:ss."""
        seconds = int(self._seconds_per_step * max(self._total_steps - step, 0))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class Progress:
    """A tqdm bar on a terminal; plain lines elsewhere, so that a log file holds no control characters.

    Args:
        total: number of optimiser steps.
        enabled: False keeps silent (every process but the main one).
    """

    def __init__(self, total: int, enabled: bool) -> None:
        self._total = total
        self._enabled = enabled
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()

    def start(self, done: int) -> None:
        """Show the bar, `done` steps being done before."""
        if self._enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, initial=done, unit="步", dynamic_ncols=True, file=sys.stderr)

    def advance(self, status: str) -> None:
        """Count one step; `status` stands behind the bar."""
        if self._bar is None:
            return
        try:
            self._bar.set_postfix_str(status, refresh=False)
            self._bar.update()
        except OSError:  # the terminal was closed
            self._bar = None

    def step_line(self, line: str) -> None:
        """Say how training goes, where no bar does."""
        if self._enabled and self._bar is None:
            log(line)

    def message(self, line: str) -> None:
        """Say something that must be seen in either case."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.write(line, file=sys.stderr)
        elif self._enabled:
            log(line)

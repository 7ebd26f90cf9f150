"""Where the figures of a run go: metrics.jsonl, TensorBoard, and the console (bar or plain lines)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from utils.common_utils import log


class MetricsLog:
    """Writes each record to `metrics.jsonl` and its numbers to TensorBoard, both beside the adapter.

    Args:
        directory: where the files go; None writes none (every process but the main one).
        tensorboard: write event files too, under `tensorboard/`.
    """

    def __init__(self, directory: Path | None, tensorboard: bool) -> None:
        self._file = self._writer = None
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / "metrics.jsonl").open("a", encoding="utf-8")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(directory / "tensorboard"))

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one record, for example kind "train" or "eval", at an optimiser step."""
        if self._file is not None:
            record = {"kind": kind, "step": step, **values}
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the files."""
        for target in (self._file, self._writer):
            if target is not None:
                target.close()


class Progress:
    """A tqdm bar on a terminal; plain lines elsewhere, so that a log file holds no control characters.

    Args:
        total: number of optimiser steps.
        done: those done before (when resuming).
        enabled: False keeps silent (every process but the main one).
    """

    def __init__(self, total: int, done: int, enabled: bool) -> None:
        self._enabled = enabled
        self._bar = None
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, unit="步", dynamic_ncols=True, file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, status: str) -> None:
        """Count one step; `status` stands behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(status, refresh=False)
            self._bar.update()

    def step_line(self, line: str) -> None:
        """Say how training goes, where no bar does."""
        if self._enabled and self._bar is None:
            log(line)

    def message(self, line: str) -> None:
        """Say something that must be seen in either case."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif self._enabled:
            log(line)

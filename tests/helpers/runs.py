"""Runs of training within a test's process, and what they have left."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from training.stop import STOP_SIGNALS


@contextmanager
def process_as_before() -> Iterator[None]:
    """Undo what a run leaves in its process: signal handlers, and accelerate's choice of precision."""
    numbers = [getattr(signal, name) for name in STOP_SIGNALS]
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def records(directory: Path, kind: str) -> list[dict[str, Any]]:
    """Return the records of one kind in a run's metrics.jsonl."""
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]

"""What happens when in a run: learning rate by step, micro-batches by optimiser step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def learning_rate_at(step: int, total_steps: int, peak: float, warmup_ratio: float) -> float:
    """Return the learning rate of an optimiser step (from 0): linear warm-up, then a cosine down to zero.

    Being a function of the step alone, it needs no state in a checkpoint.
    """
    warmup = math.ceil(total_steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(total_steps - warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def windows(batches: Iterable[T], size: int) -> Iterator[list[T]]:
    """Group micro-batches into the windows of one optimiser step; the last one may be shorter."""
    iterator = iter(batches)
    while window := list(islice(iterator, size)):
        yield window

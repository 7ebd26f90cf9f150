"""What happens when in a run: learning rate by step, samples by optimiser step, evaluations and saves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol, TypeVar

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


def is_due(step: int, every: int) -> bool:
    """Tell whether something that happens every so many steps (0: never) happens after this one."""
    return bool(every) and step % every == 0


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Group items; the last group may be smaller."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


class Position(Protocol):
    """What of a run's state says where it is in the data."""

    epoch: int
    steps_in_epoch: int


class StepBatches:
    """The samples of one optimiser step after the other, this process's share of them.

    Args:
        loader: batches of samples (lists), as `accelerator.prepare` returned it.
        sampler: steers the loader (`start_epoch`).
        accumulation_steps: batches of one process in an optimiser step.
        num_processes: that take turns at the batches.
    """

    def __init__(
        self, loader: Iterable[list[Any]], sampler: Any, accumulation_steps: int, num_processes: int
    ) -> None:
        self._loader = loader
        self._sampler = sampler
        self._accumulation_steps = accumulation_steps
        self._batches_per_step = accumulation_steps * num_processes
        self._groups: Iterator[list[list[Any]]] | None = None
        self.steps_per_epoch = math.ceil(len(sampler) / self._batches_per_step)

    def next_step(self, position: Position) -> list[Any]:
        """Return the samples of the next optimiser step; after the last one of an epoch the next begins.

        Args:
            position: where the run is; the number of the epoch is put forward here, the steps are not.
        """
        if position.steps_in_epoch >= self.steps_per_epoch:
            position.epoch, position.steps_in_epoch = position.epoch + 1, 0
            self._end_epoch()
        if self._groups is None:
            self._sampler.start_epoch(position.epoch, position.steps_in_epoch * self._batches_per_step)
            self._groups = in_groups(self._loader, self._accumulation_steps)
        return [sample for batch in next(self._groups) for sample in batch]

    def _end_epoch(self) -> None:
        """Let the loader come to its end, where accelerate puts its books in order."""
        if self._groups is not None:
            next(self._groups, None)
        self._groups = None

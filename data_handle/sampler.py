"""The order of an epoch: batches of examples of similar length, a function of (seed, epoch), resumable."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

# Examples are sorted by length within a chunk of this many steps: short enough for a good shuffle.
_STEPS_PER_CHUNK = 50


class LengthGroupedSampler(Sampler[list[int]]):
    """Batches of examples of similar length, in an order that is a function of (seed, epoch) alone.

    The order is made of steps, the examples of one optimiser step each: batch 8 x 1 and batch 1 x 8 see the
    same steps in the same order, and so do two processes that take turns at the batches (which is how
    accelerate shards a batch sampler). The step with the longest example comes first, so that a run that
    can't fit into memory fails at once; what fills no step comes last.

    The epoch is set with `start_epoch`. There is no `set_epoch` on purpose: accelerate calls it by itself
    with its own count of epochs, and only when there is a single process.

    Args:
        lengths: tokens of each example.
        batch_size: examples of a batch of one process; only the last batch of an epoch may have fewer.
        seed: seed of the order.
        gradient_accumulation_steps: batches of one process in an optimiser step.
        num_processes: processes that take turns at the batches. With several, the epoch ends with repeated
            examples from its start where that is needed for all to get equally many full batches.
    """

    drop_last = False  # read by accelerate

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        *,
        gradient_accumulation_steps: int = 1,
        num_processes: int = 1,
    ) -> None:
        if min(batch_size, gradient_accumulation_steps, num_processes) < 1:
            raise ValueError("batch_size、gradient_accumulation_steps 和 num_processes 都应当至少是 1。")
        self.batch_size = batch_size
        self._lengths = torch.tensor(lengths, dtype=torch.int64)
        self._step_size = batch_size * gradient_accumulation_steps * num_processes
        self._round = batch_size * num_processes if num_processes > 1 else 1
        self._seed = seed
        self._epoch = 0
        self._skip_batches = 0

    def start_epoch(self, epoch: int, skip_batches: int = 0) -> None:
        """Choose the epoch (from 0) that the next iterations run over, and how many of its batches are done.

        Args:
            epoch: number of the epoch.
            skip_batches: batches to pass over, counted over all processes together.
        """
        self._epoch = epoch
        self._skip_batches = skip_batches

    def __len__(self) -> int:
        examples = math.ceil(len(self._lengths) / self._round) * self._round
        return max(0, math.ceil(examples / self.batch_size) - self._skip_batches)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._epoch_order()
        missing = -len(order) % self._round
        order += list(itertools.islice(itertools.cycle(order), missing))
        for start in range(self._skip_batches * self.batch_size, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _epoch_order(self) -> list[int]:
        if not len(self._lengths):
            return []
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
        order = torch.randperm(len(self._lengths), generator=generator)
        longest = int(torch.argmax(self._lengths[order]))
        order[[0, longest]] = order[[longest, 0]]

        whole = len(order) - len(order) % self._step_size
        chunks = order[:whole].split(self._step_size * _STEPS_PER_CHUNK)
        steps = [step for chunk in chunks for step in self._longest_first(chunk).split(self._step_size)]
        if steps:
            later = torch.randperm(len(steps) - 1, generator=generator) + 1
            steps = [steps[0], *(steps[i] for i in later.tolist())]
        return torch.cat([*steps, self._longest_first(order[whole:])]).tolist()

    def _longest_first(self, indices: torch.Tensor) -> torch.Tensor:
        return indices[torch.argsort(self._lengths[indices], descending=True, stable=True)]

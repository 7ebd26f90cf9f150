"""Micro-batches side by side on a CPU: a thread each, which never wait for one another within an operation.

Threads inside an operation meet at its end, thousands of times a step. That costs a third of the speed where
threads sleep while they wait; where they spin, it collapses as soon as another program wants a core. Lanes
meet once a step. What they compute does not depend on which is faster: gradients are added in the order of
the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from bases.lora_product import shares_generator

Item = TypeVar("Item")
Result = TypeVar("Result")

# The products of a wider model keep all cores busy by themselves, and each lane would have to turn its 4-bit
# weights back again.
WIDEST_HIDDEN_SIZE = 1024


def lane_count(accelerator: Accelerator, model: nn.Module, hidden_size: int, checkpointing: bool) -> int:
    """Return how many lanes a run has: as many as torch has threads, where lanes can be used, else 1.

    Checkpointing puts back the one random generator of all threads, and dropout outside of LoRA draws from
    it; so with them there is one lane, and an interrupted run stays repeatable.
    """
    usable = (
        accelerator.device.type == "cpu"
        and accelerator.num_processes == 1
        and hidden_size <= WIDEST_HIDDEN_SIZE
        and not checkpointing
        and not shares_generator(model)
    )
    return torch.get_num_threads() if usable else 1


class Lanes:
    """Threads that work side by side, each with a single thread of torch.

    Args:
        count: of lanes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="lane") if count > 1 else None

    def run(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Do the work for each item and return the results in the items' order.

        Raises:
            Exception: of the first item whose work failed, once all others have ended.
        """
        if self._pool is None or len(items) < 2:
            return [work(item) for item in items]
        threads = torch.get_num_threads()

        def in_lane(item: Item) -> Result:
            torch.set_num_threads(1)  # of this thread, and of MKL in all of them
            return work(item)

        try:
            futures = [self._pool.submit(in_lane, item) for item in items]
            for future in futures:
                future.exception()  # waits
            return [future.result() for future in futures]
        finally:
            torch.set_num_threads(threads)

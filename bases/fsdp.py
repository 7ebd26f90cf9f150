"""Parameters that FSDP has split over processes: put together for a while, gathered, split again.

(FSDP2, `torch.distributed.fsdp.fully_shard`, as accelerate sets it up from `configs/fsdp_qlora.yaml`.) All
functions are collective calls, and do nothing where nothing is split.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def is_fsdp(model: Any) -> bool:
    """Tell whether FSDP has split a model, as `accelerator.prepare` returned it."""
    return isinstance(model, FSDPModule)


@contextlib.contextmanager
def unsharded(model: Any) -> Iterator[None]:
    """Hold all weights on every process, so that each may compute and save by itself.

    Args:
        model: as `accelerator.prepare` returned it. Its `state_dict()` must not be called meanwhile: that
            would split it again.
    """
    parts: list[Any] = [module for module in model.modules() if isinstance(module, FSDPModule)]
    # Only these give their weights back after a forward (blocks, and a head or embedding that accelerate has
    # split by itself); it keeps the others until the backward.
    names = {f"FSDP{name}" for name in getattr(model, "_no_split_modules", None) or ()}
    blocks = [part for part in parts if type(part).__name__ in names or not list(part.children())]
    for block in blocks:
        block.set_reshard_after_forward(False, recurse=False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for block in blocks:
            block.set_reshard_after_forward(True, recurse=False)
        for part in parts:
            part.reshard()


def gather(state: Any) -> Any:
    """Return a structure of dictionaries, lists and tensors with each split tensor whole, on the CPU."""
    return tree_map(lambda value: value.full_tensor().cpu() if isinstance(value, DTensor) else value, state)


def split_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Split a tensor, which every process has, in the way that a parameter of its shape is split."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)

"""What the loaders of all families share: layers made ready for their weights, and weights put into them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bases.four_bit import NF4_BYTES
from bases.interface import CheckpointError
from bases.linear4bit import dequantize, empty_linear_4bit, is_linear_4bit, quantize
from bases.linear8bit import INT8_BYTES, Linear8bit


def linear_bytes(load_in_4bit: bool, load_in_8bit: bool, value_bytes: int) -> float:
    """Return the bytes of a weight in the blocks' linear layers; `value_bytes` if they are not quantised."""
    return NF4_BYTES if load_in_4bit else INT8_BYTES if load_in_8bit else value_bytes


def replace_linears(
    model: nn.Module,
    layers: Collection[str],
    *,
    load_in_4bit: bool,
    load_in_8bit: bool,
    compute_dtype: torch.dtype,
    quant_storage: torch.dtype | None,
) -> None:
    """Put an (empty) quantised layer in place of each linear layer to be quantised, if any are.

    Args:
        model: with its linear layers on any device; their weights are dropped.
        layers: the last parts of the names of those to be quantised.
        load_in_4bit: NF4 with double quantisation.
        load_in_8bit: see `linear8bit`.
        compute_dtype: of the products.
        quant_storage: the type that the packed bytes are declared as (FSDP splits floating ones only);
            torch.uint8 when None.
    """
    if load_in_4bit and load_in_8bit:
        raise ValueError("weights are in 4 or in 8 bits, not in both")
    if not (load_in_4bit or load_in_8bit):
        return
    empty = empty_linear_4bit if load_in_4bit else Linear8bit
    for name, module in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(module, nn.Linear) and child in layers:
            quantized = empty(module, compute_dtype, quant_storage or torch.uint8)
            setattr(model.get_submodule(parent), child, quantized)
    model.is_loaded_in_4bit = load_in_4bit  # type: ignore[assignment]  # read by peft


def assign(
    model: nn.Module,
    name: str,
    tensor: torch.Tensor,
    shard: Path,
    dtype: torch.dtype,
    device: str | torch.device,
) -> None:
    """Replace a meta parameter by a tensor, cast and moved, or quantised on the device if its layer is.

    Args:
        model: it is of.
        name: of the parameter.
        tensor: its value.
        shard: the file it was read from.
        dtype: of what is not quantised.
        device: where it shall live.

    Raises:
        CheckpointError: it holds numbers that are not finite.
    """
    module_name, _, attribute = name.rpartition(".")
    module: Any = model.get_submodule(module_name)
    is_weight = attribute == "weight"
    in_4bit, in_8bit = (
        is_weight and kind for kind in (is_linear_4bit(module), isinstance(module, Linear8bit))
    )
    # A copy, so that no parameter keeps a whole memory-mapped shard alive.
    value = tensor.to(device, dtype, copy=not (in_4bit or in_8bit))
    low, high = value.aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise CheckpointError(f"权重文件 {shard} 里的 {name} 有 NaN 或无穷大，不能使用，请重新下载。")
    if in_8bit:
        module.quantize(value)
    else:
        parameter: nn.Parameter = quantize(value, module, device) if in_4bit else nn.Parameter(value)
        setattr(module, attribute, parameter)


def expand(model: nn.Module) -> None:
    """Turn the quantised layers of a model into plain ones of the same values, in the type of their products.

    A quantised layer turns all its weights back in every pass over several tokens. Done once, the results are
    the same to the bit; it takes two to four times the memory, and training is in 4-bit for that reason.
    """
    for name, module in list(model.named_modules()):
        if is_linear_4bit(module):
            weight = dequantize(module)
        elif isinstance(module, Linear8bit):
            weight = module.dequantized()
        else:
            continue
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = module.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain.train(module.training))
    model.is_loaded_in_4bit = False  # type: ignore[assignment]  # read by peft

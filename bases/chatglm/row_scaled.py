"""Weights in the published int4 and int8 layout: whole numbers, with one scale for each row.

A weight [out, in] is stored as int8: [out, in] for 8 bits, [out, in / 2] for 4, where a byte holds an even
column in its upper half and the odd one behind it in its lower half. `weight_scale` [out] is what a row's
numbers are multiplied with.

Source: `quantization.py` of THUDM/chatglm-6b, -int4 and -int8. What its kernels (started by cpm_kernels on
CUDA, compiled with gcc for the CPU) compute is done here in PyTorch: a scale of half precision times a number
of 8 bits is exact in fp32, so rounding it to half gives the kernels' figures bit by bit.
"""

from __future__ import annotations

import torch

from .configuration import BITS

__all__ = ["BITS", "join_weight", "split_weight", "stored_parts"]

SCALE_SUFFIX = "_scale"  # behind the weight's own name


def stored_parts(shape: torch.Size, bits: int) -> dict[str, tuple[torch.dtype | None, tuple[int, ...]]]:
    """Return the tensors that a weight [out, in] is stored as: type (None: floating) and shape by suffix."""
    rows, columns = shape
    return {"": (torch.int8, (rows, columns * bits // 8)), SCALE_SUFFIX: (None, (rows,))}


def join_weight(parts: dict[str, torch.Tensor], bits: int) -> torch.Tensor:
    """Compute a weight, [out, in] fp32, from its stored parts."""
    numbers = parts[""]
    if bits == 4:  # shifting int8 to the right keeps the sign
        numbers = torch.stack([numbers >> 4, (numbers << 4) >> 4], dim=-1).flatten(1)
    return numbers.float() * parts[SCALE_SUFFIX].float()[:, None]


def split_weight(weight: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Quantise a weight [out, in], `in` being even, as the published code does: the parts of `stored_parts`.

    Raises:
        ValueError: the number of columns is odd, which 4 bits have no layout for.
    """
    if weight.shape[1] * bits % 8:
        raise ValueError("an int4 weight needs an even number of columns")
    largest = 2 ** (bits - 1) - 1
    weight = weight.float()
    scale = (weight.abs().amax(dim=1) / largest).half()
    divisor = scale.float().masked_fill(scale == 0, torch.inf)[:, None]  # rows of zeros, or nearly so
    numbers = (weight / divisor).round().clamp(-largest - 1, largest).to(torch.int8)
    if bits == 4:
        numbers = (numbers[:, 0::2] << 4) | (numbers[:, 1::2] & 15)
    return {"": numbers.contiguous(), SCALE_SUFFIX: scale}

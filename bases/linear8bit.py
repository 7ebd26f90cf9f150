"""The blocks' linear layers in 8-bit: whole numbers, with one scale for each row.

Only the weights are rounded. (LLM.int8, Dettmers et al. 2022, rounds activations as well, which needs kernels
of its own and a way around outliers. Here a weight is turned back for each product, as 4-bit ones are; that
works on every device.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

INT8_BYTES = 1.0  # per weight; the scales, one a row, are not worth counting
_LARGEST = 127
_ROWS = 1024  # that are quantised at a time, in fp32


class Linear8bit(nn.Linear):
    """A frozen linear layer with an 8-bit weight. Its bias, if it has one, is as the model's is.

    Attributes:
        weight: the numbers of `quantize`, declared as `quant_storage`; one column.
        scale: [out] in the type of products, which the rounding of the numbers allows for.
    """

    def __init__(
        self, layer: nn.Linear, compute_dtype: torch.dtype, quant_storage: torch.dtype = torch.uint8
    ) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.compute_dtype, self.quant_storage = compute_dtype, quant_storage
        self.scale = nn.Parameter(torch.empty(layer.out_features, device="meta"), requires_grad=False)

    def quantize(self, weight: torch.Tensor) -> None:
        """Take a weight [out, in], where it is: each row's largest number becomes 127."""
        numbers, scales = [], []
        for rows in weight.split(_ROWS):
            values = rows.float()
            scale = (values.abs().amax(dim=1) / _LARGEST).to(self.compute_dtype)
            divisor = scale.float().masked_fill(scale == 0, torch.inf)[:, None]  # rows of zeros, or nearly so
            numbers.append((values / divisor).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8))
            scales.append(scale)
        stored = torch.cat(numbers).flatten().view(self.quant_storage).unsqueeze(1)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.scale = nn.Parameter(torch.cat(scales), requires_grad=False)

    def dequantized(self) -> torch.Tensor:
        """Return the weight [out, in] in the type of products."""
        return _turn_back(self.weight, self.scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x W^T + bias in the type of products."""
        out = _Product.apply(x.to(self.compute_dtype), self.weight, self.scale)
        return out if self.bias is None else out + self.bias.to(out.dtype)


def _turn_back(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    numbers = weight.flatten().view(torch.int8).view(len(scale), -1)
    return numbers.to(scale.dtype).mul_(scale[:, None])


class _Product(torch.autograd.Function):
    """x W^T, with W turned back again on the way back, so that it isn't kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        return x @ _turn_back(weight, scale).t()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradients[0] @ _turn_back(*ctx.saved_tensors), None, None

"""LoRA's two small products as one operation: fewer kernels, casts and copies than module by module.

PEFT keeps the weights, their names and files; only the way forward is another, and only where it is plain:
one adapter, not merged, not disabled.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn


class _LoraProduct(torch.autograd.Function):
    """base + scaling * (x A^T) B^T.

    Dimensions: T tokens, I and O widths of the layer, R rank.
    """

    @staticmethod
    def forward(
        ctx: Any, base: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        dtype = base.dtype
        inputs = x.reshape(-1, x.shape[-1]).to(dtype)  # [T, I]
        a_cast, b_cast = a.to(dtype), b.to(dtype)  # [R, I], [O, R]
        with torch.autocast(base.device.type, enabled=False):
            hidden = inputs @ a_cast.t()  # [T, R]
            # Not in place: bitsandbytes' answer is a view that may not be written to.
            total = torch.addmm(base.reshape(-1, base.shape[-1]), hidden, b_cast.t(), alpha=scaling)
        ctx.save_for_backward(inputs, hidden, a_cast, b_cast)
        ctx.scaling, ctx.types, ctx.shape = scaling, (x.dtype, a.dtype, b.dtype), x.shape
        return total.view(base.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        inputs, hidden, a, b = ctx.saved_tensors
        x_type, a_type, b_type = ctx.types
        flat = gradient.reshape(-1, gradient.shape[-1])  # [T, O]
        inner = (flat @ b).mul_(ctx.scaling)  # [T, R]
        x_gradient = (inner @ a).view(ctx.shape).to(x_type) if ctx.needs_input_grad[1] else None
        a_gradient = (inner.t() @ inputs).to(a_type) if ctx.needs_input_grad[2] else None
        b_gradient = (flat.t() @ (hidden * ctx.scaling)).to(b_type) if ctx.needs_input_grad[3] else None
        return gradient, x_gradient, a_gradient, b_gradient, None


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Take the short way where it is the whole one, else PEFT's."""
    names = layer.active_adapters
    if len(names) != 1 or layer.disable_adapters or layer.merged or args or kwargs:
        return type(layer).forward(layer, x, *args, **kwargs)
    (name,) = names
    if name not in layer.lora_A:
        return type(layer).forward(layer, x)
    base = layer.base_layer(x)
    dropped = layer.lora_dropout[name](x)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _LoraProduct.apply(base, dropped, a, b, layer.scaling[name])


def shorten_lora(model: nn.Module) -> None:
    """Let all plain LoRA layers of a model compute in one operation."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), nn.Linear):
            module.forward = types.MethodType(_forward, module)


def lengthen_lora(model: nn.Module) -> None:
    """Undo `shorten_lora` (to compare)."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.__dict__.pop("forward", None)

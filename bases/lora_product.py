"""LoRA's two small products as one operation: fewer kernels, casts and copies than module by module.

PEFT keeps the weights, their names and files; only the way forward is another, and only where it is plain:
one adapter, not merged, not disabled. On a CPU its dropout is part of the operation, from random bits that
cost a third of torch's, and a thread may draw them from a generator of its own (`own_dropout`).
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn


class _LoraProduct(torch.autograd.Function):
    """base + scaling * (x A^T) B^T, of x only what a mask keeps, if there is one.

    Dimensions: T tokens, I and O widths of the layer, R rank.
    """

    @staticmethod
    def forward(
        ctx: Any,
        base: torch.Tensor,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        dtype = base.dtype
        inputs = x.reshape(-1, x.shape[-1]).to(dtype)  # [T, I]
        if mask is not None:
            inputs = inputs * mask
        a_cast, b_cast = a.to(dtype), b.to(dtype)  # [R, I], [O, R]
        with torch.autocast(base.device.type, enabled=False):
            hidden = inputs @ a_cast.t()  # [T, R]
            # Not in place: bitsandbytes' answer is a view that may not be written to.
            total = torch.addmm(base.reshape(-1, base.shape[-1]), hidden, b_cast.t(), alpha=scaling)
        ctx.save_for_backward(inputs, hidden, a_cast, b_cast, mask)
        ctx.scaling, ctx.types, ctx.shape = scaling, (x.dtype, a.dtype, b.dtype), x.shape
        return total.view(base.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        inputs, hidden, a, b, mask = ctx.saved_tensors
        x_type, a_type, b_type = ctx.types
        flat = gradient.reshape(-1, gradient.shape[-1])  # [T, O]
        inner = (flat @ b).mul_(ctx.scaling)  # [T, R]
        x_gradient = None
        if ctx.needs_input_grad[1]:
            x_gradient = inner @ a  # [T, I]
            x_gradient = (x_gradient if mask is None else x_gradient.mul_(mask)).view(ctx.shape).to(x_type)
        a_gradient = (inner.t() @ inputs).to(a_type) if ctx.needs_input_grad[2] else None
        b_gradient = (flat.t() @ (hidden * ctx.scaling)).to(b_type) if ctx.needs_input_grad[3] else None
        return gradient, x_gradient, a_gradient, b_gradient, None, None


_generator = threading.local()


@contextlib.contextmanager
def own_dropout(seed: int) -> Iterator[None]:
    """Let what this thread drops meanwhile depend on the seed only, and not on what other threads draw."""
    _generator.own = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _generator.own = None


def shares_generator(model: nn.Module) -> bool:
    """Tell whether dropout draws from the one generator of all threads, whatever `own_dropout` says."""
    own = {
        module
        for layer in model.modules()
        if isinstance(layer, LoraLayer) and "forward" in layer.__dict__
        for module in layer.lora_dropout.values()
    }
    return any(
        isinstance(module, nn.Dropout) and module.p > 0 and module not in own for module in model.modules()
    )


def _dropout_mask(x: torch.Tensor, p: float, dtype: torch.dtype) -> torch.Tensor:
    """Return [T, I] of ones, of zeros with probability p (to 1 in 65,536): four from each draw of 64 bits.

    It takes a third of the time of `bernoulli_`, which is a tenth of a step of Gemma 3 270M.
    """
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
    draws.random_(-(2**63), None, generator=getattr(_generator, "own", None))
    bits = draws.view(torch.int16)[: x.numel()].view(-1, x.shape[-1])
    return (bits >= min(round(p * 2**16), 2**16 - 1) - 2**15).to(dtype)


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Take the short way where it is the whole one, else PEFT's."""
    names = layer.active_adapters
    if len(names) != 1 or layer.disable_adapters or layer.merged or args or kwargs:
        return type(layer).forward(layer, x, *args, **kwargs)
    (name,) = names
    if name not in layer.lora_A:
        return type(layer).forward(layer, x)
    base = layer.base_layer(x)
    dropout, scaling, mask = layer.lora_dropout[name], layer.scaling[name], None
    if x.device.type == "cpu" and isinstance(dropout, nn.Dropout) and 0 < dropout.p < 1:
        if dropout.training:
            mask = _dropout_mask(x, dropout.p, base.dtype)
            scaling /= 1 - dropout.p
    else:
        x = dropout(x)
    return _LoraProduct.apply(base, x, layer.lora_A[name].weight, layer.lora_B[name].weight, scaling, mask)


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

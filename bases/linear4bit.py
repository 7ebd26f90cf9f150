"""The blocks' linear layers in 4-bit (NF4, double quantisation): making, checking, storing, reading them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import nn

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit, Params4bit

BLOCK_SIZE, NESTED_BLOCK_SIZE = 64, 256  # weights with one scale, scales with one scale of their own
# bitsandbytes' name, behind the weight's own, for what of its quantisation state is no tensor (as JSON).
STATE_SUFFIX = ".quant_state.bitsandbytes__nf4"
_STATE_LIMIT = 4096  # bytes
# What `config.json` says of a directory with 4-bit weights, under transformers' names.
QUANTIZATION_NOTE = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_storage": "uint8",
}


def import_bitsandbytes() -> None:
    """Import bitsandbytes without its warning that a kernel from the hub (which is kept out) is missing."""
    bitsandbytes_logger = logging.getLogger("bitsandbytes")
    level = bitsandbytes_logger.level
    bitsandbytes_logger.setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401
    finally:
        bitsandbytes_logger.setLevel(level)


def empty_linear_4bit(
    layer: nn.Linear, compute_dtype: torch.dtype, quant_storage: torch.dtype = torch.uint8
) -> nn.Module:
    """Return an (empty) NF4 layer with double quantisation, to stand in place of a linear layer.

    Args:
        layer: on any device; its weight is not taken over.
        compute_dtype: of the products.
        quant_storage: the type that the packed bytes are declared as. FSDP shards floating types only.
    """
    import_bitsandbytes()
    from bitsandbytes.nn import Linear4bit

    quantized = Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=compute_dtype,
        compress_statistics=True,
        quant_type="nf4",
        quant_storage=quant_storage,
        device="meta",
    )
    # On CPUs with AVX512-BF16 an evaluation would repack the weight in place, and training after it
    # would run without gradients (bitsandbytes 0.50).
    quantized.support_avx512bf16_for_cpu = False
    return quantized


def check_quantization(model: nn.Module, layers: Collection[str]) -> None:
    """Make sure that exactly the intended layers are 4-bit, and that the head is not.

    Raises:
        RuntimeError: a layer is quantised that should not be, or the other way round.
    """
    from bitsandbytes.nn import Linear4bit

    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        wanted = name.rpartition(".")[2] in layers
        is_4bit = isinstance(module, Linear4bit) and module.weight.quant_state is not None
        if wanted != is_4bit:
            raise RuntimeError(f"{name} should {'' if wanted else 'not '}be 4-bit")


def quantize(tensor: torch.Tensor, module: Linear4bit, device: str | torch.device) -> Params4bit:
    """Quantise a weight [out, in] for a layer of `empty_linear_4bit`, on the device."""
    from bitsandbytes.nn import Params4bit

    return Params4bit(
        tensor.contiguous(),
        requires_grad=False,
        compress_statistics=True,
        quant_type="nf4",
        quant_storage=module.quant_storage,
        blocksize=BLOCK_SIZE,
        module=module,
    ).to(device)


def stored_parts(shape: torch.Size) -> dict[str, tuple[torch.dtype, tuple[int, ...] | None]]:
    """Return the tensors that a 4-bit weight [out, in] is stored as: type and shape by suffix of its name.

    (The state's shape is None: its JSON has no fixed length.)
    """
    blocks = math.ceil(shape.numel() / BLOCK_SIZE)
    return {
        "": (torch.uint8, (math.ceil(shape.numel() / 2), 1)),
        ".absmax": (torch.uint8, (blocks,)),
        ".quant_map": (torch.float32, (16,)),
        ".nested_absmax": (torch.float32, (math.ceil(blocks / NESTED_BLOCK_SIZE),)),
        ".nested_quant_map": (torch.float32, (256,)),
        STATE_SUFFIX: (torch.uint8, None),
    }


def split_weight(weight: Params4bit) -> dict[str, torch.Tensor]:
    """Take a 4-bit weight apart into the tensors that `stored_parts` names, on the CPU."""
    packed = weight.data.flatten().view(torch.uint8).unsqueeze(1)
    state = weight.quant_state.as_dict(packed=True)
    parts = {"": packed} | {f".{name}": tensor for name, tensor in state.items()}
    # Copies, because all weights share one `quant_map`, which safetensors would refuse.
    return {suffix: tensor.detach().to("cpu", copy=True).contiguous() for suffix, tensor in parts.items()}


def join_weight(
    parts: dict[str, torch.Tensor],
    shape: torch.Size,
    module: Linear4bit,
    dtype: torch.dtype,
    device: str | torch.device,
) -> Params4bit:
    """Put a 4-bit weight together from its stored parts, whose types and shapes have been checked.

    Args:
        parts: see `stored_parts`.
        shape: [out, in] of the weight.
        module: the layer of `empty_linear_4bit` that it is for.
        dtype: what it shall be dequantised to.
        device: where it shall live.

    Raises:
        ValueError: its state is no JSON, or describes another weight; the message is in Chinese.
    """
    from bitsandbytes.nn import Params4bit

    raw = parts[STATE_SUFFIX]
    try:
        state = json.loads(bytes(raw[:_STATE_LIMIT].tolist()))
    except (ValueError, RecursionError) as error:
        raise ValueError("量化参数不是 JSON") from error
    expected = {
        "quant_type": "nf4",
        "blocksize": BLOCK_SIZE,
        "shape": list(shape),
        "nested_blocksize": NESTED_BLOCK_SIZE,
        "nested_dtype": "float32",
    }
    if not isinstance(state, dict) or {key: state.get(key) for key in expected} != expected:
        raise ValueError(f"量化参数不是 {expected}")
    offset = state.get("nested_offset")
    if type(offset) is not float or not math.isfinite(offset):
        raise ValueError(f"量化参数 nested_offset 是 {offset!r}，不是有限的小数")
    floating = [part for part in parts.values() if part.is_floating_point()]
    if not all(part.isfinite().all() for part in floating):
        raise ValueError("量化参数里有 NaN 或无穷大")
    # Copies, so that nothing keeps a memory-mapped file alive.
    copies = {suffix.removeprefix("."): part.clone() for suffix, part in parts.items()}
    packed = copies.pop("").flatten().view(module.quant_storage).unsqueeze(1)
    del copies[STATE_SUFFIX.removeprefix(".")]
    values = expected | {"nested_offset": offset, "dtype": str(dtype).removeprefix("torch.")}
    return Params4bit.from_prequantized(packed, copies | values, device=device, module=module)


def is_linear_4bit(module: nn.Module) -> TypeGuard[Linear4bit]:
    """Tell whether a layer is one of `empty_linear_4bit`, without importing bitsandbytes for it."""
    return hasattr(getattr(module, "weight", None), "quant_state")


def dequantize(module: Linear4bit) -> torch.Tensor:
    """Return a layer's weight [out, in] in the type of its products."""
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
    return weight.to(module.compute_dtype or weight.dtype)

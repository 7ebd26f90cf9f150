"""Whether this machine can compute with 4-bit weights at all; where it can't, weights stay as they are."""

from __future__ import annotations

import functools

import torch

from bases.linear4bit import import_bitsandbytes
from utils.common_utils import log

NF4_BYTES = 0.516  # per weight: 4 bits, and the doubly quantised scale of each block of 64


def choose_4bit(wanted: bool, device: str | torch.device) -> bool:
    """Return whether to load in 4-bit; if it is wanted and not possible, say so in one line.

    Args:
        wanted: the knob `load_in_4bit`.
        device: where the model shall live.
    """
    reason = why_no_4bit(torch.device(device).type) if wanted else None
    if reason is not None:
        log(f"这台机器做不了 4-bit 量化（{reason}），改为不量化加载：内存占用更大，其余照常。")
    return wanted and reason is None


@functools.cache
def why_no_4bit(device_type: str) -> str | None:
    """Try a tiny 4-bit product on a device, there and back; return what is missing, None if it works.

    bitsandbytes is a package of native code: on some systems it can't be installed or imported, on others it
    lacks the kernels of a device.
    """
    try:
        import_bitsandbytes()
        import bitsandbytes

        weight, state = bitsandbytes.functional.quantize_4bit(
            torch.ones(64, 64, device=device_type), quant_type="nf4", compress_statistics=True
        )
        inputs = torch.ones(2, 64, device=device_type, requires_grad=True)
        bitsandbytes.matmul_4bit(inputs, weight.t(), quant_state=state).sum().backward()
    except Exception as error:  # whatever native code that is missing or too old comes up with
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return None if inputs.grad is not None else "bitsandbytes 没有算出梯度"

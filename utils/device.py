"""Where and how precisely a run computes: accelerate's `Accelerator`, by the rules of this project."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING

from utils.common_utils import UserError, log

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

# That a process waits for the slowest, such as the first one while it answers the whole of dev: the default
# of NCCL is 10 minutes.
PATIENCE = timedelta(days=30)
_PRECISION_NAMES = {"fp16": "FP16 混合精度", "bf16": "BF16 混合精度", "no": "FP32"}


def limit_primitive_cache() -> None:
    """Keep the CPU's memory from growing with every new batch shape; call it before the first computation.

    oneDNN keeps a compiled product, with its scratch memory, for each of the last 1,024 shapes that it met.
    Batches padded to their longest sample have a new shape nearly every time.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def check_device_name(device: str | None) -> None:
    """Make sure, without torch, that a device is written as torch wants it.

    Raises:
        UserError: it is no CPU and no CUDA card.
    """
    if device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"--device 应当写成 cpu、cuda 或 cuda:1 这样，现在是 {device!r}。")


def check_device(device: str | None) -> None:
    """Make sure that a device asked for by name is there.

    Raises:
        UserError: it is no CPU and no CUDA card, or a card that torch can't see.
    """
    import torch

    check_device_name(device)
    if device is None or device == "cpu":
        return
    available = torch.cuda.device_count()
    if (torch.device(device).index or 0) >= available:
        raise UserError(f"指定了 --device {device}，但可用的 CUDA GPU 有 {available} 块，请检查 nvidia-smi。")


def make_accelerator(device: str | None, *, fp16: bool, bf16: bool) -> Accelerator:
    """Choose device and precision, and say so on the main process.

    Args:
        device: "cpu", "cuda", "cuda:1"; None takes CUDA where there is one. Under a launcher of several
            processes each gets its own card whatever this says (but for "cpu").
        fp16: fp16 autocast with loss scaling. On the CPU bf16 stands in for it, because fp16 products there
            fall into a scalar loop, hundreds of times slower in a 4-bit backward.
        bf16: bf16 autocast. With neither, everything is fp32.
    """
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if device and not on_cpu and "LOCAL_RANK" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    precision = "bf16" if bf16 or (fp16 and on_cpu) else "fp16" if fp16 else "no"
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu, kwargs_handlers=[patience])
    if accelerator.is_main_process:
        note = "（CPU 上 FP16 极慢，已自动改用 BF16）" if fp16 and on_cpu else ""
        processes = f"，{accelerator.num_processes} 个进程" if accelerator.num_processes > 1 else ""
        log(f"设备 {accelerator.device}{processes}，{_PRECISION_NAMES[precision]}{note}")
    return accelerator


def weight_dtype(accelerator: Accelerator) -> torch.dtype:
    """Return the type that weights are kept in for the precision chosen."""
    import torch

    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16, "no": torch.float32}
    return dtypes[accelerator.mixed_precision]


def quant_storage(accelerator: Accelerator) -> torch.dtype:
    """Return the type that the bytes of 4-bit weights are declared as.

    FSDP splits floating types only, and leaves alone only what already has the type it computes in.
    """
    import torch

    return weight_dtype(accelerator) if accelerator.distributed_type == "FSDP" else torch.uint8

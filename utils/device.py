"""Where and how precisely a run computes: accelerate's `Accelerator`, by the rules of this project."""

from __future__ import annotations

import functools
import os
import time
from typing import NamedTuple

import torch
from accelerate import Accelerator, AutocastKwargs, InitProcessGroupKwargs

from utils.common_utils import UserError, log
from utils.launcher import PATIENCE
from utils.startup import check_device_name

_PRECISION_NAMES = {"fp16": "FP16 混合精度", "bf16": "BF16 混合精度", "no": "FP32"}


class Precision(NamedTuple):
    """What products are computed in.

    Attributes:
        name: as accelerate calls it: "fp16", "bf16" or "no" (fp32).
        reason: why it isn't what was asked for, in Chinese; empty if it is.
    """

    name: str
    reason: str = ""

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights and activations."""
        return {"fp16": torch.float16, "bf16": torch.bfloat16, "no": torch.float32}[self.name]

    def describe(self) -> str:
        """Return the precision, and why, in Chinese."""
        return _PRECISION_NAMES[self.name] + (f"（{self.reason}）" if self.reason else "")


@functools.cache
def multiplies_bf16() -> bool:
    """Tell whether the CPU has instructions for products in bf16.

    Without them such products run in scalar loops, 10 to 40 times slower than in fp32 (so do fp16's on nearly
    every CPU). oneDNN knows, and follows `ONEDNN_MAX_CPU_ISA`; where torch is built without it, a product of
    each type is timed.
    """
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return _seconds_of_product(torch.bfloat16) < 1.2 * _seconds_of_product(torch.float32)


def _seconds_of_product(dtype: torch.dtype) -> float:
    """Time a product of the size that training has; the best of three."""
    left, right = torch.ones(128, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    times = []
    for _ in range(4):  # the first one sets things up
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return min(times[1:])


def choose_precision(device: str | torch.device, *, fp16: bool, bf16: bool) -> Precision:
    """Choose what to compute in; the one place that decides, for training, extraction, checks, benchmarks.

    On CUDA it is what was asked for. On the CPU, half precision is bf16 where the CPU multiplies it natively,
    else fp32: fp16 and emulated bf16 products fall into scalar loops.

    Args:
        device: where to.
        fp16, bf16: the knobs; with neither it is fp32.
    """
    if not (fp16 or bf16):
        return Precision("no")
    if torch.device(device).type == "cuda":
        return Precision("bf16" if bf16 else "fp16")
    if not multiplies_bf16():
        return Precision("no", "这个 CPU 没有 BF16 乘法指令，FP32 快得多，已自动改用")
    return Precision("bf16", "CPU 上 FP16 极慢，已自动改用 BF16" if fp16 else "")


def avoid_planning_kernels() -> None:
    """Keep attention on CUDA from kernels that plan anew for each shape, as cuDNN's do: 1 to 2 ms a layer.

    Here nearly every pass has a shape of its own.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def compute_dtype(device: str | torch.device, *, fp16: bool = True, bf16: bool = False) -> torch.dtype:
    """Return the type that `choose_precision` chooses; half precision where the device has it by default."""
    return choose_precision(device, fp16=fp16, bf16=bf16).dtype


def check_device(device: str | None) -> None:
    """Make sure that a device asked for by name is there.

    Raises:
        UserError: it is no CPU and no CUDA card, or a card that torch can't see.
    """
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
        fp16: fp16 autocast with loss scaling; on the CPU see `choose_precision`.
        bf16: bf16 autocast. With neither, everything is fp32.
    """
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if device and not on_cpu and "LOCAL_RANK" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    precision = choose_precision("cpu" if on_cpu else "cuda", fp16=fp16, bf16=bf16)
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    # Each weight is cast once a pass, so that a cache of what is cast saves nothing; it is shared by threads.
    casting = AutocastKwargs(cache_enabled=not on_cpu)
    avoid_planning_kernels()
    accelerator = Accelerator(mixed_precision=precision.name, cpu=on_cpu, kwargs_handlers=[patience, casting])
    if accelerator.is_main_process:
        processes = f"，{accelerator.num_processes} 个进程" if accelerator.num_processes > 1 else ""
        log(f"设备 {accelerator.device}{processes}，{precision.describe()}")
    return accelerator


def default_device() -> str:
    """Return the device that is used unless another is asked for: CUDA where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def weight_dtype(accelerator: Accelerator) -> torch.dtype:
    """Return the type that weights are kept in for the precision chosen."""
    return Precision(accelerator.mixed_precision).dtype


def quant_storage(accelerator: Accelerator) -> torch.dtype:
    """Return the type that the bytes of 4-bit weights are declared as.

    FSDP splits floating types only, and leaves alone only what already has the type it computes in.
    """
    return weight_dtype(accelerator) if accelerator.distributed_type == "FSDP" else torch.uint8

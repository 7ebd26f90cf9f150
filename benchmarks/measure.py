"""What the benchmarks share: the peak memory of a stretch of code, and how results are shown."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from utils.memory import GB
from utils.table import format_table

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "sentencepiece", "numpy")


def peak_during(device: torch.device, run: Callable[[], object]) -> tuple[int, int]:
    """Run something; return the bytes in use before it, and at most during it.

    On CUDA what tensors take; on the CPU the resident set of this process, whose high-water mark Linux resets
    on request.

    Raises:
        OSError: on the CPU, where there is no /proc/self/clear_refs.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return before, torch.cuda.max_memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)  # give back what is free, or it would hide what is taken next
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident("VmRSS")
    run()
    return before, resident("VmHWM")


def peak_so_far(device: torch.device) -> int:
    """Return the bytes in use at most since `peak_during` was called last."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM")


def resident(field: str) -> int:
    """Return a field of /proc/self/status, such as VmRSS (now) or VmHWM (at most so far), in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(field)


def device_name(device: torch.device) -> str:
    """Return what the figures were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def show(rows: Sequence[Sequence[str]], result: dict[str, Any], device: torch.device) -> None:
    """Print a table whose first row is its head, and as the last line a JSON object of the results."""
    print(format_table(rows[0], rows[1:]))
    versions = {name: version(name) for name in LIBRARIES}
    print(json.dumps({**result, "device": device_name(device), "versions": versions}))


def gigabytes(size: int) -> str:
    """Return a size for a table."""
    return f"{size / GB:.2f} GB"

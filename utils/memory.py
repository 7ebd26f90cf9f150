"""How much memory a run uses: the card's on CUDA, the process's on the CPU. All figures in bytes."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from utils.launcher import read_launcher

GB = 2**30
CUDA_CONTEXT = GB  # CUDA context, kernels, and what the allocator can't use


class MemoryReading(NamedTuple):
    """Bytes of one moment. On the CPU `allocated` is the resident set and `reserved` is the same."""

    allocated: int
    reserved: int
    peak: int
    total: int
    on_cuda: bool

    def brief(self) -> str:
        """Return what is in use as a few characters for a progress bar."""
        return f"{'显存' if self.on_cuda else '内存'} {self.allocated / GB:.1f} GB"

    def describe(self) -> str:
        """Return the figures as one Chinese phrase, in GB."""
        peak, total = f"峰值 {self.peak / GB:.2f}", f"共 {self.total / GB:.1f} GB"
        if self.on_cuda:
            return f"显存 已分配 {self.allocated / GB:.2f} 已保留 {self.reserved / GB:.2f} {peak} {total}"
        return f"进程内存 {self.allocated / GB:.2f} {peak} {total}"


def read_memory(device: torch.device) -> MemoryReading:
    """Read what is in use now and at most so far, on the device that the model lives on."""
    if device.type == "cuda":
        return MemoryReading(
            torch.cuda.memory_allocated(device),
            torch.cuda.memory_reserved(device),
            torch.cuda.max_memory_allocated(device),
            torch.cuda.get_device_properties(device).total_memory,
            on_cuda=True,
        )
    resident = psutil.Process().memory_info().rss
    return MemoryReading(
        resident, resident, max(_peak_resident(), resident), psutil.virtual_memory().total, False
    )


def memory_budget(device: torch.device, limit_gb: float) -> int:
    """Return the bytes that one process may use: what is free on its device, at most `limit_gb` GB.

    On the CPU the processes of this machine, or of this container, share what is free.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = min([psutil.virtual_memory().available, *_free_in_cgroups()])
        free //= read_launcher().local_world_size
    return int(min(free, limit_gb * GB))


def _free_in_cgroups(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Return what each control group of this process (a container's, say) with a memory limit leaves of it.

    Pages of files count as free, they can be dropped. Versions 1 and 2 (kernel.org, cgroup-v2, "Memory").
    """
    free = []
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, limit_name, used_name = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top, limit_name, used_name = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts) + 1):  # a limit of any group above counts too
            group = top.joinpath(*parts[:depth])
            try:
                limit = int((group / limit_name).read_text(encoding="utf-8"))
                used = int((group / used_name).read_text(encoding="utf-8"))
                stat = (group / "memory.stat").read_text(encoding="utf-8")
            except (OSError, ValueError):  # no such group in this container's view, or no limit ("max")
                continue
            pages = dict(entry.split() for entry in stat.splitlines())
            files = sum(int(pages.get(name, 0)) for name in ("inactive_file", "active_file"))
            free.append(max(0, limit - used + files))
    return free


def map_large_allocations() -> None:
    """Let each allocation of 1 MB or more go back to the system as soon as it is freed (glibc; else nothing).

    It would keep most of them for later otherwise, in pieces that the next tensors often don't fit into: two
    steps of ChatGLM-6B on the CPU took 12.1 GB instead of 9.0. The mapping costs small models time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return
    m_mmap_threshold = -3  # of malloc.h
    mallopt(m_mmap_threshold, 2**20)


def give_back_free_memory() -> None:
    """Give the gaps between allocations, which grow in what runs for days, back to the system (glibc)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return
    trim(0)


def _peak_resident() -> int:
    """Return the largest resident set of this process so far, 0 where the system doesn't tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""What a command settles before torch is loaded."""

from __future__ import annotations

import os
import re

from utils.common_utils import UserError


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

"""Weight files: their tensors one by one, safetensors or `.bin`, and the names that identify them.

Pickles are read with weights-only loading: nothing of a file is ever executed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from bases.interface import CheckpointError
from bases.model_dir import refuse_lfs_pointer
from utils.torch_file import TensorNote, look_through

# The types that numbers may have, by the names of safetensors and of torch's storages.
_DTYPES = {
    **dict.fromkeys(("F16", "Half"), torch.float16),
    **dict.fromkeys(("BF16", "BFloat16"), torch.bfloat16),
    **dict.fromkeys(("F32", "Float"), torch.float32),
    **dict.fromkeys(("F64", "Double"), torch.float64),
    **dict.fromkeys(("U8", "Byte"), torch.uint8),
    **dict.fromkeys(("I8", "Char"), torch.int8),
    **dict.fromkeys(("I16", "Short"), torch.int16),
    **dict.fromkeys(("I32", "Int"), torch.int32),
    **dict.fromkeys(("I64", "Long"), torch.int64),
    **dict.fromkeys(("BOOL", "Bool"), torch.bool),
}
# What a weight that is not quantised may be.
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WRAPPERS = re.compile(r"(module|_orig_mod|base_model\.model)\.")

_SAMPLE = 256  # elements from either end of a tensor that enter the fingerprint


def list_tensors(path: Path) -> dict[str, tuple[torch.dtype | str, tuple[int, ...]]]:
    """Return type and shape of each tensor of a weight file by the model's name for it; no number is read.

    (A type that no tensor here may have stays a name.)

    Raises:
        CheckpointError: the file is damaged, holds anything but tensors, or asks for more memory than it has
            bytes.
    """
    refuse_lfs_pointer(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt", device="cpu") as shard:
                slices = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118 (no dict)
                notes: dict[str, Any] = {
                    name: TensorNote(part.get_dtype(), tuple(part.get_shape()))
                    for name, part in slices.items()
                }
        else:
            notes = _state_of(look_through(path))
    except SafetensorError as error:
        raise CheckpointError(f"权重文件 {path} 已损坏（{error}），请重新下载。") from error
    except MemoryError as error:  # of a limit set for the process; mapping a file takes no memory itself
        raise CheckpointError(f"权重文件 {path} 太大，超过了允许这个进程使用的内存（ulimit -v）。") from error
    except PermissionError as error:
        raise CheckpointError(f"读不了权重文件 {path}（{error.strerror}），请检查权限。") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"权重文件 {path} 已损坏，或含有张量以外的内容，拒绝加载（{error}）。"
        ) from error
    if not all(isinstance(name, str) and isinstance(note, TensorNote) for name, note in notes.items()):
        raise CheckpointError(f"权重文件 {path} 含有张量以外的内容，拒绝加载。")
    return {model_name(name): (_DTYPES.get(kind, kind), shape) for name, (kind, shape) in notes.items()}


def read_shard(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the (name, tensor) pairs of one weight file, memory-mapped where the format allows it.

    Args:
        path: a file that `list_tensors` has passed.

    Yields:
        The model's name for a tensor, whatever wrapper it was saved in, and the tensor.

    Raises:
        CheckpointError: the file can't be read.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt", device="cpu") as shard:
                for name in shard.keys():  # noqa: SIM118 (a safetensors handle is no dict)
                    yield model_name(name), shard.get_tensor(name)
            return
        # Files written by torch < 1.6 are no zip archives and can't be memory-mapped.
        state = _state_of(torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path)))
    except SafetensorError as error:
        raise CheckpointError(f"权重文件 {path} 已损坏（{error}），请重新下载。") from error
    except PermissionError as error:
        raise CheckpointError(f"读不了权重文件 {path}（{error.strerror}），请检查权限。") from error
    except MemoryError:
        raise
    except Exception as error:  # weights-only loading has no exception type of its own for refusals
        raise CheckpointError(f"权重文件 {path} 已损坏，或含有张量以外的内容，拒绝加载。") from error
    for name in list(state):
        yield model_name(name), state.pop(name)


def _state_of(content: Any) -> dict[str, Any]:
    """Return the state dictionary of what a `.bin` file holds: itself, or within a wrapper's.

    Raises:
        ValueError: there is none.
    """
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError("不是参数字典")
    return content


def model_name(name: str) -> str:
    """Return the model's own name for a tensor that was saved through a wrapper (DDP, PEFT, compile)."""
    while (prefix := _WRAPPERS.match(name)) is not None:
        name = name[prefix.end() :]
    return name.replace(".base_layer.", ".")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's shape and outermost elements (as fp32, whatever the file's type)."""
    flat = tensor.reshape(-1)
    sample = torch.cat([flat[:_SAMPLE], flat[-_SAMPLE:]]).float().cpu().numpy().tobytes()
    return hashlib.sha256(str(tuple(tensor.shape)).encode() + sample).hexdigest()


def fingerprint(digests: dict[str, str]) -> str:
    """Return one name for a set of weights, independent of their files' format and sharding."""
    return hashlib.sha256("".join(f"{k}{digests[k]}" for k in sorted(digests)).encode()).hexdigest()


@contextlib.contextmanager
def full_disk_told() -> Iterator[None]:
    """Make an ordinary error of what safetensors, writing, has of its own for a disk that takes no more.

    Raises:
        OSError: the disk is full or not writable.
    """
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number)) from error

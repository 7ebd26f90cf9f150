"""Weight files: their tensors one by one, safetensors or `.bin`, and the names that identify them.

Pickles are read with weights-only loading: nothing of a file is ever executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from bases.interface import CheckpointError

_SAMPLE = 256  # elements from either end of a tensor that enter the fingerprint


def read_shard(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the (name, tensor) pairs of one weight file, memory-mapped where the format allows it.

    Raises:
        CheckpointError: the file is damaged, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt", device="cpu") as shard:
                for name in shard.keys():  # noqa: SIM118 (a safetensors handle is no dict)
                    yield name, shard.get_tensor(name)
            return
        # Files written by torch < 1.6 are no zip archives and can't be memory-mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except SafetensorError as error:
        raise CheckpointError(f"权重文件 {path} 已损坏（{error}），请重新下载。") from error
    except PermissionError as error:
        raise CheckpointError(f"读不了权重文件 {path}（{error.strerror}），请检查权限。") from error
    except MemoryError:
        raise
    except Exception as error:  # weights-only loading has no exception type of its own for refusals
        raise CheckpointError(f"权重文件 {path} 已损坏，或含有张量以外的内容，拒绝加载。") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"权重文件 {path} 含有张量以外的内容，拒绝加载。")
    for name in list(state):
        yield name, state.pop(name)


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

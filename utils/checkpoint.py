"""Directories that are whole or absent: adapters, and checkpoints that a run continues from."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from utils.common_utils import UserError

_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
STATE_FILE = "training_state.pt"


def write_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Create or replace a directory in one step, so that a reader finds the old one, the new one or none.

    Args:
        path: the directory's final place; its parent is created.
        fill: writes the files into the (empty) directory that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    try:
        fill(new)
        for file in new.rglob("*"):
            if file.is_file():
                _sync(file)
        _sync(new)
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Force a file or directory to the disk (directories can't be opened on Windows)."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_checkpoints(save_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    found = []
    for path in save_dir.glob("checkpoint-*"):
        match = _CHECKPOINT_NAME.fullmatch(path.name)
        if match and (path / STATE_FILE).is_file():
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def checkpoint_path(save_dir: Path, global_step: int) -> Path:
    """Return where the checkpoint after an optimiser step belongs."""
    return save_dir / f"checkpoint-{global_step}"


def remove_old_checkpoints(save_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints (at least one is kept)."""
    for path in list_checkpoints(save_dir)[: -max(keep, 1)]:
        shutil.rmtree(path)


def find_checkpoint(save_dir: Path, wanted: str) -> Path:
    """Return the checkpoint to resume from: `wanted` is a directory or "auto" for the newest.

    Raises:
        UserError: there is none.
    """
    if wanted == "auto":
        checkpoints = list_checkpoints(save_dir)
        if not checkpoints:
            raise UserError(
                f"{save_dir} 里没有可继续的检查点（checkpoint-*），请去掉 --resume_from_checkpoint 从头训练。"
            )
        return checkpoints[-1]
    path = Path(wanted)
    if not (path / STATE_FILE).is_file():
        raise UserError(f"检查点 {wanted} 不存在或不完整（缺 {STATE_FILE}），请换一个，或写 auto 用最新的。")
    return path


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read the training state of a checkpoint; only tensors and plain values are accepted.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:  # weights-only loading has no exception type of its own for refusals
        raise UserError(f"检查点 {checkpoint} 已损坏，无法继续，请换用更早的检查点。") from error


def random_state() -> dict[str, Any]:
    """Return the state of every random generator, as tensors and plain values."""
    import numpy as np

    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    keys = torch.from_numpy(numpy_state["state"]["key"].astype("int64"))
    numpy_rest = numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]
    return {
        "python": random.getstate(),
        "numpy": (keys, *numpy_rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every random generator back where `random_state` found it."""
    import numpy as np

    random.setstate(state["python"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype("uint32"), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])

"""Directories that are whole or absent: adapters, token caches, checkpoints that a run continues from."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from utils.common_utils import UserError, log

_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
_LEFTOVER_NAME = re.compile(r"\.(model_best|checkpoint-\d+)\.(old|new|trash)")
STATE_FILE, MANIFEST_FILE = "training_state.pt", "manifest.json"


def write_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Create or replace a directory in one step, so that a reader finds the old one or the new one.

    The files are written beside, with a manifest of their sizes and SHA-256, forced to the disk, and renamed.
    (Between the two renames of a replacement there is a moment without either; `recover_directories` mends
    what a kill in that moment leaves.)

    Args:
        path: the directory's final place; its parent is created.
        fill: writes the files into the (empty) directory that it is given.

    Raises:
        OSError: the disk is full or not writable; what was at `path` before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = _beside(path)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    try:
        fill(new)
        files = {
            file.relative_to(new).as_posix(): _describe(file) for file in new.rglob("*") if file.is_file()
        }
        (new / MANIFEST_FILE).write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")
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


def _beside(path: Path) -> tuple[Path, Path]:
    """Return where a directory is while it is being written, and where its predecessor waits."""
    return path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")


def _describe(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": file_digest(file)}


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def find_damage(directory: Path, names: tuple[str, ...] | None = None) -> str | None:
    """Say in Chinese what is wrong with a directory that `write_directory` made; None if it is whole.

    Args:
        directory: the directory.
        names: the files to check; all that the manifest lists when None.
    """
    try:
        files = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        entries = {name: files[name] for name in (files if names is None else names)}
        for name, entry in entries.items():
            if not (directory / name).is_file():
                return f"缺少 {name}"
            if (directory / name).stat().st_size != entry["size"]:
                return f"{name} 的大小不对"
            if _describe(directory / name) != entry:
                return f"{name} 的内容与校验和不符"
    except OSError as error:
        return f"{Path(error.filename or MANIFEST_FILE).name} 读不出来"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST_FILE} 已损坏"
    return None


def recover_directories(save_dir: Path) -> None:
    """Put right what a kill while writing left: undo half a replacement, drop what is half-written.

    Only what bears the name of a run's own directory is touched.
    """
    for leftover in save_dir.glob(".*"):
        match = _LEFTOVER_NAME.fullmatch(leftover.name)
        if match is None:
            continue
        path = leftover.with_name(match[1])
        if match[2] == "old" and not path.exists():
            leftover.rename(path)
        shutil.rmtree(leftover, ignore_errors=True)


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
    """Return the checkpoints of a run, whole or not, oldest first."""
    found = [path for path in save_dir.glob("checkpoint-*") if _CHECKPOINT_NAME.fullmatch(path.name)]
    return sorted(found, key=_step_of)


def _step_of(checkpoint: Path) -> int:
    match = _CHECKPOINT_NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def checkpoint_path(save_dir: Path, global_step: int) -> Path:
    """Return where the checkpoint after an optimiser step belongs."""
    return save_dir / f"checkpoint-{global_step}"


def remove_old_checkpoints(saved: Path, keep: int) -> None:
    """Delete all but `keep` checkpoints (at least one): the one just saved and those before it.

    One of a later step is what resuming has passed over as damaged, so it goes first.
    """
    step = _step_of(saved)
    others = [path for path in list_checkpoints(saved.parent) if path != saved]
    others.sort(key=lambda path: (_step_of(path) < step, _step_of(path)))
    for path in others[: max(0, len(others) - max(keep, 1) + 1)]:
        trash = path.with_name(f".{path.name}.trash")
        shutil.rmtree(trash, ignore_errors=True)
        path.rename(trash)  # in one step, so that a kill never leaves half a checkpoint under its name
        shutil.rmtree(trash)


def find_checkpoint(save_dir: Path, wanted: str) -> Path:
    """Return the checkpoint to resume from: `wanted` is a directory, or "auto" for the newest whole one.

    Damaged checkpoints that "auto" passes over are named on stderr.

    Raises:
        UserError: there is none, it is damaged, or whole checkpoints of `save_dir` are newer than it (the run
            would write among them).
    """
    if wanted == "auto":
        for path in reversed(list_checkpoints(save_dir)):
            damage = find_damage(path)
            if damage is None:
                return path
            log(f"检查点 {path} 已损坏（{damage}），改用更早的一个。")
        raise UserError(
            f"{save_dir} 里没有可继续的完整检查点（checkpoint-*），请去掉 --resume_from_checkpoint 从头训练。"
        )
    path = Path(wanted)
    damage = find_damage(path) if path.is_dir() else "目录不存在"
    if damage is not None:
        raise UserError(f"检查点 {wanted} 不能用（{damage}），请换一个，或写 auto 用最新的完整检查点。")
    newer = [
        other
        for other in list_checkpoints(save_dir)
        if path.resolve().parent == save_dir.resolve() and _step_of(other) > _step_of(path)
    ]
    if any(find_damage(other) is None for other in newer):
        raise UserError(
            f"{save_dir} 里还有比 {path.name} 更新的检查点（{newer[-1].name}）；"
            "确实要从较早的继续，请先把更新的移走，或写 auto 从最新的继续。"
        )
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
        for device, cuda_state in enumerate(
            state["cuda"][: torch.cuda.device_count()]
        ):  # there may be fewer now
            torch.cuda.set_rng_state(cuda_state, device)

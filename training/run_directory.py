"""The directory of a run: its lock, its checkpoints found and rotated, what is its own. Needs no torch."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bases.adapter_files import CONFIG_FILE
from utils.common_utils import UserError, log
from utils.directories import MANIFEST_FILE, find_damage, real_path, recover_directory, remove, write_file
from utils.small_json import read_json_object

STATE_FILE = "training_state.pt"
MARKER_FILE = ".training_run.json"  # says that a directory is a run's own, and whether the run has ended
RESULTS_FILE = "eval_results.jsonl"  # the answers of the final evaluation, for export.report
# Beside model_best and the checkpoints:
_LOGS = ("tensorboard", "metrics.jsonl", "eval_report.json", RESULTS_FILE)
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
_OWN_NAME = re.compile(r"\.(model_best|checkpoint-\d+)\.(old|new|trash)")


# ---- one run at a time


class RunLock:
    """A directory held for this process; should it be killed, the system drops the lock.

    The lock is on the directory itself, from which nothing can be deleted to be rid of it; only where a file
    system can't do that, on the file `.lock` in it.

    Raises:
        UserError: another run has it, or files can't be written there.
    """

    def __init__(self, save_dir: Path) -> None:
        self._save_dir = save_dir
        self._descriptor: int | None = None
        self._file: FileLock | None = None
        try:
            save_dir.mkdir(parents=True, exist_ok=True)
            if not self._lock_directory():
                self._file = FileLock(save_dir / ".lock")
                self._file.acquire(timeout=0)
            if not os.access(save_dir, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._locked = save_dir if self._file is None else save_dir / ".lock"
            self._held = self._locked.stat()
        except (Timeout, BlockingIOError) as error:
            raise UserError(
                f"另一个训练正在使用 {save_dir}，请等它结束，或用 --save_dir 换一个目录。"
            ) from error
        except OSError as error:
            raise UserError(
                f"输出目录 {save_dir} 不可写（{error.strerror}），请检查权限或换一个 --save_dir。"
            ) from error

    def _lock_directory(self) -> bool:
        """Lock the directory itself; tell whether its file system can do that."""
        try:
            import fcntl
        except ImportError:  # Windows
            return False
        descriptor = os.open(self._save_dir, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:  # NFS, for one
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        os.register_at_fork(after_in_child=self._close)  # a data worker may outlive a killed run for seconds
        return True

    def _close(self) -> None:
        """Close this process's hold on the directory; one that others share is theirs to the last."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def check(self) -> None:
        """Make sure, before something is saved, that what was locked is still in its place.

        Raises:
            OSError: it was deleted or replaced, so another run may have the directory by now.
        """
        try:
            same = os.path.samestat(self._held, self._locked.stat())
        except OSError:
            same = False
        if not same:
            raise OSError(0, f"{self._locked} 在训练中被删除或换掉了")

    def release(self) -> None:
        """Let others have the directory."""
        self._close()
        if self._file is not None:
            self._file.release()


@contextlib.contextmanager
def lock_directory(save_dir: Path) -> Iterator[RunLock]:
    """Hold a directory for this process, see `RunLock`."""
    lock = RunLock(save_dir)
    try:
        yield lock
    finally:
        lock.release()


# ---- whose it is


def write_marker(save_dir: Path, finished: bool, about: dict[str, Any] | None = None) -> None:
    """Say that a directory belongs to a run, and whether the run has come to its end.

    Args:
        save_dir: the directory.
        finished: it has.
        about: what else there is to say of it (knobs, steps, memory), for those who look on; what was said
            before stays if None.
    """
    if about is None:
        try:
            about = read_json_object(save_dir / MARKER_FILE)
        except (OSError, ValueError):
            about = {}
    content = {**about, "finished": finished}
    write_file(save_dir / MARKER_FILE, json.dumps(content, ensure_ascii=False) + "\n")


def is_unfinished(save_dir: Path) -> bool:
    """Tell whether a run was begun in a directory and did not come to its end."""
    try:
        return read_json_object(save_dir / MARKER_FILE)["finished"] is False
    except (OSError, ValueError, KeyError):
        return False


def has_results(save_dir: Path) -> bool:
    """Tell whether a directory holds an earlier run's checkpoints or best adapter."""
    return bool(list_checkpoints(save_dir)) or os.path.lexists(save_dir / "model_best")


def has_foreign_results(save_dir: Path, resume_from: str | None, overwrite: bool) -> bool:
    """Tell whether a directory holds results that a run started so would write among.

    Args:
        save_dir: of the run.
        resume_from: a checkpoint or "auto", which may be of this directory; None to begin anew.
        overwrite: they are to be cleared away.

    Raises:
        UserError: there is no such checkpoint to resume from.
    """
    home = None
    if resume_from is not None:
        checkpoint = find_checkpoint(save_dir, resume_from)
        if checkpoint is None and is_unfinished(save_dir):
            return False  # of this run itself, killed before its first checkpoint
        home = real_path(checkpoint).parent if checkpoint is not None else None
    return home != real_path(save_dir) and not overwrite and has_results(save_dir)


def foreign_files(save_dir: Path) -> list[str]:
    """Return the names of what a run would overwrite or delete in a directory that is no run's own."""
    own = (save_dir / MARKER_FILE).is_file() or any(
        (path / MANIFEST_FILE).is_file() for path in (*list_checkpoints(save_dir), save_dir / "model_best")
    )
    return [] if own else [name for name in _LOGS if os.path.lexists(save_dir / name)]


def clear_results(save_dir: Path) -> None:
    """Delete what an earlier run left in a directory, and nothing else."""
    for path in (*list_checkpoints(save_dir), save_dir / "model_best", *(save_dir / name for name in _LOGS)):
        remove(path)


def recover_directories(save_dir: Path) -> None:
    """Put right what a kill while writing left: undo half a replacement, drop what is half-written.

    Only what bears the name of a run's own directory is touched.
    """
    for leftover in save_dir.glob(".*"):
        match = _OWN_NAME.fullmatch(leftover.name)
        if match is None:
            continue
        if match[2] == "trash":
            remove(leftover)
        else:
            recover_directory(leftover.with_name(match[1]))


def recover(save_dir: Path) -> None:
    """Do `recover_directories` where there is such a directory, while no other run is in it.

    Raises:
        UserError: one is.
    """
    if save_dir.is_dir():
        with lock_directory(save_dir):
            recover_directories(save_dir)


# ---- checkpoints


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
        remove(trash)
        path.rename(trash)  # in one step, so that a kill never leaves half a checkpoint under its name
        remove(trash)


def checkpoint_damage(checkpoint: Path) -> str | None:
    """Say in Chinese what is wrong with a checkpoint; None if it is whole."""
    if not checkpoint.is_dir():
        return "目录不存在"
    return find_damage(checkpoint) or find_damage(checkpoint, (STATE_FILE,))


def find_checkpoint(save_dir: Path, wanted: str) -> Path | None:
    """Return the checkpoint to resume from: `wanted` is a directory, or "auto" for the newest whole one.

    Damaged checkpoints that "auto" passes over are named on stderr. Where there are none at all, "auto"
    returns None: the run begins.

    Raises:
        UserError: it is damaged, or all are; or whole checkpoints of `save_dir` are newer than it (the run
            would write among them).
    """
    checkpoints = list_checkpoints(save_dir)
    if wanted == "auto":
        for path in reversed(checkpoints):
            damage = checkpoint_damage(path)
            if damage is None:
                return path
            log(f"检查点 {path} 已损坏（{damage}），改用更早的一个。")
        if checkpoints:
            raise UserError(
                f"{save_dir} 里没有可继续的完整检查点（checkpoint-*），"
                "请去掉 --resume_from_checkpoint 从头训练。"
            )
        return None
    path = Path(wanted)
    damage = checkpoint_damage(path)
    if damage is not None:
        raise UserError(f"检查点 {wanted} 不能用（{damage}），请换一个，或写 auto 用最新的完整检查点。")
    newer = [
        other
        for other in checkpoints
        if real_path(path).parent == real_path(save_dir) and _step_of(other) > _step_of(path)
    ]
    if any(checkpoint_damage(other) is None for other in newer):
        raise UserError(
            f"{save_dir} 里还有比 {path.name} 更新的检查点（{newer[-1].name}）；"
            "确实要从较早的继续，请先把更新的移走，或写 auto 从最新的继续。"
        )
    return path


def read_knobs_of(directory: Path) -> dict[str, Any]:
    """Read the configuration that a checkpoint or an adapter was made with.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return read_json_object(directory / CONFIG_FILE)
    except (OSError, ValueError) as error:
        raise UserError(f"{directory} 的 {CONFIG_FILE} 读不出来，文件缺失或已损坏，请换一个目录。") from error

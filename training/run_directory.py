"""The directory of a run: its checkpoints and its best adapter. A save that fails does not end the run."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training import state as run_state
from utils.common_utils import UserError, log
from utils.directories import (
    MANIFEST_FILE,
    checkpoint_path,
    find_checkpoint,
    list_checkpoints,
    remove_old_checkpoints,
    write_directory,
)

_RESULTS = ("model_best", "tensorboard", "metrics.jsonl", "eval_report.json")  # and the checkpoints


def clear_results(save_dir: Path) -> None:
    """Delete what an earlier run left in a directory, and nothing else."""
    for path in (*list_checkpoints(save_dir), *(save_dir / name for name in _RESULTS)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_free_space(save_dir: Path, need: int) -> None:
    """Make sure that a run's output will fit.

    Raises:
        UserError: less than `need` bytes are free.
    """
    free = shutil.disk_usage(save_dir).free
    if free < need:
        raise UserError(
            f"{save_dir} 所在的磁盘只剩 {free / 2**30:.2f} GB，检查点与适配器约需 {need / 2**30:.2f} GB，"
            "请清理磁盘、减小 --save_total_limit 或换一个 --save_dir。"
        )


def has_results(save_dir: Path) -> bool:
    """Tell whether a directory holds an earlier run's checkpoints or best adapter."""
    return bool(list_checkpoints(save_dir)) or (save_dir / "model_best").exists()


def results_in_the_way(save_dir: Path, resume_from: str | None, overwrite: bool) -> bool:
    """Tell whether a directory holds results that a run started so would write among.

    Args:
        save_dir: of the run.
        resume_from: a checkpoint or "auto", which may be of this directory; None to begin anew.
        overwrite: they are to be cleared away.

    Raises:
        UserError: there is no such checkpoint to resume from.
    """
    home = find_checkpoint(save_dir, resume_from).resolve().parent if resume_from is not None else None
    return home != save_dir.resolve() and not overwrite and has_results(save_dir)


class RunFiles:
    """Saves a run's adapter, alone as the best one or with the training state as a checkpoint.

    Args:
        save_dir: the run's directory.
        keep: how many checkpoints to keep.
        checkpoint_bytes: about how large one is; with less free, saving it is not begun.
        write_adapter: writes the adapter's files into an empty directory, with the metrics given.

    Attributes:
        unsaved: what the latest attempt failed to save, by name, with the reason; empty if all is saved.
    """

    def __init__(
        self,
        save_dir: Path,
        keep: int,
        checkpoint_bytes: int,
        write_adapter: Callable[[Path, dict[str, float]], None],
    ) -> None:
        self.save_dir = save_dir
        self.unsaved: dict[str, str] = {}
        self._keep = keep
        self._checkpoint_bytes = checkpoint_bytes
        self._write_adapter = write_adapter

    def save_best(self, metrics: dict[str, float]) -> bool:
        """Make the present adapter `model_best`; return whether it is."""
        target = self.save_dir / "model_best"
        return self._attempt(
            "最佳模型", lambda: write_directory(target, lambda new: self._write_adapter(new, metrics))
        )

    def adopt_best(self, home: Path, step: int) -> dict[str, Any] | None:
        """Make sure that `model_best` is there when going on from a checkpoint of the directory `home`.

        Args:
            home: may be another run's directory; its `model_best` is copied if it is of that step.
            step: of the best evaluation so far.

        Returns:
            the metrics of the best adapter, "step" among them; None if there is none. (In this directory it
            may be of a later step than the checkpoint.)
        """
        from bases.adapter import load_adapter_meta

        target, source = self.save_dir / "model_best", home / "model_best"
        own = target.exists() or home.resolve() == self.save_dir.resolve()
        try:
            metrics = load_adapter_meta(target if own else source).metrics
        except UserError:
            return None
        if own:
            return metrics
        copied = metrics.get("step") == step and self._attempt(
            "最佳模型", lambda: write_directory(target, lambda new: _copy_files(source, new))
        )
        return metrics if copied else None

    def save_report(self, text: str) -> bool:
        """Write the final evaluation's report; return whether it worked."""
        path = self.save_dir / "eval_report.json"
        return self._attempt("评估报告", lambda: path.write_text(text, encoding="utf-8"))

    def save_checkpoint(self, global_step: int, content: dict[str, Any]) -> bool:
        """Save a checkpoint with the training state `content`, drop the oldest; return whether it worked."""

        def fill(directory: Path) -> None:
            self._write_adapter(directory, {})
            run_state.save(content, directory)

        def save() -> None:
            if shutil.disk_usage(self.save_dir).free < self._checkpoint_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            path = checkpoint_path(self.save_dir, global_step)
            write_directory(path, fill)
            remove_old_checkpoints(path, self._keep)

        return self._attempt("检查点", save)

    def _attempt(self, name: str, save: Callable[[], object]) -> bool:
        """Run a save; on a full or broken disk say so, and let training go on to try again next time."""
        try:
            save()
        except (OSError, RuntimeError, UnicodeError) as error:  # RuntimeErrors are torch's and safetensors'
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            self.unsaved[name] = reason
            log(f"警告：{name}没有保存成功（{reason}），此前保存的仍然完好；训练继续，下次保存时再试。")
            return False
        self.unsaved.pop(name, None)
        return True


def _copy_files(source: Path, target: Path) -> None:
    """Copy the files of a directory but its manifest."""
    for file in source.iterdir():
        if file.is_file() and file.name != MANIFEST_FILE:
            shutil.copy2(file, target)

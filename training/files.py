"""Saves into a run's directory, each whole or not at all; one that fails costs that save only."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bases.adapter import META_FILE, load_adapter_meta
from training import state as run_state
from training.run_directory import RESULTS_FILE, RunLock, checkpoint_path, remove_old_checkpoints
from utils.common_utils import UserError, log, to_json
from utils.directories import copy_files, real_path, write_directory, write_file


class RunFiles:
    """Saves a run's adapter, alone as the best one or with the training state as a checkpoint.

    Args:
        save_dir: the run's directory.
        keep: how many checkpoints to keep.
        adapter_bytes, checkpoint_bytes: about how large they are; with less free, a save is not begun.
        lock: on the directory; None in the processes that don't save.

    Attributes:
        unsaved: what the latest attempt failed to save, by name, with the reason; empty if all is saved.
    """

    def __init__(
        self, save_dir: Path, keep: int, adapter_bytes: int, checkpoint_bytes: int, lock: RunLock | None
    ) -> None:
        self.save_dir = save_dir
        self.unsaved: dict[str, str] = {}
        self._keep = keep
        self._adapter_bytes = adapter_bytes
        self._checkpoint_bytes = checkpoint_bytes
        self._lock = lock

    def save_best(self, write_adapter: Callable[[Path], None]) -> bool:
        """Make what `write_adapter` writes `model_best`; return whether it is."""

        def save() -> None:
            self._check_space(self._adapter_bytes)
            write_directory(self.save_dir / "model_best", write_adapter)

        return self._attempt("最佳模型", save)

    def save_checkpoint(
        self, global_step: int, write_adapter: Callable[[Path], None], content: dict[str, Any]
    ) -> bool:
        """Save a checkpoint with the training state `content`, drop the oldest; return whether it worked."""

        def fill(directory: Path) -> None:
            write_adapter(directory)
            run_state.save(content, directory)

        def save() -> None:
            self._check_space(self._checkpoint_bytes)
            path = checkpoint_path(self.save_dir, global_step)
            write_directory(path, fill)
            try:
                remove_old_checkpoints(path, self._keep)
            except OSError as error:
                log(f"警告：更早的检查点没有删掉（{error.strerror or error}）。")

        return self._attempt("检查点", save)

    def save_report(self, text: str) -> bool:
        """Write the final evaluation's report; return whether it worked."""
        return self._attempt("评估报告", lambda: write_file(self.save_dir / "eval_report.json", text))

    def save_results(self, results: Iterable[dict[str, Any]]) -> bool:
        """Write the answers of the final evaluation, a line each, which `export.report` makes a page of."""
        text = "".join(f"{to_json(each)}\n" for each in results)
        return self._attempt("评估的答案", lambda: write_file(self.save_dir / RESULTS_FILE, text))

    def add_to_best(self, values: dict[str, Any]) -> bool:
        """Put fields of `AdapterMeta` that are only known now into `model_best`; tell whether it worked."""
        best = self.save_dir / "model_best"

        def fill(directory: Path) -> None:
            copy_files(best, directory)
            meta = json.loads((directory / META_FILE).read_text(encoding="utf-8")) | values
            text = json.dumps(meta, ensure_ascii=False, indent=2) + "\n"
            (directory / META_FILE).write_text(text, encoding="utf-8")

        def save() -> None:
            self._check_space(self._adapter_bytes)
            write_directory(best, fill)

        return self._attempt("最佳模型的置信度界限", save)

    def adopt_best(self, home: Path, step: int) -> dict[str, Any] | None:
        """Make sure that `model_best` is there when going on from a checkpoint of the directory `home`.

        Args:
            home: may be another run's directory; its `model_best` is copied if it is of that step.
            step: of the best evaluation so far.

        Returns:
            the metrics of the best adapter, "step" among them; None if there is none. (In this directory it
            may be of a later step than the checkpoint.)
        """
        target, source = self.save_dir / "model_best", home / "model_best"
        own = target.exists() or real_path(home) == real_path(self.save_dir)
        try:
            metrics = load_adapter_meta(target if own else source).metrics
        except UserError:
            return None
        if own:
            return metrics
        copied = metrics.get("step") == step and self._attempt(
            "最佳模型", lambda: write_directory(target, lambda new: copy_files(source, new))
        )
        return metrics if copied else None

    def _check_space(self, need: int) -> None:
        if shutil.disk_usage(self.save_dir).free < need:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _attempt(self, name: str, save: Callable[[], object]) -> bool:
        """Run a save; whatever makes it fail, say so, and let training go on to try again next time."""
        try:
            if self._lock is not None:
                self._lock.check()
            save()
        except Exception as error:  # torch's, safetensors' and peft's have no type in common
            self.unsaved[name] = reason = _reason(error)
            log(f"警告：{name}没有保存成功（{reason}），此前保存的仍然完好；训练继续，下次保存时再试。")
            return False
        self.unsaved.pop(name, None)
        return True


def _reason(error: Exception) -> str:
    """Return what went wrong in a few words."""
    if isinstance(error, OSError) and error.errno and error.strerror:
        return error.strerror
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    number = re.search(
        r"(?:os error |code: )(\d+)", text
    )  # safetensors quotes the system in words of its own
    return os.strerror(int(number[1])) if number else text

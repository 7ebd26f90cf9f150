"""Outputs that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from utils.common_utils import UserError
from utils.directories import is_special


def check_target(target: Path, force: bool, is_directory: bool = False) -> None:
    """Make sure, before the work, that an output can be written.

    Raises:
        UserError: it exists and may not be replaced, or its folder is missing or not writable.
    """
    if target.exists() or target.is_symlink():
        if target.is_dir() and not is_directory:
            raise UserError(f"输出 {target} 是目录，请给出文件名。")
        if is_special(target):
            raise UserError(f"输出 {target} 是设备或管道，不能替换，请给出文件名。")
        if not target.is_dir() and is_directory:
            raise UserError(f"输出 {target} 不是目录，这个格式要写成一个目录，请换一个 --output。")
        if not force:
            raise UserError(f"输出 {target} 已经存在，要覆盖请加 --force，或换一个 --output。")
        if is_directory and not _is_ours(target):
            raise UserError(f"目录 {target} 里不是本命令写的东西，不会覆盖它，请换一个 --output。")
    if not target.parent.is_dir():
        raise UserError(f"写不了 {target}：目录 {target.parent} 不存在，请先建好或改正路径。")
    if not os.access(target.parent, os.W_OK):
        raise UserError(f"写不了 {target}：没有写权限，请检查权限或换一个 --output。")


MARK = "import.sh"
OWN_FILES = {MARK, "entities.csv", "relations.csv"}  # of a directory that this project wrote


def _is_ours(directory: Path) -> bool:
    """Tell whether --force may delete a directory: it is empty, or an earlier export with nothing added."""
    names = {path.name for path in directory.iterdir()}
    return not names or (MARK in names and names <= OWN_FILES and not directory.is_symlink())


@contextlib.contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write a file or directory at; rename it when all went well.

    Raises:
        UserError: the system refuses to write.
    """
    new = _beside(target, "new")
    try:
        yield new
        if target.is_dir():
            old = _beside(target, "old")
            target.rename(old)
            new.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            new.replace(target)
    except OSError as error:
        raise UserError(f"写 {target} 时出错（{error.strerror or error}）：请检查权限和剩余空间。") from error
    finally:
        for leftover in new.parent.iterdir():
            if leftover.name.startswith(new.name):  # a database has files beside it
                remove(leftover)


def work_path(target: Path) -> Path:
    """Return where a work file for an output may stand: on the same disk."""
    return _beside(target, "work")


def remove_leftovers(target: Path) -> None:
    """Delete what killed exports to the same place left beside it; those that still run keep theirs."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"(\d+)\.(new|work)(\..*)?")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and not psutil.pid_exists(int(match[1])):
            remove(path)


def remove(path: Path) -> None:
    """Delete a file or directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.{what}")

"""Directories and files that are whole or absent: adapters, token caches, checkpoints, reports."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from utils.common_utils import UserError
from utils.small_json import SMALL_JSON_BYTES, read_json_object

MANIFEST_FILE = "manifest.json"


def check_is_free(path: Path, instead: str = "请换一个 --output") -> None:
    """Make sure that a directory is still to be made, or is empty.

    Args:
        path: where results are to go.
        instead: what the user can do, in Chinese.

    Raises:
        UserError: something is there.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} 已存在且不是空目录，{instead}。")


def write_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Create or replace a directory in one step, so that a reader finds the old one or the new one.

    The files are written beside, with a manifest of their sizes and SHA-256, made readable as the umask says,
    forced to the disk, and renamed. (Between the two renames of a replacement there is a moment without
    either; `recover_directory` mends what a kill in that moment leaves.) A plain file or a link at one of
    these places is no obstacle.

    Args:
        path: the directory's final place; its parent is created.
        fill: writes the files into the (empty) directory that it is given.

    Raises:
        OSError: the disk is full or not writable; what was at `path` before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = _beside(path)
    for leftover in (new, old):
        remove(leftover)
    new.mkdir()
    try:
        fill(new)
        written = list(_files_in(new))
        files = {file.relative_to(new).as_posix(): _describe(file) for file in written}
        manifest = new / MANIFEST_FILE
        manifest.write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")
        mode = manifest.stat().st_mode & 0o777
        for file in [*written, manifest]:
            file.chmod(mode)  # safetensors' own files are for their owner only
            _sync(file)
        _sync(new)
        if os.path.lexists(path):
            path.rename(old)
        new.rename(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if os.path.lexists(old) and not os.path.lexists(path):
            old.rename(path)
        raise
    _sync(path.parent)
    remove(old)


def write_file(path: Path, text: str) -> None:
    """Create or replace a text file in one step; a link at its place is replaced, not followed.

    Raises:
        OSError: the disk is full or not writable, or a directory is in the way; what was there before still
            is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = temporary_beside(path)
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def temporary_beside(path: Path) -> Path:
    """Make an empty file in the same directory, to be written and renamed to `path`.

    Its name can't be foreseen, so no link is waiting there for it. Nothing is to take the place of a device
    or a pipe: whoever may write to /dev/null as root could replace it for all.

    Raises:
        OSError: the directory is missing or not writable, or what stands at `path` is no file.
    """
    if is_special(path):
        raise OSError(errno.EINVAL, "它是设备或管道，不能替换")
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    os.close(descriptor)
    Path(name).chmod(0o666 & ~_umask())
    return Path(name)


def is_special(path: Path) -> bool:
    """Tell whether a path is a device, a pipe or a socket, or a link to one (/dev/stdout)."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _umask() -> int:
    """Return the permissions that new files are not given (which can only be asked for by setting them)."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def real_path(path: str | os.PathLike[str]) -> Path:
    """Follow all links, as `Path.resolve` does; but a circle of links, of which it makes a RuntimeError,
    stays what it is: nothing that can be read."""
    return Path(os.path.realpath(path))


def leads_outside(directory: Path, name: str) -> bool:
    """Tell whether a name in a directory, or the link that is there, leads out of the directory.

    (Files of the hub's cache are links to its `blobs` folder, two levels up; those are its own.)
    """
    path, home = real_path(directory / name), real_path(directory)
    places = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    return not any(path.is_relative_to(place) for place in places)


def remove(path: Path) -> None:
    """Delete what is at a path, if anything is: a directory with all it holds, a file, a link itself.

    What can't be deleted stays, without a word: a leftover costs disk space only.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return


def recover_directory(path: Path) -> None:
    """Put right what a kill in `write_directory` left: undo half a replacement, drop what is half-written."""
    new, old = _beside(path)
    if os.path.lexists(old) and not os.path.lexists(path):
        old.rename(path)
    for leftover in (new, old):
        remove(leftover)


def _files_in(directory: Path) -> Iterator[Path]:
    """Yield all files below a directory. (`rglob` leaves out, without a word, what it may not list.)

    Raises:
        OSError: a directory can't be listed.
    """
    for entry in os.scandir(directory):
        if entry.is_dir():
            yield from _files_in(Path(entry.path))
        else:
            yield Path(entry.path)


def _beside(path: Path) -> tuple[Path, Path]:
    """Return where a directory is while it is being written, and where its predecessor waits."""
    return path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of a directory that `write_directory` made, but its manifest, into another one."""
    for file in source.iterdir():
        if file.is_file() and file.name != MANIFEST_FILE:
            shutil.copy2(file, target)


def _describe(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": file_digest(file)}


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def find_damage(
    directory: Path, names: tuple[str, ...] | None = None, digest: Callable[[Path], str] = file_digest
) -> str | None:
    """Say in Chinese what is wrong with a directory that `write_directory` made; None if it is whole.

    Args:
        directory: the directory.
        names: the files to check; all that the manifest lists when None.
        digest: gives the SHA-256 of a file.
    """
    try:
        if leads_outside(directory, MANIFEST_FILE):
            return f"{MANIFEST_FILE} 指向目录之外的文件"
        files = read_json_object(directory / MANIFEST_FILE)["files"]
        if not files:
            return f"{MANIFEST_FILE} 是空的"
        entries = {name: files[name] for name in (files if names is None else names)}
        for name, entry in entries.items():
            if leads_outside(directory, name):
                return f"{name} 指向目录之外的文件"
            if not (directory / name).is_file():
                return f"缺少 {name}"
            size = (directory / name).stat().st_size
            if size != entry["size"] or (name.endswith(".json") and size > SMALL_JSON_BYTES):
                return f"{name} 的大小不对"
            if {"size": size, "sha256": digest(directory / name)} != entry:
                return f"{name} 的内容与校验和不符"
    except OSError as error:
        return f"{Path(error.filename or MANIFEST_FILE).name} 读不出来"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST_FILE} 已损坏"
    return None


def _sync(path: Path) -> None:
    """Force a file or directory to the disk (directories can't be opened on Windows)."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

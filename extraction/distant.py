"""Files named by address (`s3://…`) or by pattern, opened as those on the disk are."""

from __future__ import annotations

import fnmatch
import glob
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from utils.common_utils import UserError


class Status(NamedTuple):
    """What `os.stat` would say."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True)
class DistantFile:
    """A file behind an address, with as much of a `Path` as its readers need.

    Args:
        address: such as `s3://bucket/folder/file.jsonl`.
    """

    address: str

    def __str__(self) -> str:
        return self.address

    @property
    def suffix(self) -> str:
        """The ending of its name."""
        return PurePosixPath(self.address).suffix

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open it for reading bytes."""
        files, path = file_system(self.address)
        return cast(BinaryIO, io.BufferedReader(files.open_input_file(path)))

    def stat(self) -> Status:
        """Return its size and the time of its last change."""
        files, path = file_system(self.address)
        info = files.get_file_info(path)
        if not info.is_file:
            raise FileNotFoundError(2, "不存在", self.address)
        return Status(info.size, info.mtime_ns or 0)

    def is_dir(self) -> bool:
        """No: it was found as a file."""
        return False

    def is_fifo(self) -> bool:
        """No."""
        return False

    def is_file(self) -> bool:
        """Yes."""
        return True

    def exists(self) -> bool:
        """Tell whether it is still there."""
        files, path = file_system(self.address)
        return bool(files.get_file_info(path).is_file)


PATIENCE = 60  # seconds in which a store has to answer


AnyFile = Path | DistantFile


def file_system(address: str) -> tuple[Any, str]:
    """Return what opens files at an address or a path, and the path within it.

    Raises:
        UserError: nothing can.
    """
    from pyarrow import fs

    try:
        if "://" not in address:
            return fs.LocalFileSystem(), str(Path(address).absolute())
        if address.startswith(("gs://", "gcs://")) and "?" not in address:
            address += f"?retry_limit_seconds={PATIENCE}"  # else it is tried for a quarter of an hour
        files, path = fs.FileSystem.from_uri(address)
        return files, path
    except (ValueError, OSError) as error:
        raise UserError(f"打不开 {address}（{error}）：请检查地址和访问权限。") from error


def is_arrow_error(error: Exception) -> bool:
    """Tell whether pyarrow says that a file is damaged (other than by an OSError)."""
    from pyarrow import ArrowException

    return isinstance(error, ArrowException)


def find_files(patterns: Sequence[str]) -> list[str]:
    """Return the files that patterns mean, in order, each once.

    Raises:
        UserError: a pattern means no file.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if "://" in pattern:
            try:
                names = _list(pattern)
            except OSError as error:
                raise UserError(f"打不开 {pattern}（{error}）：请检查地址和访问权限。") from error
        else:  # it may be absolute: Path.glob refuses that
            names = sorted(filter(_is_file, glob.glob(pattern, recursive=True)))  # noqa: PTH207
        if not names:
            raise UserError(f"--input {pattern}：没有这样的文件，请检查路径（通配符要加引号）。")
        found |= dict.fromkeys(names)
    return list(found)


def open_file(name: str) -> AnyFile:
    """Return the file of a name that `find_files` has found."""
    return DistantFile(name) if "://" in name else Path(name)


def _is_file(name: str) -> bool:
    return Path(name).is_file()


def _list(pattern: str) -> list[str]:
    from pyarrow import fs

    files, path = file_system(pattern)
    prefix = pattern[: len(pattern) - len(path)]
    if not any(sign in path for sign in "*?["):
        return [pattern] if files.get_file_info(path).is_file else []
    folder = PurePosixPath(path)
    while any(sign in str(folder) for sign in "*?["):
        folder = folder.parent
    entries = files.get_file_info(fs.FileSelector(str(folder), recursive=True, allow_not_found=True))
    names = [entry.path for entry in entries if entry.is_file and fnmatch.fnmatchcase(entry.path, path)]
    return [prefix + name for name in sorted(names)]

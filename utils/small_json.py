"""The one reader for small JSON files that may come from strangers: bounded in size, depth and patience."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

SMALL_JSON_BYTES = 16 * 2**20  # far more than any config, index, schema or manifest has


def read_small_file(path: str | Path, limit: int = SMALL_JSON_BYTES) -> bytes:
    """Read a whole regular file, never more than `limit` bytes of it.

    A FIFO is not waited for and a device not read from, as opening them with `Path.read_bytes` would.

    Raises:
        OSError: there is no such file, it can't be read, or it is a directory, a FIFO, a device.
        ValueError: it is larger than the limit; the message is in Chinese.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, "文件名不合法", str(path)) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):  # before `fdopen`, which refuses directories by their number
        os.close(descriptor)
        raise OSError(errno.EINVAL, "不是普通文件", str(path))
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size <= limit and len(content := file.read(limit + 1)) <= limit:  # it may grow meanwhile
            return content
    raise ValueError(f"文件有 {status.st_size:,} 字节，超过了 {limit:,} 字节的上限")


def parse_small_json(text: str) -> Any:
    """Parse JSON; nesting that is too deep is an ordinary error.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or has numbers of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("嵌套太深") from error


def read_json_object(path: str | Path, limit: int = SMALL_JSON_BYTES) -> dict[str, Any]:
    """Read a small file that holds one JSON object.

    Raises:
        OSError: see `read_small_file`.
        ValueError: it is too large, is not UTF-8 or not JSON, is nested too deeply, or is no object.
    """
    content = parse_small_json(read_small_file(path, limit).decode("utf-8-sig"))
    if not isinstance(content, dict):
        raise ValueError("不是 JSON 对象")
    return content

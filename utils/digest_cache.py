"""SHA-256 of large files, remembered from one run to the next by path, size and time of change."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from utils.directories import file_digest, real_path, write_file
from utils.small_json import read_json_object

REMEMBERED_BYTES = 256 * 2**20  # smaller files are read again: it takes less than a second
MAX_ENTRIES = 2000
_OF_THIS_PROCESS: dict[str, list[object]] = {}  # where nothing can be written


def cache_file() -> Path:
    """Return where digests are remembered, in the user's cache (`XDG_CACHE_HOME`, or `~/.cache`)."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    with contextlib.suppress(RuntimeError):  # no home
        return Path(home).expanduser() / "chatglm-triplet" / "digests.json"
    return Path(os.devnull)


def remembered_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal.

    That of a large file is taken from the last time, if size, time of change and inode are the same. (Whoever
    can change a file and set its times back can also change what is remembered.)

    Raises:
        OSError: the file can't be read.
    """
    status = path.stat()
    if status.st_size < REMEMBERED_BYTES:
        return file_digest(path)
    stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
    key, cache = str(real_path(path)), cache_file()
    known: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError):
        known = read_json_object(cache)
    entry = _OF_THIS_PROCESS.get(key) or known.get(key)
    if isinstance(entry, list) and len(entry) == 4 and entry[:3] == stamp and isinstance(entry[3], str):
        return entry[3]
    digest = file_digest(path)
    _OF_THIS_PROCESS[key] = [*stamp, digest]
    known = dict(list(known.items())[-MAX_ENTRIES:]) | {key: [*stamp, digest]}
    with contextlib.suppress(OSError):  # a read-only or missing home costs the time only
        write_file(cache, json.dumps(known))
    return digest

"""Encoded files kept on disk: made once for a content, a tokenizer and length limits, then mapped.

A cache is a directory made by `utils.directories.write_directory`, so it is whole or damaged, never partial;
what is in it is `encoded_file`'s business. A file in it marks it as the product's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sized
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from data_handle.data_preprocess import Tokenizer
from data_handle.encoded_file import FILES, EncodedFile, encode_into, open_encoded
from data_handle.relation_prompts import RelationPrompts
from utils.common_utils import log
from utils.directories import file_digest, find_damage, real_path, write_directory

FORMAT_VERSION = 5  # to be raised when the files change, or what is made of a line
CACHES_KEPT = 8
LOCK_SECONDS = 1800.0  # encoding a gigabyte takes less
_SILENT_SECONDS = 3.0
_PREFIX = "tokens-"
_MARKER = "token_cache.txt"
_MARK = "训练数据的分词缓存，可以删除。\n"
# Encoded differently by tokenizers that have one SentencePiece model but other settings.
_PROBE = "Ａb  C\t1\n 导演 "


def read_through_cache(
    path: Path,
    tokenizer: Tokenizer,
    limits: tuple[int, int],
    cache_dir: Path,
    prompts: RelationPrompts | None = None,
) -> EncodedFile:
    """Return an encoded data file from the cache, encoding it first if it is not there (whole).

    Of several processes that want it at the same time one encodes it, and the others wait. The caches used
    last are kept, `CACHES_KEPT` of them.

    Args:
        path: the data file, which is read more than once (so no pipe).
        tokenizer: of the base.
        limits: `max_source_seq_len` and `max_target_seq_len`.
        cache_dir: where caches are; created if need be.
        prompts: see `encode_file`.

    Raises:
        UserError: nothing usable is in the file, or it can't be read.
        OSError: the cache can't be written or read, or the file changed meanwhile.
    """
    before = _stamp(path)
    directory = real_path(cache_dir) / f"{_PREFIX}{cache_key(path, tokenizer, limits, prompts)}"
    found = _look_up(directory, path, tokenizer)
    if not isinstance(found, EncodedFile):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir):
            found = _look_up(directory, path, tokenizer)
            if not isinstance(found, EncodedFile):
                if found is not None:
                    log(f"分词缓存 {directory} 已损坏（{found}），重新生成。")
                if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
                    directory.unlink()  # a link or a file where the cache belongs

                def fill(new: Path) -> None:
                    (new / _MARKER).write_text(_MARK, encoding="utf-8")
                    encode_into(new, path, tokenizer, limits, prompts)
                    if _stamp(path) != before:
                        raise OSError(f"{path} 在读取时被改动")

                write_directory(directory, fill)
                found = open_encoded(directory, path)
            _remove_old_caches(directory)
    with contextlib.suppress(OSError):  # a cache that is read-only serves as well
        os.utime(directory)
    return found


def cache_key(
    path: Path, tokenizer: Tokenizer, limits: tuple[int, int], prompts: RelationPrompts | None = None
) -> str:
    """Return the name for all that the encoding of a file depends on."""
    parts = (
        FORMAT_VERSION,
        file_digest(path),
        file_digest(Path(tokenizer.vocab_file)),
        version("sentencepiece"),
        (tokenizer.prompt_ids(_PROBE), tokenizer.answer_ids(_PROBE)),
        limits,
        prompts and prompts.key,
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _look_up(directory: Path, path: Path, tokenizer: Tokenizer) -> EncodedFile | str | None:
    """Return the cached file; or what is wrong with it, in Chinese; or None if there is nothing."""
    if not os.path.lexists(directory):
        return None
    if not directory.is_dir():
        return "不是目录"
    if damage := find_damage(directory, FILES):
        return damage
    try:
        encoded = open_encoded(directory, path)
        encoded.check(strict=False)
    except OSError as error:
        return f"{Path(error.filename or directory).name} 读不出来"
    except ValueError as error:  # that of `check` included: such a file is never cached
        return str(error).rstrip("。")
    if (ids := encoded.features.data).size and not 0 <= ids.min() <= ids.max() < _vocabulary_size(tokenizer):
        return "里面有词表之外的 token"
    return encoded


def _vocabulary_size(tokenizer: object) -> int:
    return len(tokenizer) if isinstance(tokenizer, Sized) else 1 << 31


@contextlib.contextmanager
def _locked(cache_dir: Path) -> Iterator[None]:
    """Hold the lock of a cache directory; waiting for it is told, and has an end.

    Raises:
        OSError: it can't be had.
    """
    lock, started = FileLock(cache_dir / ".lock"), time.monotonic()
    try:
        try:
            lock.acquire(timeout=_SILENT_SECONDS)
        except Timeout:
            log(f"另一个进程正在写分词缓存 {cache_dir}，等它完成（最多 {LOCK_SECONDS / 60:.0f} 分钟）。")
            lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        waited = (time.monotonic() - started) / 60
        raise OSError(f"另一个进程占用了它 {waited:.0f} 分钟以上") from error
    try:
        yield
    finally:
        lock.release()


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _remove_old_caches(current: Path) -> None:
    """Delete all but the caches used last, and what a kill left of others (the caller holds the lock).

    Whatever else bears such a name is let alone.
    """
    others = [path for path in current.parent.glob(f"{_PREFIX}*") if path != current and _is_cache(path)]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    leftovers = [path for path in current.parent.glob(f".{_PREFIX}*") if _is_cache(path)]
    for path in [*others[CACHES_KEPT - 1 :], *leftovers]:
        shutil.rmtree(path, ignore_errors=True)


def _is_cache(path: Path) -> bool:
    """Tell whether a directory has been made here: marked (or as the first release made them), no link."""
    if path.is_symlink() or not path.is_dir():
        return False
    return (path / _MARKER).is_file() or all((path / name).is_file() for name in FILES)

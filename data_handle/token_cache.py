"""Encoded data files kept on disk: made once for a content, a tokenizer and length limits, then mapped.

A cache is a directory made by `utils.directories.write_directory`, so it is whole or damaged, never partial:

    samples.bin    int64 [samples, 3]: where the sample starts in input_ids.bin, its tokens, those of context
    input_ids.bin  int32, all samples one after the other
    examples.bin   int64 [good lines, 4]: where the line starts in text.bin, bytes of its context, bytes of
                   its target, line number
    text.bin       context and target of all good lines in UTF-8 (the data file may change during a run)
    summary.json   bad lines, what the length limits cost, combinations of the answers
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from data_handle.data_preprocess import IGNORE_INDEX, EncodingSummary, Features, Tokenizer
from data_handle.parallel import SERIAL_BYTES, EncodedChunk, encode_file, worker_count
from data_handle.reader import Example, check_lines
from task.triplets import Combination
from utils.common_utils import log
from utils.directories import file_digest, find_damage, write_directory
from utils.jsonl import BadLine

FORMAT_VERSION = 2  # to be raised when the files change, or what `encode_example` makes of a line
CACHES_KEPT = 8
_PREFIX = "tokens-"
_SAMPLES, _INPUT_IDS, _EXAMPLES, _TEXT = "samples.bin", "input_ids.bin", "examples.bin", "text.bin"
_SUMMARY = "summary.json"
# Encoded differently by tokenizers that have one SentencePiece model but other settings.
_PROBE = "Ａb  C\t1\n 导演 "

T = TypeVar("T")


class _MappedItems(Sequence[T]):
    """Items of a cache, each made when asked for. A slice is a view; pickling keeps the place only."""

    index_file: str
    columns: int
    data_file: str
    data_type: type[np.generic]

    def __init__(self, directory: Path, rows: range | None = None) -> None:
        self._directory = directory
        index = np.memmap(directory / self.index_file, np.int64, "r")
        # A plain view: memmap's own slices are slow.
        self._index = np.asarray(index).reshape(-1, self.columns)
        self._data = np.asarray(np.memmap(directory / self.data_file, self.data_type, "r"))
        self._rows = range(len(self._index)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            view = object.__new__(type(self))
            view.__dict__ |= self.__dict__  # the same map: the files themselves may be gone by now
            view._rows = self._rows[index]
            return view
        return self._make(*self._index[self._rows[index]].tolist())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._directory, self._rows)

    def _make(self, *row: int) -> T:
        raise NotImplementedError


class MappedFeatures(_MappedItems[Features]):
    """The samples of a cached file; `lengths` tells the tokens of each without making it."""

    index_file, columns, data_file, data_type = _SAMPLES, 3, _INPUT_IDS, np.int32

    @property
    def lengths(self) -> np.ndarray:
        return self._index[self._rows, 1]

    def _make(self, *row: int) -> Features:
        start, tokens, context = row
        input_ids = self._data[start : start + tokens].tolist()
        return Features(input_ids, [IGNORE_INDEX] * context + input_ids[context:])


class MappedExamples(_MappedItems[Example]):
    """The good lines of a cached file."""

    index_file, columns, data_file, data_type = _EXAMPLES, 4, _TEXT, np.uint8

    def _make(self, *row: int) -> Example:
        start, context, target, line_number = row
        middle, end = start + context, start + context + target
        return Example(self._text(start, middle), self._text(middle, end), line_number)

    def _text(self, start: int, end: int) -> str:
        return self._data[start:end].tobytes().decode("utf-8")


@dataclasses.dataclass(frozen=True)
class CachedFile:
    """A data file as it is in the cache."""

    features: MappedFeatures
    examples: MappedExamples
    bad_lines: list[BadLine]
    summary: EncodingSummary
    combinations: frozenset[Combination]


def read_through_cache(
    path: Path, tokenizer: Tokenizer, limits: tuple[int, int], cache_dir: Path
) -> CachedFile:
    """Return an encoded data file from the cache, encoding it first if it is not there (whole).

    Of several processes that want it at the same time one encodes it, and the others wait. The caches used
    last are kept, `CACHES_KEPT` of them.

    Args:
        path: the data file, which is read more than once (so no pipe).
        tokenizer: a `ChatGLMTokenizer`.
        limits: `max_source_seq_len` and `max_target_seq_len`.
        cache_dir: where caches are; created if need be.

    Raises:
        UserError: nothing usable is in the file, or it can't be read.
        OSError: the cache can't be written or read, or the file changed meanwhile.
    """
    from filelock import FileLock

    before = _stamp(path)
    directory = cache_dir.resolve() / f"{_PREFIX}{cache_key(path, tokenizer, limits)}"
    if not (directory.is_dir() and find_damage(directory) is None):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / ".lock"):
            damage = find_damage(directory) if directory.is_dir() else None
            if damage is not None:
                log(f"分词缓存 {directory} 已损坏（{damage}），重新生成。")
            if damage is not None or not directory.is_dir():

                def fill(new: Path) -> None:
                    _encode_into(new, path, tokenizer, limits)
                    if _stamp(path) != before:
                        raise OSError(f"{path} 在读取时被改动")

                write_directory(directory, fill)
            _remove_old_caches(directory)
    with contextlib.suppress(OSError):  # a cache that is read-only serves as well
        os.utime(directory)
    return _open(directory, path)


def cache_key(path: Path, tokenizer: Tokenizer, limits: tuple[int, int]) -> str:
    """Return the name for all that the encoding of a file depends on."""
    parts = (
        FORMAT_VERSION,
        file_digest(path),
        file_digest(Path(tokenizer.vocab_file)),
        version("sentencepiece"),
        (tokenizer.prompt_ids(_PROBE), tokenizer.answer_ids(_PROBE)),
        limits,
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _encode_into(directory: Path, path: Path, tokenizer: Tokenizer, limits: tuple[int, int]) -> None:
    """Encode a file into a directory, on all cores if it is large."""
    workers = 1 if path.stat().st_size < SERIAL_BYTES else worker_count()
    try:
        with contextlib.closing(encode_file(path, tokenizer, limits, workers)) as chunks:
            _write(directory, path, limits, chunks)
    except BrokenProcessPool:
        log("分词的工作进程被系统终止了（多半是内存不足），改在主进程中重新分词。")
        _write(directory, path, limits, encode_file(path, tokenizer, limits, 1))


def _write(directory: Path, path: Path, limits: tuple[int, int], chunks: Iterable[EncodedChunk]) -> None:
    """Write the files of a cache from the chunks of a data file."""
    summary = EncodingSummary(*limits)
    bad_lines: list[BadLine] = []
    combinations: set[Combination] = set()
    examples = text_bytes = 0
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context((directory / name).open("wb"))
            for name in (_SAMPLES, _INPUT_IDS, _EXAMPLES, _TEXT)
        }
        for chunk in chunks:
            tokens, context = chunk.lengths.T
            starts = summary.tokens + np.cumsum(tokens) - tokens
            files[_SAMPLES].write(np.stack([starts, tokens, context], axis=1).tobytes())
            files[_INPUT_IDS].write(chunk.input_ids.tobytes())
            for example in chunk.examples:
                parts = [example.context.encode("utf-8"), example.target.encode("utf-8")]
                row = [text_bytes, *map(len, parts), example.line_number]
                files[_EXAMPLES].write(np.array(row, np.int64).tobytes())
                files[_TEXT].write(b"".join(parts))
                text_bytes += sum(map(len, parts))
            examples += len(chunk.examples)
            bad_lines += chunk.bad_lines
            summary.add_all(chunk.summary)
            combinations |= chunk.combinations
    check_lines(path, examples, bad_lines, strict=False)
    summary.check(str(path))
    content = {
        "bad_lines": [(bad_line.line_number, bad_line.reason) for bad_line in bad_lines],
        "summary": dataclasses.asdict(summary),
        "combinations": sorted(combinations),
    }
    (directory / _SUMMARY).write_text(json.dumps(content), encoding="utf-8")


def _open(directory: Path, path: Path) -> CachedFile:
    content = json.loads((directory / _SUMMARY).read_text(encoding="utf-8"))
    summary = EncodingSummary(**content["summary"])
    summary.left_out = [(line_number, reason) for line_number, reason in summary.left_out]
    return CachedFile(
        MappedFeatures(directory),
        MappedExamples(directory),
        [BadLine(str(path), *bad_line) for bad_line in content["bad_lines"]],
        summary,
        frozenset(Combination(*names) for names in content["combinations"]),
    )


def _remove_old_caches(current: Path) -> None:
    """Delete all but the caches used last, and what a kill left of others (the caller holds the lock)."""
    others = [path for path in current.parent.glob(f"{_PREFIX}*") if path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    leftovers = current.parent.glob(f".{_PREFIX}*")
    for path in [*others[CACHES_KEPT - 1 :], *leftovers]:
        shutil.rmtree(path, ignore_errors=True)

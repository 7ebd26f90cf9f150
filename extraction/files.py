"""Sentence files in, JSONL out: results written as they come; a restart goes on after the last whole line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from extraction.extractor import Extraction
from extraction.parsing import AnswerStatus
from utils.common_utils import UserError, to_json

# Fields that an output line adds to those of its input; fields of these names in the input are replaced.
RESULT_FIELDS = ("triplets", "repaired", "truncated", "source_truncated", "error", "raw")


class Record(NamedTuple):
    """One line of an input file: its fields (among them `text`), and why no sentence can be had from it."""

    fields: dict[str, Any]
    problem: str | None = None


@dataclass
class FileSummary:
    """Lines of the output: found from an earlier run, written now, and the failures among both."""

    resumed: int = 0
    written: int = 0
    failed: int = 0


def check_output(path: Path, what: str = "输出文件", option: str = "--output") -> None:
    """Make sure, before a model is loaded for it, that a file of results can be written.

    Args:
        path: the file.
        what, option: how messages name it.

    Raises:
        UserError: it can't.
    """
    if not path.parent.is_dir():
        raise UserError(f"写不了{what} {path}：目录 {path.parent} 不存在，请先建好或改正路径。")
    if path.exists() and not path.is_file():
        raise UserError(f"写不了{what} {path}：它不是普通文件，请换一个 {option}。")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"写不了{what} {path}：没有写权限，请检查权限或换一个 {option}。")


def write_results(
    records: Iterable[Record],
    output: Path,
    extract: Callable[[list[str]], Iterable[tuple[int, Extraction]]],
    window: int,
    summary: FileSummary,
    render: Callable[[Extraction], list[dict[str, Any]]] = Extraction.to_list,
) -> Iterator[int]:
    """Extract the sentences of records and append one JSON line for each to `output`.

    Args:
        records: the lines of the input file, in order.
        output: may hold the first lines of the same job, cut off anywhere.
        extract: called with the sentences of up to `window` records; gives their results, with their
            indices, in any order. A line is written as soon as it and all before it are there. A restart
            repeats the calls of an uninterrupted run from its window on, so that batches, and with them the
            results, are the same.
        window: records worked on together.
        summary: counts along; still valid when the iteration is broken off.
        render: writes the triplets of an extraction for JSON.

    Yields:
        The number of lines done in each window.

    Raises:
        UserError: `output` holds something else than results of these records; it is left as it is.
    """
    records = iter(records)
    existing = _Existing(output)
    writer = None
    try:
        while group := list(islice(records, window)):
            heads = [_head(record.fields) for record in group]
            done = existing.match(heads, summary) if writer is None else 0
            for result in _in_order(group, extract, render, done):
                writer = writer or existing.continue_writing()
                writer.write(heads[done] + b", " + _dump(result)[1:] + b"\n")
                writer.flush()
                summary.written += 1
                summary.failed += "error" in result
                done += 1
            yield len(group)
        if writer is None:
            existing.check_end()
    finally:
        existing.close()
        if writer is not None:
            writer.close()


def _dump(fields: dict[str, Any]) -> bytes:
    """Serialise to UTF-8; lone surrogates, which have no encoding, stay JSON escapes; NaN becomes null."""
    try:
        return to_json(fields, allow_nan=False).encode()
    except (ValueError, RecursionError):  # Python reads NaN and Infinity, which JSON does not have
        try:
            return _dump(_without_nan(fields))
        except RecursionError:  # only the input's own fields can be as deep
            return _dump({name: value if isinstance(value, str) else None for name, value in fields.items()})


def _without_nan(value: Any) -> Any:
    """Put None in place of floats that are not finite."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _head(fields: dict[str, Any]) -> bytes:
    """Return the beginning of an output line: the input's fields, without the closing brace."""
    return _dump({name: value for name, value in fields.items() if name not in RESULT_FIELDS})[:-1]


def _in_order(
    group: list[Record],
    extract: Callable[[list[str]], Iterable[tuple[int, Extraction]]],
    render: Callable[[Extraction], list[dict[str, Any]]],
    first: int,
) -> Iterator[dict[str, Any]]:
    """Yield what the output lines of records add to their input's, from the `first` one on, as it comes."""
    if first == len(group):
        return
    results: dict[int, dict[str, Any]] = {
        place: {"triplets": [], "error": record.problem}
        for place, record in enumerate(group)
        if record.problem is not None
    }
    good = [place for place in range(len(group)) if place not in results]
    extractions = extract([str(group[place].fields["text"]) for place in good]) if good else ()

    def ready() -> Iterator[dict[str, Any]]:
        nonlocal first
        while first in results:
            yield results[first]
            first += 1

    yield from ready()
    for number, extraction in extractions:
        results[good[number]] = _result(extraction, render)
        yield from ready()


def _result(extraction: Extraction, render: Callable[[Extraction], list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the fields that an output line adds to its input's."""
    result: dict[str, Any] = {"triplets": render(extraction)}
    flags = {
        "repaired": extraction.status is AnswerStatus.REPAIRED,
        "truncated": extraction.truncated,
        "source_truncated": extraction.source_truncated,
    }
    result |= {name: flag for name, flag in flags.items() if flag}
    if extraction.problem is not None:
        result |= {"error": extraction.problem, "raw": extraction.raw}
    return result


class _Existing:
    """What an earlier run left in the output file, read along with the input."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: BinaryIO | None = path.open("rb") if path.exists() else None
        self._end = 0  # of the last whole line that matched

    def match(self, heads: list[bytes], summary: FileSummary) -> int:
        """Count the lines already there for these records; the first missing one ends the old results."""
        for done, head in enumerate(heads):
            line = self._reader.readline() if self._reader else b""
            if not line.endswith(b"\n"):
                # Cut off: it must be a beginning of this line, or this is not our file.
                if not (line.startswith(head) or head.startswith(line)):
                    raise self._foreign(summary.resumed)
                return done
            if not line.startswith(head + b", ") or (result := _loads(line)) is None:
                raise self._foreign(summary.resumed)
            self._end += len(line)
            summary.resumed += 1
            summary.failed += "error" in result
        return len(heads)

    def check_end(self) -> None:
        """Make sure that the file holds no more lines than the input."""
        if self._reader and self._reader.read(1):
            raise UserError(f"输出文件 {self._path} 的行比输入多，不是这个输入的结果，请换一个 --output。")

    def continue_writing(self) -> BinaryIO:
        """Open the file for writing behind the last whole line."""
        self.close()
        writer = self._path.open("r+b" if self._path.exists() else "wb")
        try:
            if fcntl is not None:  # not on Windows; the system drops the lock with the process
                fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            writer.close()
            raise UserError(f"另一个进程正在写 {self._path}，请等它结束，或换一个 --output。") from error
        except OSError:  # a file system without locks
            pass
        writer.truncate(self._end)
        writer.seek(self._end)
        return writer

    def close(self) -> None:
        """Stop reading."""
        if self._reader:
            self._reader.close()

    def _foreign(self, done: int) -> UserError:
        return UserError(
            f"输出文件 {self._path} 的第 {done + 1} 行与输入对不上，不是这个输入的结果，请换一个 --output。"
        )


def _loads(line: bytes) -> dict[str, Any] | None:
    """Decode a whole line of results; None if it is none."""
    try:
        result = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) and "triplets" in result else None

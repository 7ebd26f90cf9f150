"""An input file cut into parts at the ends of lines, each of which is read without a look at the others."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from extraction.records import (
    TABLE_SUFFIXES,
    TEXT_FIELD,
    Kind,
    Record,
    TableHead,
    TableRows,
    json_records,
    kind_of,
    plain_records,
    read_records,
)
from utils.common_utils import UserError
from utils.jsonl import MAX_LINE_BYTES, iter_lines_in, iter_objects_in, open_data
from utils.text_lines import TextLines

# Small enough to be shared out evenly, large enough for full batches; and that a restart has little to check.
MIN_PART, MAX_PART = 1 << 11, 1 << 23  # bytes
CHUNK = 1 << 20  # bytes read at once


class Part(NamedTuple):
    """A part of a file: bytes `start` to `end`, or, of one that is read as a whole, records.

    `line` is how many lines come before, `lines` how many there are (those of a table's cells count, too).
    """

    start: int
    end: int
    line: int
    lines: int


@dataclass(frozen=True)
class CutFile:
    """How a file is cut, and all that a part's reader must know of what comes before it.

    Args:
        path, text_field: see `read_records`.
        kind: what it is made of; None if it must be read as a whole, and its parts are of records.
        encoding: what a line has told, and where the next one begins.
        head: of a table.
        size, modified, checksum: of the file when it was cut, in bytes, nanoseconds, CRC-32.
    """

    path: Path
    text_field: str | None
    kind: Kind | None
    encoding: tuple[str, int] | None
    head: TableHead | None
    size: int
    modified: int
    checksum: int
    parts: tuple[Part, ...]

    def records(self, number: int) -> Iterator[Record]:
        """Yield the records of a part, as `read_records` would yield them.

        Raises:
            UserError: the file can't be read.
        """
        part = self.parts[number]
        if self.kind is None:
            yield from islice(read_records(self.path, self.text_field), part.start, part.end)
            return
        try:
            with self.path.open("rb") as file:
                known, since = self.encoding or (None, 0)
                encoding = known if part.start >= since else None  # else it will tell itself
                lines = TextLines(_Range(file, part.start, part.end), self.path, True, encoding)
                yield from self._records_in(lines, part.line, number == 0)
        except OSError as error:
            raise UserError(f"读不了输入文件 {self.path}（{error.strerror}），请检查路径和权限。") from error

    def _records_in(self, lines: TextLines, line_number: int, is_first: bool) -> Iterator[Record]:
        if self.kind is Kind.TABLE:
            assert self.head is not None
            rows = TableRows(lines, self.path, TABLE_SUFFIXES[self.path.suffix.lower()], line_number)
            yield from rows.records(self.head)
        elif self.kind is Kind.OBJECTS:
            objects = iter_objects_in(lines, self.path, line_number=line_number)
            yield from json_records(objects, self.path, self.text_field or TEXT_FIELD, is_first)
        else:
            yield from plain_records(iter_lines_in(lines, self.path, line_number=line_number))

    def is_still(self, path: Path, text_field: str | None) -> bool:
        """Tell whether a file, in this moment, is the one that was cut."""
        status = path.stat()
        if text_field != self.text_field or status.st_size != self.size:
            return False
        return status.st_mtime_ns == self.modified or _checksum(path) == self.checksum

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, but for the path and the field."""
        return {
            "kind": self.kind and self.kind.value,
            "encoding": self.encoding and list(self.encoding),
            "head": self.head and list(self.head),
            "size": self.size,
            "modified": self.modified,
            "checksum": self.checksum,
            "text_field": self.text_field,
            "parts": [list(part) for part in self.parts],
        }

    @classmethod
    def from_dict(cls, path: Path, data: dict[str, Any]) -> CutFile:
        """Return what `to_dict` has given."""
        kind, head = data["kind"], data["head"]
        return cls(
            path,
            data["text_field"],
            kind and Kind(kind),
            data["encoding"] and tuple(data["encoding"]),
            head and TableHead(*head),
            data["size"],
            data["modified"],
            data["checksum"],
            tuple(Part(*part) for part in data["parts"]),
        )


def cut_file(path: Path, text_field: str | None, shares: int) -> CutFile:
    """Cut a file into at least `shares` parts, if it is large enough; it is read once, a table's rows split.

    Raises:
        UserError: the file can't be read, or it is not clear where its sentences are.
    """
    next(read_records(path, text_field), None)  # says what there is to say about the file
    try:
        with open_data(path, quiet=True) as file:
            kind = kind_of(file, path, text_field)
            as_whole = kind is Kind.ARRAY or file.is_converted_whole
        status = path.stat()
        length = min(max(-(-status.st_size // shares), MIN_PART), MAX_PART)
        checksum = _checksum(path)
        encoding, head = None, None
        if as_whole:
            total = sum(1 for _ in read_records(path, text_field))
            step = max(-(-total // shares), 1)
            parts = [Part(n, min(n + step, total), n, min(step, total - n)) for n in range(0, total, step)]
        else:
            encoding = _find_encoding(path)
            with path.open("rb") as binary:
                if kind is Kind.TABLE:
                    head, parts = _cut_table(binary, path, text_field, length)
                else:
                    parts = list(_cut_lines(binary, length))
    except OSError as error:
        raise UserError(f"读不了输入文件 {path}（{error.strerror}），请检查路径和权限。") from error
    return CutFile(
        path,
        text_field,
        None if as_whole else kind,
        encoding,
        head,
        status.st_size,
        status.st_mtime_ns,
        checksum,
        tuple(parts),
    )


class _Range:
    """The lines of a binary file between two offsets, which are ends of lines."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        file.seek(start)
        self._file, self._end = file, end
        self.position = start

    def readline(self, size: int = -1, /) -> bytes:
        left = self._end - self.position
        line = self._file.readline(min(size, left) if size >= 0 else left)
        self.position += len(line)
        return line

    def close(self) -> None:
        self._file.close()


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _find_encoding(path: Path) -> tuple[str, int] | None:
    """Return what the first line that tells an encoding tells, and where it ends; those of ASCII before are
    not looked at one by one."""
    with path.open("rb") as file:
        offset = start = 0  # of the chunk, and of the last line that begins before it
        while (chunk := file.read(CHUNK)) and chunk.isascii():
            start = offset + chunk.rfind(b"\n") + 1 if b"\n" in chunk else start
            offset += len(chunk)
        rest = _Range(file, start, path.stat().st_size)
        lines = TextLines(rest, path, quiet=True)
        while lines.encoding is None and lines.readline(MAX_LINE_BYTES + 1):
            pass
        return (lines.encoding, rest.position) if lines.encoding else None


def _cut_lines(file: BinaryIO, length: int) -> Iterator[Part]:
    """Cut a file of lines: the first end of a line after so many bytes ends a part."""
    start = line = 0
    while True:
        lines, size, last = 0, 0, b""
        while size < length and (chunk := file.read(min(CHUNK, length - size))):
            lines, size, last = lines + chunk.count(b"\n"), size + len(chunk), chunk
        while last and not last.endswith(b"\n") and (chunk := file.readline(CHUNK)):
            lines, size, last = lines + chunk.count(b"\n"), size + len(chunk), chunk
        if not size:
            return
        lines += not last.endswith(b"\n")
        yield Part(start, start + size, line, lines)
        start, line = start + size, line + lines


def _cut_table(
    file: BinaryIO, path: Path, text_field: str | None, length: int
) -> tuple[TableHead, list[Part]]:
    """Cut a table: where rows end is only known by reading them all.

    Raises:
        UserError: it is no table.
    """
    binary = _Range(file, 0, path.stat().st_size)
    rows = TableRows(TextLines(binary, path, quiet=True), path, TABLE_SUFFIXES[path.suffix.lower()])
    head = rows.read_header(text_field)
    parts = []
    start, line = binary.position, rows.line_number
    for _ in rows.records(head):
        if binary.position - start >= length:
            parts.append(Part(start, binary.position, line, rows.line_number - line))
            start, line = binary.position, rows.line_number
    if binary.position > start:
        parts.append(Part(start, binary.position, line, rows.line_number - line))
    return head, parts

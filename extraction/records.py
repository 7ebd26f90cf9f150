"""Input files into records: sentences, one a line; JSON objects; a JSON array; the column of a table."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from data_handle.foreign import name_foreign_record
from utils.common_utils import UserError
from utils.jsonl import (
    BOM,
    MAX_LINE_BYTES,
    BadLine,
    decode_line,
    iter_lines_in,
    iter_objects_in,
    open_data,
    parse_array,
    read_all,
    text_problem,
)
from utils.text_lines import LineSource, TextLines

STANDARD = Path("-")  # stands for the standard input
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t"}
# What a file of another kind has to become first.
_FOREIGN_SUFFIXES = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".et"), "表格文件，请在表格软件中另存为 CSV（UTF-8）"),
    **dict.fromkeys((".docx", ".doc", ".wps", ".rtf", ".pdf"), "文档，请另存为纯文本，每行一个句子"),
    **dict.fromkeys((".html", ".htm", ".xml"), "网页或 XML，请先取出正文存成纯文本，每行一个句子"),
    **dict.fromkeys((".parquet", ".arrow", ".feather"), "列式数据文件，请先转成 JSONL"),
    **dict.fromkeys((".zip", ".gz", ".bz2", ".xz", ".7z", ".rar", ".tar"), "压缩文件，请先解压"),
}
TEXT_FIELD = "text"
# Other names that the field with the sentence has in common data.
_LIKELY_FIELDS = ("text", "sentence", "content", "句子", "文本", "正文", "内容", "原文")
csv.field_size_limit(MAX_LINE_BYTES)


@dataclass(frozen=True)
class Record:
    """One line of an input file.

    Args:
        fields: among them `text`.
        problem: why no sentence can be had from it.
        line: its number, from 1; of an array, that of the item.
    """

    fields: dict[str, Any]
    problem: str | None = None
    line: int = field(default=0, compare=False)


def input_name_problem(path: Path) -> str | None:
    """Say what to do with a file that its name says is no text, JSON or table; None if it may be one."""
    what = _FOREIGN_SUFFIXES.get(path.suffix.lower())
    return what and f"读不了输入文件 {path}：它是{what}（能读的是纯文本、JSONL、JSON、CSV 和 TSV）。"


def sentence_problem(text: Any, name: str = TEXT_FIELD) -> str | None:
    """Say in Chinese what is wrong with a sentence, the value of a field; None if nothing is."""
    return text_problem({name: text}, name)


def typed_problem(text: str) -> str | None:
    """Say in Chinese what is wrong with a sentence from the command line or the keyboard."""
    try:  # bytes that were no UTF-8 stand in it as surrogates
        decode_line(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return sentence_problem(text)
    except ValueError as error:
        return str(error)
    return sentence_problem(text)


def read_records(path: Path, text_field: str | None = None) -> Iterator[Record]:
    """Read an input file; blank lines don't count.

    A table is told by the file's name, JSON by the name or the first line; what else there is are sentences.

    Args:
        path: the file; `STANDARD` for the standard input.
        text_field: the field or column with the sentence, `text` by default; results have it as `text`.

    Raises:
        UserError: the file can't be read, or it is not clear where its sentences are.
    """
    if problem := input_name_problem(path):
        raise UserError(problem)
    try:
        with _open(path) as file:  # once: a pipe can't be opened again
            yield from _records_in(file, path, text_field)
    except OSError as error:
        raise UserError(f"读不了输入文件 {path}（{error.strerror}），请检查路径和权限。") from error


def _open(path: Path) -> TextLines:
    return TextLines(sys.stdin.buffer, "标准输入") if path == STANDARD else open_data(path)


def _records_in(file: TextLines, path: Path, text_field: str | None) -> Iterator[Record]:
    if delimiter := TABLE_SUFFIXES.get(path.suffix.lower()):
        rows = TableRows(file, path, delimiter)
        yield from rows.records(rows.read_header(text_field))
        return
    blank, first = _first_line(file)
    rest: LineSource = _Joined(first, file)
    kind = _kind_of_line(first, path, text_field)
    if kind is Kind.ARRAY:
        content = read_all(rest, path)
        items = parse_array(content)
        if items is not None:
            yield from _array_records(items, path, text_field or TEXT_FIELD)
            return
        rest = io.BytesIO(content)
        kind = _kind_of_line(first, path, text_field, is_array=False)
    if kind is Kind.OBJECTS:
        objects = iter_objects_in(rest, path, line_number=blank)
        yield from json_records(objects, path, text_field or TEXT_FIELD)
    else:
        yield from plain_records(iter_lines_in(rest, path, line_number=blank))


class Kind(Enum):
    """What the records of a file are made of."""

    SENTENCES = "sentences"  # one a line
    OBJECTS = "objects"  # one a line
    ARRAY = "array"  # perhaps: it begins like one
    TABLE = "table"


def kind_of(file: TextLines, path: Path, text_field: str | None) -> Kind:
    """Tell by a file's name and first line what it is made of."""
    if path.suffix.lower() in TABLE_SUFFIXES:
        return Kind.TABLE
    return _kind_of_line(_first_line(file)[1], path, text_field)


def _kind_of_line(first: bytes, path: Path, text_field: str | None, is_array: bool = True) -> Kind:
    named_json = path.suffix.lower() in JSON_SUFFIXES or text_field is not None
    if is_array and _may_be_array(first, named_json):
        return Kind.ARRAY
    return Kind.OBJECTS if named_json or _is_json_object(first) else Kind.SENTENCES


def _first_line(file: TextLines) -> tuple[int, bytes]:
    """Return how many blank lines a file begins with, and the line that follows them."""
    blank, line = 0, file.readline(MAX_LINE_BYTES + 1)
    while 0 < len(line) <= MAX_LINE_BYTES and not line.removeprefix(BOM).strip():
        blank, line = blank + 1, file.readline(MAX_LINE_BYTES + 1)
    return blank, line


class _Joined:
    """A line that was read of a file already, and the rest of the file."""

    def __init__(self, line: bytes, rest: TextLines) -> None:
        self._line = io.BytesIO(line)
        self._rest = rest

    def readline(self, size: int = -1, /) -> bytes:
        return self._line.readline(size) or self._rest.readline(size)


def plain_records(lines: Iterable[tuple[int, bytes] | BadLine]) -> Iterator[Record]:
    """Make records of lines that are sentences."""
    for item in lines:
        if isinstance(item, BadLine):
            yield Record({"line": item.line_number, "text": ""}, item.reason, item.line_number)
            continue
        number, line = item
        for raw in line.rstrip(b"\r\n").split(b"\r"):  # by itself it ends a line, too (old Macs)
            try:
                sentence = decode_line(raw)
            except ValueError as error:
                fields = {"line": number, "text": raw.decode("utf-8", "replace")}
                yield Record(fields, str(error), number)
                continue
            if sentence.strip():
                yield Record({"text": sentence}, sentence_problem(sentence), number)


# --- JSON


def _is_json_object(line: bytes) -> bool:
    """Tell whether a line, or the beginning of one that is too long, is a JSON object."""
    if len(line) > MAX_LINE_BYTES:
        return line.removeprefix(BOM).startswith(b"{")
    try:
        return isinstance(json.loads(line.decode("utf-8-sig", "replace")), dict)
    except (ValueError, RecursionError):
        return False


def json_records(
    items: Iterable[tuple[int, dict[str, Any]] | BadLine], path: Path, name: str, is_first: bool = True
) -> Iterator[Record]:
    """Make records of JSON objects with the sentence in a field of that name.

    Args:
        items, path, name: see there.
        is_first: the first object is the file's; it is checked.

    Raises:
        UserError: the first object has the sentence in another field.
    """
    for item in items:
        if isinstance(item, BadLine):
            fields = {"line": item.line_number, "text": item.content}
            yield Record(fields, item.reason, item.line_number)
        else:
            if is_first:
                _check_field(item[1], path, name)
            is_first = False
            yield record_of(item[1], name, item[0])


def record_of(fields: dict[str, Any], name: str, line: int) -> Record:
    """Make a record of an object with the sentence in a field of that name."""
    problem = sentence_problem(fields[name], name) if name in fields else f"缺少字段 {name}"
    return Record({**fields, "text": fields.get(name, "")}, problem, line)


def _check_field(fields: dict[str, Any], path: Path, name: str) -> None:
    """Refuse a file whose first object lacks the field, but has a likely one.

    Raises:
        UserError: naming that field.
    """
    if name in fields:
        return
    if {"context", "target"} <= set(fields):
        raise UserError(
            f"{path} 是带标注的数据（字段 context 和 target）：用 --evaluate 评估它，或另备只有句子的文件。"
        )
    likely = [other for other in _LIKELY_FIELDS if isinstance(fields.get(other), str)]
    if likely:
        raise UserError(
            f"{path} 里没有字段 {name}，句子像是在 {likely[0]} 里：请加上 --text_field {likely[0]}。"
        )
    kind = name_foreign_record(fields)
    if kind and kind.endswith("schema"):
        raise UserError(f"{path} 是{kind}，不是句子文件：请用作 --schema。")
    if kind:
        raise UserError(
            f"{path} 里没有字段 {name}，像是{kind}：句子在别的字段里的话，请用 --text_field 指定。"
        )


def _may_be_array(line: bytes, named_json: bool) -> bool:
    """Tell whether a first line looks like the beginning of a JSON array of objects or strings."""
    start = line.removeprefix(BOM).lstrip()
    if not start.startswith(b"["):
        return False
    return named_json or start[1:].lstrip()[:1] in (b"", b"{", b'"')


def _array_records(items: list[Any], path: Path, name: str) -> Iterator[Record]:
    """Make records of the items of a JSON array: objects with a field of that name, or sentences."""
    objects = [item for item in items if isinstance(item, dict)]
    if objects:
        _check_field(objects[0], path, name)
    for number, item in enumerate(items, 1):
        if isinstance(item, dict):
            yield record_of(item, name, number)
        elif isinstance(item, str):
            yield Record({"text": item}, sentence_problem(item), number)
        else:
            problem = "数组的这一项应当是 JSON 对象或字符串"
            yield Record({"item": number, "text": ""}, problem, number)


# --- tables


class TableHead(NamedTuple):
    """A table's columns, and the one that holds the sentences."""

    names: list[str]
    column: str


class TableRows:
    """The rows of a table.

    Args:
        file, path: see `read_records`.
        delimiter: between cells.
        line_number: lines of the file that come before.
    """

    def __init__(self, file: LineSource, path: Path, delimiter: str, line_number: int = 0) -> None:
        self._rows = csv.reader(_decoded_lines(file, path, line_number), delimiter=delimiter)
        self._path, self._before = path, line_number

    def read_header(self, text_field: str | None) -> TableHead:
        """Read the first row, which names the columns.

        Raises:
            UserError: the file is no table, or has no clear column of sentences.
        """
        with self._complaints():
            names = [name.strip() for name in next(self._rows, [])]
        return TableHead(names, _sentence_column(names, self._path, text_field))

    def records(self, head: TableHead) -> Iterator[Record]:
        """Yield the records of the rows that follow.

        Raises:
            UserError: they are no table.
        """
        with self._complaints():
            for row in self._rows:
                if not any(cell.strip() for cell in row):
                    continue
                fields: dict[str, Any] = dict(zip(head.names, row, strict=False))
                if len(row) != len(head.names):
                    problem = f"这一行有 {len(row)} 列，表头有 {len(head.names)} 列"
                    text = fields.get(head.column, "")
                    yield Record(
                        {"line": self.line_number, **fields, "text": text}, problem, self.line_number
                    )
                else:
                    text = fields[head.column]
                    fault = sentence_problem(text, head.column)
                    yield Record({**fields, "text": text}, fault, self.line_number)

    @property
    def line_number(self) -> int:
        """How many lines of the file have been read."""
        return self._before + self._rows.line_num

    @contextlib.contextmanager
    def _complaints(self) -> Iterator[None]:
        try:
            yield
        except csv.Error as error:
            raise UserError(
                f"{self._path} 的第 {self.line_number} 行不合表格的格式（{error}），请检查引号。"
            ) from error


def _decoded_lines(file: LineSource, path: Path, line_number: int) -> Iterator[str]:
    """Yield the lines of a table as text; one that is no text ends the reading: its row can't be told.

    Raises:
        UserError: such a line.
    """
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), line_number + 1):
        if len(line) > MAX_LINE_BYTES:
            raise UserError(f"{path} 的第 {number} 行超过 {MAX_LINE_BYTES:,} 字节，不像表格。")
        try:
            yield decode_line(line.removeprefix(BOM) if number == 1 else line)
        except ValueError as error:
            raise UserError(f"{path} 的第 {number} 行{error}。") from error


def _sentence_column(header: list[str], path: Path, text_field: str | None) -> str:
    """Return the name of the column that holds the sentences.

    Raises:
        UserError: it is not clear which.
    """
    if len(set(header)) != len(header):
        raise UserError(f"{path} 的表头里有重名的列（{'、'.join(header)}），请改成不同的名字。")
    names = "、".join(name or "（空）" for name in header) or "（空）"
    if text_field is not None:
        if text_field not in header:
            raise UserError(f"{path} 没有名为 {text_field} 的列，表头是：{names}。")
        return text_field
    likely = [name for name in header if name.lower() in _LIKELY_FIELDS]
    if len(likely) != 1:
        reason = "好几列都像句子" if likely else "看不出哪一列是句子"
        raise UserError(
            f"{path} 的表头是：{names}，{reason}：请用 --text_field 列名 指定（第一行要是表头）。"
        )
    return likely[0]


def count_records(path: Path, text_field: str | None = None) -> int | None:
    """Count the records of a plain file, for a progress bar; None if they can't be counted beforehand.

    Lines are counted without a look at what is in them: of a table whose cells hold line breaks, the total is
    too high.
    """
    if path == STANDARD or not path.is_file():
        return None
    try:
        with open_data(path, quiet=True) as file:
            first = _first_line(file)[1]
        if _may_be_array(first, path.suffix.lower() in JSON_SUFFIXES):
            return sum(1 for _ in read_records(path, text_field))
        with open_data(path, quiet=True) as file:
            lines = sum(1 for _ in iter_lines_in(file, path))
    except OSError:  # said when the records are read
        return None
    return max(lines - (path.suffix.lower() in TABLE_SUFFIXES), 0)

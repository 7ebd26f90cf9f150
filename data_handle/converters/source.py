"""A file taken apart, whatever its suffix says: JSON records, rows of a table, or a brat folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data_handle.converters.decoding import decode, read_whole
from data_handle.converters.fields import as_object, find_field
from data_handle.converters.labelled import Problem, excerpt
from data_handle.converters.python_values import parse_python
from utils.common_utils import UserError
from utils.jsonl import has_too_many_values

_BRAT_LINE = re.compile(r"(T\d+\t\S+ \d+ \d+|R\d+\t\S+ Arg1:)")
# What is no text at all: first bytes, what it is, what to do.
_FOREIGN = (
    (b"\xd0\xcf\x11\xe0", "旧版 Excel 文件（.xls）或加密的文件", "请在 Excel 里另存为不加密的 .xlsx"),
    (b"\x1f\x8b", "gzip 压缩文件", "请先解压"),
    (b"7z\xbc\xaf", "7z 压缩文件", "请先解压"),
    (b"Rar!", "rar 压缩文件", "请先解压"),
    (b"PAR1", "Parquet 文件", "请先转成 JSONL"),
    (b"%PDF", "PDF 文件", "里面没有标注"),
    (b"SQLite format 3", "SQLite 数据库", "请从标注工具里导出 JSON"),
)
_WRAPPERS = {"data", "items", "records", "samples", "examples", "dataset", "train", "数据"}
_TURNS = {"conversations", "messages", "conversation"}  # lists of a record, not of records


MAX_LINES = 2_000_000  # of a file: what becomes of them is held until all are read


class Record(NamedTuple):
    """A JSON value and where it stands."""

    where: str
    value: Any


@dataclass
class Source:
    """A file, taken apart as far as its outer form goes.

    Args:
        path: the file or folder.
        form: "records" (JSON), "table" (text), "workbook" (xlsx) or "brat".
        outer: the outer form in Chinese, for messages ("JSON 数组", "JSONL").
        encoding: of a text.
        text: of a table.
        records: of JSON.
        problems: lines that are no JSON.
    """

    path: Path
    form: str
    outer: str
    encoding: str = ""
    text: str = ""
    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def open_source(path: Path) -> Source:
    """Read a file or folder and tell its outer form from its content.

    Raises:
        UserError: it can't be read, or is of a kind that holds no labels.
    """
    try:
        if path.is_dir():
            if any(path.rglob("*.ann")):
                return Source(path, "brat", "brat 文件夹")
            raise UserError(f"{path} 是目录，里面也没有 brat 的 .ann 文件：请给出其中的数据文件。")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} 不是普通文件，无法当作数据读取。")
        raw = read_whole(path)
    except FileNotFoundError:
        raise UserError(f"找不到输入文件 {path}：请检查路径。") from None
    except OSError as error:
        raise UserError(f"读不了输入文件 {path}（{error.strerror}）：请检查路径和权限。") from error
    if raw.startswith(b"PK\x03\x04"):
        if b"xl/workbook" in raw:
            return Source(path, "workbook", "Excel 表格（.xlsx）")
        raise UserError(f"{path} 是 zip 压缩包（或 Word 等文件），不是 Excel 表格：压缩包请先解压。")
    for mark, what, remedy in _FOREIGN:
        if raw.startswith(mark):
            raise UserError(f"{path} 是{what}，不能直接转换：{remedy}。")
    if not raw.strip():
        raise UserError(f"{path} 是空的。")
    if raw.count(b"\n") > MAX_LINES or has_too_many_values(raw):
        raise UserError(f"{path} 超过了 {MAX_LINES:,} 行，或里面的值太多：请分成几个文件，一个一个转换。")
    try:
        text, encoding = decode(raw)
    except ValueError as error:
        raise UserError(f"{path} {error}。") from None
    return _open_text(path, text, encoding)


def parse_json(text: str) -> Any:
    """Parse JSON; a key that an object has twice, with different values, gets a `RepeatedKey`.

    Raises:
        ValueError: in Chinese, with the place of the mistake.
    """
    try:
        return json.loads(text, object_pairs_hook=as_object)
    except json.JSONDecodeError as error:
        place = f"第 {error.lineno} 行" if error.lineno > 1 else ""
        raise ValueError(f"{place}第 {error.colno} 个字符处出错") from None
    except RecursionError:
        raise ValueError("嵌套过深") from None
    except ValueError:  # an integer with thousands of digits
        raise ValueError("有过长的数字") from None


def _open_text(path: Path, text: str, encoding: str) -> Source:
    start = text.lstrip()[:1]
    if start in ("[", "{") and (source := _open_json(path, text, encoding)) is not None:
        return source
    first = text.lstrip().split("\n", 1)[0]
    if path.suffix == ".ann" or _BRAT_LINE.match(first):
        return Source(path, "brat", "brat 标注", encoding)
    if path.suffix == ".txt" and path.with_suffix(".ann").exists():
        return Source(path.with_suffix(".ann"), "brat", "brat 标注", encoding)
    return Source(path, "table", "表格", encoding, text)


def _open_json(path: Path, text: str, encoding: str) -> Source | None:
    """Take JSON apart; None if this is no JSON at all."""
    try:
        value = parse_json(text)
    except ValueError as error:
        problem = str(error)
    else:
        if isinstance(value, dict) and (inner := _only_list(value)) is not None:
            return Source(path, "records", "JSON 对象里的列表", encoding, "", _items(path, inner))
        if isinstance(value, dict):
            return Source(path, "records", "JSONL", encoding, "", [Record(f"{path}:1", value)])
        return Source(path, "records", "JSON 数组", encoding, "", _items(path, value))
    lines = list(_lines(path, text))
    if (not lines or isinstance(lines[0], Problem)) and (values := _values(text)):
        return Source(path, "records", "接连的 JSON 对象", encoding, "", _items(path, values))
    records = [line for line in lines if isinstance(line, Record)]
    if not records:
        if text.lstrip().startswith("["):
            raise UserError(f"{path} 像是 JSON 数组，但内容有误：{problem}。请检查文件是否完整。")
        return None
    problems = [line for line in lines if isinstance(line, Problem)]
    return Source(path, "records", "JSONL", encoding, "", records, problems)


def _values(text: str) -> list[Any]:
    """Return JSON values that follow one another, however they are broken into lines; none if one is bad."""
    values, place = [], len(text) - len(text.lstrip())
    while place < len(text):
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            return []
        values.append(value)
        while text[place : place + 1].isspace():
            place += 1
    return values


def _lines(path: Path, text: str) -> Iterator[Record | Problem]:
    """Yield the value of each line; those of an array, an item a line, may have their brackets and commas."""
    for number, line in enumerate(text.split("\n"), start=1):
        item = line.strip().removesuffix(",")
        if not item or item in "[]":
            continue
        try:
            yield Record(f"{path}:{number}", parse_json(item))
        except ValueError as error:
            try:
                yield Record(f"{path}:{number}", parse_python(item))
            except ValueError:
                yield Problem(f"{path}:{number}", "不是合法的 JSON", f"{error}：{excerpt(line)}")


def _items(path: Path, values: list[Any]) -> list[Record]:
    return [Record(f"{path} 第 {number} 项", value) for number, value in enumerate(values, start=1)]


def _only_list(value: dict[str, Any]) -> list[Any] | None:
    """Return the list of objects that an object wraps, as {"data": [...]} does; None if it is a record.

    What it holds by number or name, as {"1": {...}, "2": {...}} does, is such a list too.
    """
    lists = {key: item for key, item in value.items() if isinstance(item, list) and item}
    is_alone = len(lists) == len(value) == 1 and not value.keys() & _TURNS
    wrapped = [item for key, item in lists.items() if is_alone or key.lower() in _WRAPPERS]
    if not wrapped and find_field(value, "text") is None and not value.keys() & _TURNS:
        wrapped = [item for item in lists.values() if all(map(_has_text, item))]
    if len(wrapped) == 1 and all(isinstance(item, dict) for item in wrapped[0]):
        return wrapped[0]
    if value and all(map(_has_text, value.values())):
        return list(value.values())
    return None


def _has_text(item: Any) -> bool:
    return isinstance(item, dict) and find_field(item, "text") is not None


_DECODER = json.JSONDecoder(object_pairs_hook=as_object)

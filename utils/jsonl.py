"""Lines of JSON: good ones become objects, bad ones are named with a reason and cost only themselves."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.common_utils import UserError, is_encodable, log
from utils.text_lines import LineSource, TextLines, looks_like_gbk

MAX_LINE_BYTES = 1 << 20
MAX_SKIPPED_BYTES = 1 << 29  # of one line: behind that is no text, but the inside of some other file
MAX_ARRAY_BYTES = 1 << 28  # a JSON array can only be parsed as a whole
MAX_OBJECTS, MAX_COMMAS = 20_000_000, 60_000_000  # in there: each takes up to thirty times its own bytes
BOM = b"\xef\xbb\xbf"
_JSON_TYPES = {
    dict: "对象",
    list: "列表",
    str: "字符串",
    int: "数字",
    float: "数字",
    bool: "布尔值",
    type(None): " null",
}


@dataclass(frozen=True)
class BadLine:
    """A line that can't be used: `str()` gives "file:line: reason", the reason in Chinese.

    `content` is the line as far as it is text (none if it is too long); `kind` names the foreign format that
    it is in, if that is known.
    """

    path: str
    line_number: int
    reason: str
    content: str = field(default="", repr=False, compare=False)
    kind: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.path}:{self.line_number}: {self.reason}"


def iter_objects(
    path: str | Path, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, dict[str, Any]] | BadLine]:
    """Yield each line of a JSONL file as (line number, object), or as a `BadLine`; blank lines are
    passed over.

    Only one line is held at a time, and of a line over `max_line_bytes` no more than that. A file that is one
    JSON array of objects is read, too; what counts as line number is then the number of the item.

    Raises:
        UserError: the file is missing, no plain file, or unreadable.
    """
    with open_data(path) as file:
        start = file.peek_line(max_line_bytes + 1).removeprefix(BOM).strip()
        lines: LineSource = file
        if start.startswith(b"[") and start[1:].lstrip()[:1] in (b"", b"{"):
            content = read_all(file, path)
            items = parse_array(content)
            if items is not None:
                log(f"{path} 是一个 JSON 数组，逐项读取，下面说的第几行是指第几项。")
                yield from _array_items(items, path)
                return
            lines = io.BytesIO(content)
        yield from iter_objects_in(lines, path, max_line_bytes)


def read_all(file: LineSource, path: str | Path) -> bytes:
    """Read all that is left of a file which begins like a JSON array.

    Raises:
        UserError: it is too large for that.
    """
    content = bytearray()
    while chunk := file.readline(1 << 20):
        content += chunk
        if len(content) > MAX_ARRAY_BYTES:
            raise UserError(
                f"{path} 是 JSON 数组，超过了 {MAX_ARRAY_BYTES >> 20} MB：请转成 JSONL（每行一个对象）。"
            )
    return bytes(content)


def has_too_many_values(content: bytes) -> bool:
    """Tell, before it is parsed, whether JSON holds more objects, lists or values than memory is made for."""
    return content.count(b"{") + content.count(b"[") > MAX_OBJECTS or content.count(b",") > MAX_COMMAS


def parse_array(content: bytes) -> list[Any] | None:
    """Return the items of a JSON array, in UTF-8 or GBK; None if it is none.

    Raises:
        UserError: there are too many.
    """
    if has_too_many_values(content):
        raise UserError("JSON 数组里的值太多，内存放不下：请转成 JSONL（每行一个对象）。")
    try:
        items = json.loads(content.decode("gb18030" if looks_like_gbk(content) else "utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return items if isinstance(items, list) else None


def _array_items(items: list[Any], path: str | Path) -> Iterator[tuple[int, dict[str, Any]] | BadLine]:
    for number, item in enumerate(items, start=1):
        if isinstance(item, dict):
            yield number, item
        else:
            yield BadLine(str(path), number, f"应当是 JSON 对象，却是{_JSON_TYPES[type(item)]}")


def iter_objects_in(
    file: LineSource, path: str | Path, max_line_bytes: int = MAX_LINE_BYTES, line_number: int = 0
) -> Iterator[tuple[int, dict[str, Any]] | BadLine]:
    """Yield the lines of an open file as `iter_objects` does.

    Args:
        file: where the lines come from.
        path: what bad lines are said to be of.
        max_line_bytes: see there.
        line_number: lines of the file that have been read already.
    """
    for item in iter_lines_in(file, path, max_line_bytes, line_number):
        if isinstance(item, BadLine):
            yield item
            continue
        number, raw = item
        try:
            yield number, _parse(raw)
        except ValueError as error:
            content = raw.rstrip(b"\r\n").decode("utf-8", "replace")
            yield BadLine(str(path), number, str(error), content)


def iter_lines_in(
    file: LineSource, path: str | Path, max_line_bytes: int = MAX_LINE_BYTES, line_number: int = 0
) -> Iterator[tuple[int, bytes] | BadLine]:
    """Yield the lines of an open file as (line number, bytes), without blank ones; one over
    `max_line_bytes` is a `BadLine`. The arguments are those of `iter_objects_in`."""
    while raw := file.readline(max_line_bytes + 1):
        line_number += 1
        too_long = len(raw) > max_line_bytes and not raw.endswith(b"\n")
        raw = raw.removeprefix(BOM)  # at the start of the file, or where files were joined
        if too_long:
            size = len(raw) + _skip_line(file, path, line_number)
            reason = f"这一行有 {size:,} 字节，超过上限 {max_line_bytes:,} 字节"
            yield BadLine(str(path), line_number, reason)
        elif raw.strip():
            yield line_number, raw


def text_problem(record: dict[str, Any], name: str) -> str | None:
    """Say in Chinese what is wrong with a field that should hold text; None if it does."""
    if name not in record:
        return f"缺少字段 {name}"
    value = record[name]
    if not isinstance(value, str):
        return f"字段 {name} 应当是字符串，却是{_JSON_TYPES[type(value)]}"
    if not value.strip():
        return f"字段 {name} 是空的"
    if "\0" in value:
        return f"字段 {name} 含有 NUL 字符"
    if not is_encodable(value):
        return f"字段 {name} 含有不成对的代理字符（\\ud800–\\udfff）"
    return None


def describe_bad_lines(bad_lines: Sequence[BadLine], limit: int = 50) -> list[str]:
    """Return the lines that a log shows: a count, then each bad line up to `limit`, then how many more."""
    if not bad_lines:
        return []
    lines = [f"{bad_lines[0].path} 有 {len(bad_lines)} 行坏数据，已跳过："]
    lines += [f"  {bad_line}" for bad_line in bad_lines[:limit]]
    if len(bad_lines) > limit:
        lines.append(f"  ……还有 {len(bad_lines) - limit} 行")
    return lines


def open_data(path: str | Path, quiet: bool = False) -> TextLines:
    """Open a file, or a pipe, to read its lines, converted to UTF-8 if need be; `quiet` doesn't say so.

    Raises:
        UserError: it is missing, something else, or unreadable.
    """
    path = Path(path) if isinstance(path, str) else path
    try:
        if path.is_dir():
            raise UserError(f"{path} 是目录，应当是一个 JSONL 文件。")
        if path.exists() and not (path.is_file() or path.is_fifo()):
            raise UserError(f"{path} 不是普通文件，无法当作数据读取。")
        return TextLines(path.open("rb"), path, quiet)
    except FileNotFoundError:
        raise UserError(f"找不到数据文件 {path}：请检查路径。") from None
    except OSError as error:
        raise UserError(f"读不了数据文件 {path}（{error.strerror}）：请检查路径和权限。") from error


def _skip_line(file: LineSource, path: str | Path, line_number: int) -> int:
    """Read on to the end of the line without keeping it; return the bytes passed.

    Raises:
        UserError: there is no end for so long that the file can't hold lines.
    """
    skipped = 0
    while chunk := file.readline(1 << 16):
        skipped += len(chunk)
        if chunk.endswith(b"\n"):
            break
        if skipped > MAX_SKIPPED_BYTES:
            raise UserError(
                f"{path} 的第 {line_number} 行过了 {MAX_SKIPPED_BYTES >> 20} MB 还没有结束：这不是一行一句的"
                "数据文件，没有读下去。"
            )
    return skipped


def decode_line(raw: bytes) -> str:
    """Return the text of a line; raise a `ValueError` with the reason in Chinese."""
    if b"\0" in raw:
        hint = "（像是 UTF-16 编码，请把文件转成 UTF-8）" if raw.count(b"\0") * 3 >= len(raw) else ""
        raise ValueError(f"含有 NUL 字节{hint}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"不是 UTF-8 编码，第 {error.start + 1} 个字节处出错{_encoding_hint(raw)}") from None


def _parse(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a line; raise a `ValueError` with the reason in Chinese."""
    text = decode_line(raw)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"不是合法的 JSON，第 {error.colno} 个字符处出错") from None
    except RecursionError:
        raise ValueError("JSON 嵌套过深") from None
    except ValueError:  # an integer with thousands of digits
        raise ValueError("JSON 里有过长的数字") from None
    if not isinstance(value, dict):
        raise ValueError(f"应当是 JSON 对象，却是{_JSON_TYPES[type(value)]}")
    return value


def _encoding_hint(raw: bytes) -> str:
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    return "（像是 GBK 编码，请把文件转成 UTF-8）"

"""Reading data files: lines with the fields `context` and `target` become examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_handle.foreign import name_foreign_file, name_foreign_record, remedy_for
from utils.common_utils import UserError
from utils.jsonl import BadLine, iter_objects, text_problem

FIELDS = ("context", "target")


class Example(NamedTuple):
    """One training line: the whole prompt, the answer wanted, and the line it stands on (from 1)."""

    context: str
    target: str
    line_number: int


def read_jsonl(path: str | Path, strict: bool = False) -> tuple[list[Example], list[BadLine]]:
    """Read a data file with the fields `context` and `target`; other fields are ignored.

    Args:
        path: the JSONL file. A byte order mark, CRLF line ends and blank lines are tolerated.
        strict: refuse the file if any line of it is bad.

    Returns:
        The examples in file order, and the lines left out.

    Raises:
        UserError: the file can't be read, no good line is left, or a line is bad and `strict` is set.
    """
    examples: list[Example] = []
    bad_lines: list[BadLine] = []
    for item in iter_examples(path):
        if isinstance(item, BadLine):
            bad_lines.append(item)
        else:
            examples.append(item)
    check_lines(path, len(examples), bad_lines, strict)
    return examples, bad_lines


def check_lines(path: str | Path, examples: int, bad_lines: Sequence[BadLine], strict: bool) -> None:
    """Refuse a file of which no line is good or, if `strict`, any line is bad.

    Raises:
        UserError: it is such a file.
    """
    if not examples and not bad_lines:
        raise UserError(f"{path} 是空的：里面应当每行有一个含 context 和 target 的 JSON 对象。")
    if not examples:
        if kind := bad_lines[0].kind:
            raise UserError(f"{path} 没有一行可用：里面是 {kind}；{remedy_for(kind, path)}。")
        foreign = name_foreign_file(path)
        raise UserError(f"{path} 没有一行可用：{foreign or _first_reasons(bad_lines)}。")
    if strict and bad_lines:
        raise UserError(
            f"{path} 有 {len(bad_lines)} 行坏数据，而 strict_data 不允许跳过：{_first_reasons(bad_lines)}；"
            "请改正这些行，或者关掉 strict_data。"
        )


def iter_examples(path: str | Path) -> Iterator[Example | BadLine]:
    """Yield each line of a data file as an `Example`, or as a `BadLine`; see `iter_objects`.

    Raises:
        UserError: the file is missing, no plain file, or unreadable.
    """
    for item in iter_objects(path):
        if isinstance(item, BadLine):
            yield item
            continue
        line_number, record = item
        problems = [problem for name in FIELDS if (problem := text_problem(record, name))]
        if problems:
            kind = name_foreign_record(record) or ""
            yield BadLine(str(path), line_number, "；".join(problems), kind=kind)
        else:
            yield Example(record["context"], record["target"], line_number)


def _first_reasons(bad_lines: Sequence[BadLine], limit: int = 5) -> str:
    reasons = "；".join(f"第 {bad_line.line_number} 行{bad_line.reason}" for bad_line in bad_lines[:limit])
    rest = len(bad_lines) - limit
    return f"{reasons}；还有 {rest} 行" if rest > 0 else reasons

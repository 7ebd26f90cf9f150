"""brat's standoff annotation: a `.txt` and an `.ann` beside it, or a folder of them.

Source: brat.nlplab.org/standoff.html. `T` lines are entities (offsets in code points of the text file,
end exclusive), `R` lines are relations, from the first argument to the second whatever they are called; a
line of the text is a sentence. Not to be converted: entities in several parts, relations from one line to
another, events (`E`), equivalences (`*`); a sentence that has lost something of that kind is no example of
"nothing to extract". Attributes, notes and the like are passed over.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_handle.converters.decoding import decode, read_whole
from data_handle.converters.doccano import NOTHING_MARKED
from data_handle.converters.labelled import Fact, Labelled, Problem, Span, excerpt
from utils.common_utils import UserError

# Runs of blanks are bounded: a long row that fits nothing must not be tried in every way.
_ENTITY = re.compile(r"(T\S+)[\t ]{1,8}(\S.{0,200}?)[\t ]{1,8}([0-9]{1,9}) ([0-9][0-9 ;]*)(?:[\t ](.*))?")
_OFFSET = re.compile("[0-9]{1,9}")
_ROLE = r"[\t ]{1,8}[^\s:]{1,100}:(\S+)"
_RELATION = re.compile(rf"(R\S+)[\t ]{{1,8}}(\S.{{0,200}}?){_ROLE}{_ROLE}\s*")
_EVENT = re.compile(rf"E\S+{_ROLE}")
_NOT_CONVERTED = {"E": "事件标注不能转换成三元组", "*": "等同标注（*）不能转换成三元组"}


class _Entity(NamedTuple):
    text: str
    type: str
    span: Span  # in its line
    line: int  # index


class _Lost(NamedTuple):
    """An entity that can't be used."""

    reason: str
    line: int


def read(path: Path) -> Iterator[Labelled | Problem]:
    """Yield the sentences of a folder or of one `.ann` file, and what can't be used.

    Raises:
        UserError: a file can't be read.
    """
    files = sorted(path.rglob("*.ann")) if path.is_dir() else [path]
    for text_file in sorted(path.rglob("*.txt")) if path.is_dir() else []:
        if not text_file.with_suffix(".ann").exists():
            yield Problem(str(text_file), "旁边没有同名的 .ann 标注")
    for file in files:
        text_file = file.with_suffix(".txt")
        if not text_file.is_file():
            yield Problem(str(file), "旁边没有同名的 .txt 原文")
            continue
        yield from _read_document(file, _read(text_file), _read(file))


def _read(path: Path) -> str:
    try:
        return decode(read_whole(path))[0]
    except OSError as error:
        raise UserError(f"读不了 {path}（{error.strerror or error}）：请检查权限。") from error
    except ValueError as error:
        raise UserError(f"{path} {error}。") from None


def _read_document(path: Path, text: str, annotations: str) -> Iterator[Labelled | Problem]:
    rows = [row.rstrip("\r") for row in annotations.split("\n")]
    marked = [match for row in rows if (match := _ENTITY.fullmatch(row))]
    text = _as_counted(text, marked)
    lines = _lines(text)
    entities = {match[1]: _entity(text, lines, match) for match in marked}
    facts: dict[int, list[Fact]] = defaultdict(list)
    incomplete: set[int] = set()  # lines that lost a relation
    is_any_incomplete = False  # any line may have lost one
    for number, row in enumerate(rows, start=1):
        where = f"{path}:{number}"
        reason = _NOT_CONVERTED.get(row[:1])
        if row.startswith("T") and not _ENTITY.fullmatch(row):
            reason = "认不出的实体行"
        elif row.startswith("R"):
            found = _relation(row, entities)
            if isinstance(found, str):
                reason = found
            else:
                facts[found[0]].append(found[1])
        if reason is not None:
            yield Problem(where, reason, excerpt(row), whole=False)
            known = {entities[name].line for name in _named(row) if name in entities}
            incomplete |= known
            is_any_incomplete = is_any_incomplete or not (known or row.startswith("T"))
    note = "" if any(map(str.strip, rows)) else NOTHING_MARKED
    for index, (_, line) in enumerate(lines):
        place = f"{path.with_suffix('.txt')}:{index + 1}"
        if facts[index] or (line.strip() and not (is_any_incomplete or index in incomplete)):
            yield Labelled(line, facts[index], place, note=note)
        elif line.strip():
            yield Problem(place, "没有一个关系可用", excerpt(line))


def _as_counted(text: str, marked: list[re.Match[str]]) -> str:
    """Return a text with its ends of lines as the offsets count them: two characters or one."""
    if "\r\n" not in text:
        return text
    shorter = text.replace("\r\n", "\n")
    whole = [match for match in marked if _OFFSET.fullmatch(match[4])]
    spans = [(int(match[3]), int(match[4]), match[5]) for match in whole]
    fitting = [sum(each[start:end] == value for start, end, value in spans) for each in (text, shorter)]
    return shorter if fitting[1] > fitting[0] else text


def _named(row: str) -> list[str]:
    """Return the entities that a row speaks of."""
    if match := _RELATION.fullmatch(row):
        return [match[3], match[4]]
    if match := _EVENT.match(row):
        return [match[1]]
    return row.split()[2:] if row.startswith("*") else []


def _relation(row: str, entities: dict[str, _Entity | _Lost]) -> tuple[int, Fact] | str:
    """Return the line and the fact of an `R` line, or in Chinese why it can't be used."""
    match = _RELATION.fullmatch(row)
    if match is None:
        return "认不出的关系行"
    subject, object_ = entities.get(match[3]), entities.get(match[4])
    for end in (subject, object_):
        if isinstance(end, _Lost):
            return end.reason
    if not isinstance(subject, _Entity) or not isinstance(object_, _Entity):
        return "所指的实体不在里面"
    if subject.line != object_.line:
        return "关系的两端不在同一行（同一句）里"
    types = subject.type, object_.type
    return subject.line, Fact(match[2], subject.text, object_.text, *types, subject.span, object_.span)


def _lines(text: str) -> list[tuple[int, str]]:
    """Return each line of a text, without its end, and where it starts."""
    result, start = [], 0
    for line in text.split("\n"):
        result.append((start, line.rstrip("\r")))
        start += len(line) + 1
    return result


def _entity(text: str, lines: list[tuple[int, str]], match: re.Match[str]) -> _Entity | _Lost:
    """Return the entity of a `T` line."""
    start = int(match[3])
    index = bisect_right(lines, start, key=lambda line: line[0]) - 1
    if ";" in match[4]:
        return _Lost("实体分成几段", index)
    if not _OFFSET.fullmatch(match[4]):
        return _Lost("实体的偏移超出原文或跨行", index)
    begin, line = lines[index]
    end = int(match[4])
    if not begin <= start < end <= begin + len(line):
        return _Lost("实体的偏移超出原文或跨行", index)
    marked = match[5] if match[5] is not None else text[start:end]
    return _Entity(marked, match[2], Span(start - begin, end - begin), index)

"""brat's standoff annotation: a `.txt` and an `.ann` beside it, or a folder of them.

Source: brat.nlplab.org/standoff.html. `T` lines are entities (offsets in code points of the text file,
end exclusive), `R` lines are relations with Arg1 and Arg2; a line of the text is a sentence. Not to be
converted: entities in several parts, relations from one line to another, events (`E`); attributes, notes
and the like are passed
over.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_handle.converters.decoding import decode, read_whole
from data_handle.converters.labelled import Fact, Labelled, Problem, Span, excerpt
from utils.common_utils import UserError

_ENTITY = re.compile(r"(T\d+)\t(\S+) ([0-9]{1,9}) ([0-9 ;]+)(?:\t(.*))?")
_OFFSET = re.compile("[0-9]{1,9}")
_RELATION = re.compile(r"(R\d+)\t(\S+) Arg1:(\S+) Arg2:(\S+)\s*")


class _Entity(NamedTuple):
    text: str
    type: str
    span: Span  # in its line
    line: int  # index


def read(path: Path) -> Iterator[Labelled | Problem]:
    """Yield the sentences of a folder or of one `.ann` file, and what can't be used.

    Raises:
        UserError: a file can't be read.
    """
    for file in sorted(path.glob("*.ann")) if path.is_dir() else [path]:
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
    lines = _lines(text)
    entities: dict[str, _Entity | str] = {}  # or why it can't be used
    facts: dict[int, list[Fact]] = defaultdict(list)
    incomplete: set[int] = set()  # lines that lost a relation
    rows = [row.rstrip("\r") for row in annotations.split("\n")]
    for row in rows:
        if match := _ENTITY.fullmatch(row):
            entities[match[1]] = _entity(text, lines, match)
    for number, row in enumerate(rows, start=1):
        where = f"{path}:{number}"
        if row.startswith("E"):
            yield Problem(where, "事件标注不能转换成三元组", excerpt(row), whole=False)
        elif row.startswith("T") and not _ENTITY.fullmatch(row):
            yield Problem(where, "认不出的实体行", excerpt(row), whole=False)
        elif row.startswith("R"):
            found = _relation(row, entities)
            if isinstance(found, str):
                yield Problem(where, found, excerpt(row), whole=False)
                incomplete |= {entity.line for entity in _ends(row, entities) if isinstance(entity, _Entity)}
            else:
                facts[found[0]].append(found[1])
    for index, (_, line) in enumerate(lines):
        place = f"{path.with_suffix('.txt')}:{index + 1}"
        if facts[index] or (line.strip() and index not in incomplete):
            yield Labelled(line, facts[index], place)
        elif line.strip():
            yield Problem(place, "没有一个关系可用", excerpt(line))


def _relation(row: str, entities: dict[str, _Entity | str]) -> tuple[int, Fact] | str:
    """Return the line and the fact of an `R` line, or in Chinese why it can't be used."""
    match = _RELATION.fullmatch(row)
    if match is None:
        return "认不出的关系行"
    subject, object_ = _ends(row, entities)
    if isinstance(subject, str):
        return subject
    if isinstance(object_, str):
        return object_
    if subject.line != object_.line:
        return "关系的两端不在同一行（同一句）里"
    types = subject.type, object_.type
    return subject.line, Fact(match[2], subject.text, object_.text, *types, subject.span, object_.span)


def _ends(row: str, entities: dict[str, _Entity | str]) -> list[_Entity | str]:
    """Return the entities of an `R` line, or why they can't be used."""
    match = _RELATION.fullmatch(row)
    names = (match[3], match[4]) if match else ()
    return [entities.get(name, "所指的实体不在里面") for name in names]


def _lines(text: str) -> list[tuple[int, str]]:
    """Return each line of a text, without its end, and where it starts."""
    result, start = [], 0
    for line in text.split("\n"):
        result.append((start, line.rstrip("\r")))
        start += len(line) + 1
    return result


def _entity(text: str, lines: list[tuple[int, str]], match: re.Match[str]) -> _Entity | str:
    """Return the entity of a `T` line, or in Chinese why it can't be used."""
    if ";" in match[4]:
        return "实体分成几段"
    if not _OFFSET.fullmatch(match[4]):
        return "实体的偏移超出原文或跨行"
    start, end = int(match[3]), int(match[4])
    index = bisect_right(lines, start, key=lambda line: line[0]) - 1
    begin, line = lines[index]
    if not begin <= start < end <= begin + len(line):
        return "实体的偏移超出原文或跨行"
    marked = match[5] if match[5] is not None else text[start:end]
    return _Entity(marked, match[2], Span(start - begin, end - begin), index)

"""Foreign formats: a file for each; what a file is, is told by its content and not by its suffix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_handle.converters import (
    brat,
    doccano,
    duie,
    iepile,
    instructions,
    label_studio,
    own,
    table,
    triplets,
)
from data_handle.converters.fields import find_field
from data_handle.converters.labelled import Labelled, Problem, Settings, excerpt
from data_handle.converters.source import Record, Source, open_source
from utils.common_utils import UserError


class Converter(NamedTuple):
    """A format of JSON records: `recognise` names it if a record has it, `read` yields what is in them."""

    recognise: Callable[[dict[str, Any]], str | None]
    read: Callable[[list[Record], Settings], Iterator[Labelled | Problem]]


LABEL_STUDIO = Converter(label_studio.recognise, label_studio.read)
DOCCANO = Converter(doccano.recognise, doccano.read)
# In the order in which a record is asked: the more particular shapes first.
RECORD_CONVERTERS = (
    LABEL_STUDIO,
    DOCCANO,
    Converter(own.recognise, own.read),
    Converter(iepile.recognise, iepile.read),
    Converter(instructions.recognise, instructions.read),
    Converter(duie.recognise, duie.read),
    Converter(triplets.recognise, triplets.read),
)


@dataclass
class FileContent:
    """What a file holds.

    Args:
        path: the file or folder.
        description: what it was taken for, in Chinese.
        units: lines, items, tasks or rows in it.
        unit: what they are called.
        sentences: those that may be usable.
        problems: what is not.
    """

    path: Path
    description: str
    units: int
    unit: str
    sentences: list[Labelled]
    problems: list[Problem]


def read_file(
    path: Path, settings: Settings, converters: Sequence[Converter] = RECORD_CONVERTERS
) -> FileContent:
    """Read a file or folder in whatever known format it has.

    Args:
        path: where it is.
        settings: what the user says about it.
        converters: the formats of JSON records to look for.

    Raises:
        UserError: it can't be read, or its format is not known.
    """
    source = open_source(path)
    if source.form == "records":
        return _read_records(source, settings, converters)
    if converters is not RECORD_CONVERTERS:
        raise UserError(
            f"{path} 不是 JSON：这里只收标注工具导出的 JSON，其他格式请用 python -m data_handle.convert。"
        )
    if source.form == "brat":
        items = list(brat.read(source.path))
        units = sum(isinstance(item, Labelled) or item.whole for item in items)
        return _content(path, source.outer, units, "行", items)
    if source.form == "workbook":
        tables, types = table.read_workbook(path, settings)
    else:
        tables, types = [table.read_text_table(path, source.text, settings)], {}
    outer = source.outer if source.form == "workbook" else source.encoding
    described = "；".join([f"{outer}，{tables[0].described}", *(each.described for each in tables[1:])])
    items = [item for each in tables for item in table.read(each, types)]
    return _content(path, described, table.count_rows(tables), "行", items)


def _read_records(source: Source, settings: Settings, converters: Sequence[Converter]) -> FileContent:
    """Give each record to the format that knows it."""
    shares: dict[int, list[Record]] = {}
    names: Counter[str] = Counter()
    items: list[Labelled | Problem] = list(source.problems)
    for record in source.records:
        try:
            number, name = _recognise(record, converters)
        except UserError as error:
            raise UserError(f"{source.path}：{error}") from None
        if number is None:
            items.append(Problem(record.where, "认不出这一条的格式", excerpt(str(record.value))))
        else:
            shares.setdefault(number, []).append(record)
            names[name] += 1
    if not names:
        if converters is not RECORD_CONVERTERS and source.records:
            _, other = _recognise(source.records[0], RECORD_CONVERTERS)
            if other:
                raise UserError(
                    f"{source.path} 是{other}，不是标注工具导出的 JSON：请用 python -m data_handle.convert。"
                )
        keys = _keys(source.records)
        bare = "像是没有标注的句子（例如测试集），不能用来训练。" if _are_bare(source.records) else ""
        raise UserError(
            f"认不出 {source.path} 的格式：是{source.outer}，但{keys}里没有认得的句子和三元组。{bare}"
            "支持的格式见 docs/data.md；最简单的是每条 "
            '{"text": "句子", "triplets": [{"subject": …, "predicate": …, "object": …}]}。'
        )
    for number in sorted(shares):
        items += converters[number].read(shares[number], settings)
    units = len(source.records) + len(source.problems)
    formats = "、".join(
        f"{name}" if len(names) == 1 else f"{name} {count} 条" for name, count in names.items()
    )
    return _content(source.path, f"{formats}（{source.outer}，{source.encoding}）", units, "条", items)


def _recognise(record: Record, converters: Sequence[Converter]) -> tuple[int | None, str]:
    if isinstance(record.value, dict):
        for number, converter in enumerate(converters):
            if name := converter.recognise(record.value):
                return number, name
    return None, ""


def _are_bare(records: list[Record]) -> bool:
    first = records[0].value if records else None
    return isinstance(first, dict) and find_field(first, "text") is not None and len(first) < 4


def _keys(records: list[Record]) -> str:
    first = records[0].value if records else {}
    return f"字段 {'、'.join(map(str, first))}" if isinstance(first, dict) else "各项"


def _content(
    path: Path, description: str, units: int, unit: str, items: list[Labelled | Problem]
) -> FileContent:
    sentences = [item for item in items if isinstance(item, Labelled)]
    problems = [item for item in items if isinstance(item, Problem)]
    return FileContent(path, description, units, unit, sentences, problems)

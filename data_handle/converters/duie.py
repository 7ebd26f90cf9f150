"""DuIE 1.0 and 2.0, SKE 2019 and CMeIE: `{"text", "spo_list": [{"predicate", "subject", "object", …_type}]}`.

Sources: DuIE/SKE by Baidu (ai.baidu.com/broad/introduction?dataset=dureader, LIC 2019 and 2020; 1.0 has
`postag` and plain strings, 2.0 objects with "@value" and further slots such as `inWork`, `onDate`), CMeIE
by CBLUE (tianchi.aliyun.com/dataset/95414; `Combined`, objects with "@value").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeGuard

from data_handle.converters.fields import VALUE, as_text, read_fact
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, excerpt, labelled_or_lost
from data_handle.converters.source import Record
from utils.common_utils import is_encodable

_SLOT_LEFT_OUT = "略去复杂关系的附加项（要保留请加 --slots triplets）"
_SLOT_UNUSABLE = "复杂关系的附加项是空的或没有类型"


def recognise(record: dict[str, Any]) -> str | None:
    """Return the format's name if a record has it."""
    if "text" not in record:
        return None
    if "spo_list" not in record:
        return "DuIE 1.0 / SKE" if "postag" in record else None
    items = record["spo_list"]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return None
    if "postag" in record:
        return "DuIE 1.0 / SKE"
    if any("Combined" in item for item in items):
        return "CMeIE"
    if any(isinstance(item.get("object"), dict) for item in items):
        return "DuIE 2.0"
    typed = all({"predicate", "subject_type", "object_type"} <= item.keys() for item in items)
    return "DuIE" if typed else None


def read(records: list[Record], settings: Settings) -> Iterator[Labelled | Problem]:
    """Yield the sentences of records, and what can't be used."""
    for where, record in records:
        items = record.get("spo_list")
        if not isinstance(items, list):
            yield Problem(where, "没有 spo_list 列表（测试集没有标注，不能用来训练）")
            continue
        try:
            text = as_text(record.get("text"), "text")
        except ValueError as error:
            yield Problem(where, str(error))
            continue
        facts: list[Fact] = []
        for item in items:
            try:
                found = read_item(item)
            except ValueError as error:
                yield Problem(where, str(error), excerpt(str(item)), whole=False)
                continue
            facts.append(found.fact)
            for detail in found.unusable:
                yield Problem(where, _SLOT_UNUSABLE, excerpt(detail), whole=False)
            if settings.keep_slots:
                facts += found.slots
            else:
                for slot in found.slots:
                    detail = excerpt(f"{slot.predicate}：{slot.object}")
                    yield Problem(where, _SLOT_LEFT_OUT, detail, whole=False)
        yield labelled_or_lost(text, facts, items, where)


class Item(NamedTuple):
    """What an item of an `spo_list` says.

    Args:
        fact: its predicate between subject and "@value".
        slots: a fact for each further slot of a complex object; its predicate is `predicate_slot`.
        unusable: slots without value or type, as text.
    """

    fact: Fact
    slots: list[Fact]
    unusable: list[str]


def read_item(item: dict[str, Any]) -> Item:
    """Read an item of an `spo_list`.

    Raises:
        ValueError: in Chinese, if it has another shape.
    """
    result = Item(read_fact(item), [], [])
    objects, types = item.get("object"), item.get("object_type")
    for slot, value in objects.items() if isinstance(objects, dict) else ():
        if slot == VALUE:
            continue
        kind = types.get(slot) if isinstance(types, dict) else None
        name = f"{result.fact.predicate}_{slot}"
        if _is_written(value) and _is_written(kind):
            result.slots.append(Fact(name, result.fact.subject, value, result.fact.subject_type, kind))
        else:
            result.unusable.append(f"{name}：{value}")
    return result


def _is_written(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value and is_encodable(value)

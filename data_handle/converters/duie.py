"""DuIE 1.0 and 2.0, SKE 2019 and CMeIE: `{"text", "spo_list": [{"predicate", "subject", "object", …_type}]}`.

Sources: DuIE/SKE by Baidu (ai.baidu.com/broad/introduction?dataset=dureader, LIC 2019 and 2020; 1.0 has
`postag` and plain strings, 2.0 objects with "@value" and further slots such as `inWork`, `onDate`), CMeIE
by CBLUE (tianchi.aliyun.com/dataset/95414; `Combined`, objects with "@value").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_handle.converters.fields import VALUE, as_text, read_fact
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, excerpt, labelled_or_lost
from data_handle.converters.source import Record

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
                facts.append(read_fact(item))
                yield from _read_slots(item, facts, where, settings)
            except ValueError as error:
                yield Problem(where, str(error), excerpt(str(item)), whole=False)
        yield labelled_or_lost(text, facts, items, where)


def _read_slots(item: dict[str, Any], facts: list[Fact], where: str, settings: Settings) -> Iterator[Problem]:
    """Add a fact for each further slot of a complex object, if wanted; its relation is `predicate_slot`."""
    objects, types = item.get("object"), item.get("object_type")
    if not isinstance(objects, dict):
        return
    whole = facts[-1]
    for slot, value in objects.items():
        if slot == VALUE:
            continue
        kind = types.get(slot) if isinstance(types, dict) else None
        detail = f"{whole.predicate}_{slot}：{excerpt(str(value))}"
        if not isinstance(value, str) or not value.strip() or not isinstance(kind, str) or not kind.strip():
            yield Problem(where, _SLOT_UNUSABLE, detail, whole=False)
        elif settings.keep_slots:
            facts.append(Fact(f"{whole.predicate}_{slot}", whole.subject, value, whole.subject_type, kind))
        else:
            yield Problem(where, _SLOT_LEFT_OUT, detail, whole=False)

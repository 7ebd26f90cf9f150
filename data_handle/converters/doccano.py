"""doccano's JSONL of a relation project: `text`, `entities` with offsets, `relations` by their ids.

Source: github.com/doccano/doccano (export "JSONL(relation)"); PaddleNLP's `doccano.py` reads the same.
Offsets count code points, the end is exclusive. The export of a sequence labelling project (`label` with
[start, end, type]) has lost, or never had, relations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from data_handle.converters.fields import as_text
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, Span, excerpt
from data_handle.converters.source import Record


class Entity(NamedTuple):
    """A marked part of a text."""

    text: str
    type: str
    span: Span


def recognise(record: dict[str, Any]) -> str | None:
    """Return the format's name if a record has it."""
    if not isinstance(record.get("text", record.get("data")), str):
        return None
    entities, relations = record.get("entities"), record.get("relations")
    if isinstance(entities, list) and isinstance(relations, list):
        marked = [entity for entity in entities if isinstance(entity, dict)]
        if len(marked) == len(entities) and all("start_offset" in entity for entity in marked):
            return "doccano（实体与关系）"
    labels = record.get("label", record.get("labels"))
    if isinstance(labels, list) and labels and all(map(_is_marked, labels)):
        return "doccano（只有实体）"
    return None


def read(records: list[Record], settings: Settings) -> Iterator[Labelled | Problem]:
    """Yield the sentences of records, and what can't be used."""
    for where, record in records:
        if "relations" not in record:
            yield Problem(where, "只有实体，没有关系：请在 doccano 的关系抽取项目里导出 JSONL(relation)")
            continue
        text = record.get("text", record.get("data"))
        try:
            entities = {entity["id"]: _entity(text, entity) for entity in record["entities"]}
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, ValueError) else "实体缺少 id、标签或偏移"
            yield Problem(where, reason, excerpt(text))
            continue
        facts: list[Fact] = []
        for relation in record["relations"]:
            try:
                subject, object_ = entities[relation["from_id"]], entities[relation["to_id"]]
                predicate = as_text(relation["type"], "type")
            except (KeyError, TypeError, ValueError):
                detail = excerpt(str(relation))
                yield Problem(where, "关系缺少类型，或所指的实体不在里面", detail, whole=False)
                continue
            facts.append(
                Fact(
                    predicate,
                    subject.text,
                    object_.text,
                    subject.type,
                    object_.type,
                    subject.span,
                    object_.span,
                )
            )
        if facts or not record["relations"]:
            yield Labelled(text, facts, where)
        else:
            yield Problem(where, "没有一个关系可用", excerpt(text))


def _is_marked(label: Any) -> bool:
    """Tell an entity of sequence labelling, [start, end, type], from a triplet in a list."""
    return (
        isinstance(label, list)
        and len(label) == 3
        and isinstance(label[0], int)
        and isinstance(label[1], int)
    )


def _entity(text: str, entity: dict[str, Any]) -> Entity:
    start, end = entity["start_offset"], entity["end_offset"]
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
        raise ValueError("实体的偏移超出原文")
    return Entity(text[start:end], as_text(entity["label"], "label"), Span(start, end))

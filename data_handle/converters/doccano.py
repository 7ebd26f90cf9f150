"""doccano's JSONL of a relation project: `text`, `entities` with offsets, `relations` by their ids.

Source: github.com/doccano/doccano (export "JSONL(relation)"); PaddleNLP's `doccano.py` reads the same.
Offsets count code points, the end is exclusive. The export of a sequence labelling project (`label` with
[start, end, type]) has lost, or never had, relations. Others write the same with other names: SpERT
(github.com/lavis-nlp/spert, `relations` with `head` and `tail` as indexes of `entities`) and home-made
tools with `id`, `text` and `type`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from data_handle.converters.fields import as_text, read_span
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, Span, excerpt
from data_handle.converters.source import Record

NOTHING_MARKED = "一个实体也没有标，当作没有三元组的句子；如果只是还没有标，请先删去"
_STARTS = ("start_offset", "start", "start_pos", "begin", "start_idx")
_ENDS = ("end_offset", "end", "end_pos", "stop", "end_idx")
_IDS = ("id", "entity_id", "eid", "uid", "ID")
_TYPES = ("label", "type", "entity_type", "tag", "category")
_TEXTS = ("text", "name", "word", "mention", "entity", "value")
_PREDICATES = ("type", "label", "relation", "predicate", "rel", "relation_type", "name")
_REFERENCES = (
    ("from_id", "to_id"),
    ("head_id", "tail_id"),
    ("subject_id", "object_id"),
    ("from", "to"),
    ("head", "tail"),
    ("subject", "object"),
    ("source", "target"),
    ("arg1", "arg2"),
    ("h", "t"),
)
_LISTS = (("entities", "relations"), ("entity_list", "relation_list"), ("entity", "relation"))


class Entity(NamedTuple):
    """A marked part of a text; `span` is None if the source doesn't say where it stands."""

    text: str
    type: str
    span: Span | None


def recognise(record: dict[str, Any]) -> str | None:
    """Return the format's name if a record has it."""
    if not isinstance(record.get("text", record.get("data")), str):
        return None
    entities, relations = _lists(record)
    if entities is not None and relations is not None:
        if all("start_offset" in entity for entity in entities):
            return "doccano（实体与关系）"
        if relations and all(map(_is_entity, entities)) and _are_resolved(entities, relations):
            return "实体与关系"
        return None
    marked = record.get("label", record.get("labels"))
    if isinstance(marked, list) and marked and all(map(_is_marked, marked)):
        return "doccano（只有实体）"
    others = record.get("entities", record.get("annotations"))
    if isinstance(others, list) and others and all(isinstance(item, dict) for item in others):
        return "doccano（只有实体）" if all("start_offset" in item for item in others) else None
    return None


def read(records: list[Record], settings: Settings) -> Iterator[Labelled | Problem]:
    """Yield the sentences of records, and what can't be used."""
    for where, record in records:
        text = record.get("text", record.get("data"))
        found, relations = _lists(record)
        if found is None or relations is None:
            yield Problem(where, "只有实体，没有关系：请在 doccano 的关系抽取项目里导出 JSONL(relation)")
            continue
        entities: dict[str, Entity] = {}
        for number, item in enumerate(found):
            try:
                entity = _entity(text, item)
            except ValueError as error:
                yield Problem(where, str(error), excerpt(str(item)), whole=False)
                continue
            entities[str(_get(item, _IDS, number))] = entity
        facts: list[Fact] = []
        for relation in relations:
            try:
                facts.append(_fact(relation, entities))
            except ValueError as error:
                yield Problem(where, str(error), excerpt(str(relation)), whole=False)
        if facts or not relations:
            yield Labelled(text, facts, where, note="" if found else NOTHING_MARKED)
        else:
            yield Problem(where, "没有一个关系可用", excerpt(text))


def _lists(record: dict[str, Any]) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]:
    """Return the entities and the relations of a record; None for what isn't a list of objects."""
    for names in _LISTS:
        found = [items for name in names if isinstance(items := record.get(name), list)]
        if len(found) == len(names) and all(isinstance(item, dict) for items in found for item in items):
            return found[0], found[1]
    return None, None


def _get(item: dict[str, Any], names: tuple[str, ...], default: Any = None) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), default)


def _is_entity(item: dict[str, Any]) -> bool:
    return _get(item, _STARTS) is not None or isinstance(_get(item, _TEXTS), str)


def _references(relation: dict[str, Any]) -> tuple[str, str] | None:
    """Return how a relation names its subject and its object; None if it doesn't."""
    for first, second in _REFERENCES:
        ends = relation.get(first), relation.get(second)
        if all(isinstance(end, (int, str)) and not isinstance(end, bool) for end in ends):
            return str(ends[0]), str(ends[1])
    return None


def _are_resolved(entities: list[dict[str, Any]], relations: list[dict[str, Any]]) -> bool:
    """Tell whether relations name entities by id or index, not by their words."""
    known = {str(_get(item, _IDS, number)) for number, item in enumerate(entities)}
    found = [ends for relation in relations if (ends := _references(relation))]
    return bool(found) and all(end in known for ends in found for end in ends)


def _is_marked(label: Any) -> bool:
    """Tell an entity of sequence labelling, [start, end, type], from a triplet in a list."""
    return (
        isinstance(label, list)
        and len(label) == 3
        and isinstance(label[0], int)
        and isinstance(label[1], int)
    )


def _entity(text: str, item: dict[str, Any]) -> Entity:
    """Read an entity.

    Raises:
        ValueError: in Chinese, if it can't be used.
    """
    kind = as_text(_get(item, _TYPES), "label")
    words = _get(item, _TEXTS)
    span = read_span([_get(item, _STARTS), _get(item, _ENDS)])
    if isinstance(words, str):  # whose place in the text is checked later
        return Entity(words, kind, span)
    if span is None or not span.start < span.end <= len(text):
        raise ValueError("实体的偏移超出原文，或没有偏移")
    return Entity(text[span.start : span.end], kind, span)


def _fact(relation: dict[str, Any], entities: dict[str, Entity]) -> Fact:
    ends, predicate = _references(relation), _get(relation, _PREDICATES)
    if ends is None or not predicate or ends[0] not in entities or ends[1] not in entities:
        raise ValueError("关系缺少类型，或所指的实体不在里面")
    subject, object_ = (entities[end] for end in ends)
    return Fact(
        as_text(predicate, "type"),
        subject.text,
        object_.text,
        subject.type,
        object_.type,
        subject.span,
        object_.span,
    )

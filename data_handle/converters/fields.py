"""Field names of foreign files, Chinese and English, and how a fact is read from an object or a list."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_handle.converters.labelled import Fact, Span

# What a field or column is, by the names it is known under (compared without case, "_", "-" and blanks).
NAMES = {
    "text": "text sentence sent senttext content input context 句子 文本 原文 正文 内容 语句 待抽取文本 "
    "原句 例句 文本内容 句子内容 原始文本 sentence_text raw_text",
    "facts": "triplets triples triple_list spo_list spo spos relations relation relation_list "
    "relationmentions facts 三元组 三元组列表 关系 关系列表 labels label triplet triple kg kg_list "
    "知识三元组",
    "subject": "subject head h subj sub s em1text entity1 head_entity 主语 主体 头实体 实体1 头 "
    "e1 ent1 arg1 head_name subject_name 实体一 头实体名称 主实体 起点 源实体 from source",
    "predicate": "predicate relation rel r p property relation_type rel_type 关系 谓语 谓词 属性 关系类型 "
    "relation_name relationship 关系名称 关系名 关系类别 关系谓词 label type",
    "object": "object tail t obj o em2text entity2 tail_entity value 宾语 客体 尾实体 实体2 尾 属性值 "
    "e2 ent2 arg2 tail_name object_name 实体二 尾实体名称 客实体 终点 目标实体 to target",
    "subject_type": "subject_type head_type subj_type sub_type h_type entity1_type e1_type head_entity_type "
    "主语类型 主体类型 头实体类型 实体1类型 主语类别 主体类别 头实体类别 实体一类型 source_type",
    "object_type": "object_type tail_type obj_type t_type entity2_type e2_type tail_entity_type "
    "宾语类型 客体类型 尾实体类型 实体2类型 宾语类别 客体类别 尾实体类别 实体二类型 target_type",
    "subject_span": "subject_span head_span subj_char_span subj_span subject_position head_position 主语位置",
    "object_span": "object_span tail_span obj_char_span obj_span object_position tail_position 宾语位置",
    "subject_start": "subject_start head_offset head_start h_start 主语开始",
    "object_start": "object_start tail_offset tail_start t_start 宾语开始",
}
_PREPARED = {
    role: [re.sub(r"[\s_\-]", "", name).lower() for name in names.split()] for role, names in NAMES.items()
}
_REMARK = re.compile(r"[(（\[【*].*|[:：*\s]+$")  # behind a column's name, as in 主语（必填）
_SPAN_KEYS = ("position", "pos", "span", "offset", "char_span")
VALUE = "@value"


class RepeatedKey:
    """Stands for the value of a key that an object has twice, with different values."""


def as_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of keys and values; a key that has two different values gets a `RepeatedKey`."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        result[key] = RepeatedKey() if key in result and result[key] != value else value
    return result


def role_of(name: str) -> str | None:
    """Return what a column of this name holds, see `NAMES`; None if that isn't known."""
    plain = _plain(_REMARK.sub("", name))
    roles = [role for role in NAMES if role != "facts" and plain in _PREPARED[role]]
    return roles[0] if roles else None


def rank_of(name: str, role: str) -> int:
    """Return how far down the names of a role one stands: of two columns, the better known is meant."""
    plain = _plain(_REMARK.sub("", name))
    return _PREPARED[role].index(plain) if plain in _PREPARED[role] else -1


def holds_facts(name: str) -> bool:
    """Tell whether a column of this name holds whole triplets, and not a relation or some other label."""
    plain = _plain(_REMARK.sub("", name))
    return plain in _PREPARED["facts"] and plain not in (*_PREPARED["predicate"], "labels")


def find_field(record: Mapping[str, Any], role: str) -> str | None:
    """Return the key under which an object has a field, the best-known name first; None if it has none."""
    keys = {_plain(key): key for key in record}
    return next((keys[name] for name in _PREPARED[role] if name in keys), None)


def get_field(record: Mapping[str, Any], role: str) -> Any:
    """Return the value of a field by its role; None if it has none."""
    key = find_field(record, role)
    return None if key is None else record[key]


def as_text(value: Any, name: str) -> str:
    """Return the text of a field; numbers become text, nothing becomes "".

    Raises:
        ValueError: in Chinese, if it is something else.
    """
    if isinstance(value, RepeatedKey):
        raise ValueError(f"字段 {name} 在同一个对象里写了两次，取值不同")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"字段 {name} 应当是文字")
    return str(value)


def is_fact(item: Any) -> bool:
    """Tell whether something has the shape of a fact: a list of three texts, or an object with the fields."""
    if isinstance(item, dict):
        return all(find_field(item, role) is not None for role in ("subject", "predicate", "object"))
    return isinstance(item, list) and len(item) == 3 and all(isinstance(value, str) for value in item)


def read_fact(item: Any) -> Fact:
    """Read a fact from an object in any of the known spellings, or from [subject, predicate, object].

    The ends of a fact may be objects themselves, with a name, a type and a position.

    Raises:
        ValueError: in Chinese, if it has another shape.
    """
    if isinstance(item, list):
        if not is_fact(item):
            raise ValueError("列表形式的三元组应当是 [主语, 关系, 宾语] 三项文字")
        return Fact(item[1], item[0], item[2])
    if not isinstance(item, dict):
        raise ValueError("三元组应当是对象或列表")
    subject, subject_type, subject_span = _read_end(item, "subject")
    object_, object_type, object_span = _read_end(item, "object")
    relation = get_field(item, "predicate")
    predicate = as_text(_words_of(relation) if isinstance(relation, dict) else relation, "关系")
    return Fact(predicate, subject, object_, subject_type, object_type, subject_span, object_span)


def read_span(value: Any) -> Span | None:
    """Read [start, end]; None if it is something else."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        start, end = value
        if isinstance(start, int) and isinstance(end, int) and 0 <= start <= end:
            return Span(start, end)
    return None


def _read_end(item: Mapping[str, Any], role: str) -> tuple[str, str, Span | None]:
    """Return text, type and place of a fact's subject or object."""
    name = {"subject": "主语", "object": "宾语"}[role]
    value = get_field(item, role)
    kind = get_field(item, f"{role}_type")
    span = read_span(get_field(item, f"{role}_span"))
    start = get_field(item, f"{role}_start")
    if isinstance(value, dict):
        if VALUE in value:
            value = value[VALUE]
        else:
            inner = value
            value = _words_of(inner)
            kind = kind or inner.get("type") or inner.get("label")
            places = [inner.get(key) for key in _SPAN_KEYS] + [[inner.get("start"), inner.get("end")]]
            span = span or next((found for place in places if (found := read_span(place))), None)
    if isinstance(kind, dict):
        kind = kind.get(VALUE)
    text = as_text(value, name)
    if span is None and isinstance(start, (int, str)) and re.fullmatch(r"\d{1,9}", str(start)) and text:
        span = Span(int(start), int(start) + len(text))
    return text, as_text(kind, f"{name}类型"), span


def _words_of(item: Mapping[str, Any]) -> Any:
    return next(
        (item[key] for key in ("name", "text", "word", "entity", "value", "mention", "label") if key in item),
        None,
    )


@functools.lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).lower()

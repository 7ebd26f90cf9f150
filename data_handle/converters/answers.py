"""Facts in a model's answer: JSON with or without a fence and prose around it, by predicate, or in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from data_handle.converters.fields import find_field, get_field, is_fact, read_fact
from data_handle.converters.labelled import Fact
from data_handle.converters.notations import read_tuples, read_words
from data_handle.converters.python_values import parse_python
from data_handle.converters.source import parse_json

NO_TRIPLETS = "答案不是三元组（文字答案的分类样本不必转换，直接并入训练文件）"
_FENCE = "```"
_ASKS = re.compile("三元组|抽取|提取|SPO|triple|relation extraction", re.IGNORECASE)
_NOTHING = re.compile(
    r"[^，,。:：]{0,12}?(?:没有|无|不存在|未(?:发现|找到|抽取到)|不(?:含|包含))(?:任何|可|可以|能|需要|符合要求|被?抽取|提取|的)*"
    r"(?:三元组|(?:实体)?关系(?:三元组)?|内容)[^，,]{0,8}"
)
_NOTHING_WHERE_ASKED = {"没有", "空", "无结果", "空列表", "没有结果", "不存在"}


class Types(NamedTuple):
    """The types of a predicate's subject and object."""

    subject: str
    object: str


def read_answer(
    text: str, types: Mapping[str, Types] | None = None, question: str | None = None
) -> list[Fact]:
    """Read the facts of an answer.

    Args:
        text: a JSON list of facts, one fact, an object that wraps a list of them or lists them by predicate;
            alone, in a fence or with prose around it; or (head,relation,tail) in brackets.
        types: of predicates, for answers by predicate.
        question: what it answers; with it, the notations in words are tried too, see `notations`.

    Raises:
        ValueError: in Chinese, if it is none of these.
    """
    body = text.strip()
    if not body:
        raise ValueError("答案是空的")
    is_asked = question is not None and _ASKS.search(question) is not None
    if _says_nothing(body.rstrip("。.!！"), is_asked):
        return []
    if facts := _read_fences(body, types):
        return facts
    for candidate in _candidates(body):
        value = _parse(candidate.text)
        if isinstance(value, (list, dict)):
            facts = read_value(value, types)
            if facts and candidate.is_cut:
                raise ValueError("答案里的 JSON 不完整")
            if facts or candidate.is_apart:  # `main(String[] args) {}` doesn't say that there is nothing
                return facts
    facts = _read_objects(body) or (read_tuples(body) if question is None else read_words(body, is_asked))
    if facts:
        return facts
    raise ValueError(NO_TRIPLETS)


def _says_nothing(body: str, is_asked: bool) -> bool:
    return (
        body in ("NAN", "nan", "None", "无", "null")
        or (is_asked and body in _NOTHING_WHERE_ASKED)
        or _NOTHING.fullmatch(body) is not None
    )


def _parse(text: str) -> Any:
    """Return the value of JSON, or of a list or dict as Python prints it; None if it is neither."""
    for parse in (parse_json, parse_python):
        try:
            return parse(text)
        except ValueError:
            continue
    return None


def _read_fences(body: str, types: Mapping[str, Types] | None) -> list[Fact]:
    """Read several fences with JSON; nothing if there is but one, or one with something else."""
    if body.count(_FENCE) < 4:
        return []
    values = [_parse(part.strip().removeprefix("json")) for part in body.split(_FENCE)[1::2]]
    if not all(isinstance(value, (list, dict)) for value in values):
        return []
    return [fact for value in values for fact in read_value(value, types)]


def _read_objects(body: str) -> list[Fact]:
    """Read a JSON object a line; nothing if there is a line that is none."""
    rows = [row.strip().rstrip(",，") for row in body.split("\n") if row.strip()]
    if not rows or not all(row.startswith("{") and row.endswith("}") for row in rows):
        return []
    values = [_parse(row) for row in rows]
    return read_value(values) if all(map(is_fact, values)) else []


def read_value(value: Any, types: Mapping[str, Types] | None = None) -> list[Fact]:
    """Read the facts of an answer that is JSON; the arguments and the error are those of `read_answer`."""
    if isinstance(value, list):
        if any(not isinstance(item, (dict, list)) for item in value):
            raise ValueError(NO_TRIPLETS)
        ends = ("subject", "object")
        if value and not any(
            isinstance(item, list) or any(find_field(item, end) for end in ends) for item in value
        ):
            raise ValueError(NO_TRIPLETS)  # entities or events
        return [read_fact(item) for item in value]
    if is_fact(value):
        return [read_fact(value)]
    if not isinstance(value, dict):
        raise ValueError(NO_TRIPLETS)
    if (key := find_field(value, "facts")) is not None and isinstance(value[key], list):
        return [read_fact(item) for item in value[key]]
    if value and all(isinstance(attributes, dict) for attributes in value.values()):
        return _by_subject(value)
    return _by_predicate(value, types or {})


def _by_subject(value: Mapping[str, Mapping[str, Any]]) -> list[Fact]:
    """Read {subject: {predicate: object, or a list of them}}."""
    facts = []
    for subject, attributes in value.items():
        for predicate, found in attributes.items():
            for object_ in found if isinstance(found, list) else [found]:
                if not isinstance(object_, (str, int, float)):
                    raise ValueError(NO_TRIPLETS)
                facts.append(Fact(predicate, subject, str(object_)))
    return facts


def _by_predicate(value: Mapping[str, Any], types: Mapping[str, Types]) -> list[Fact]:
    """Read {predicate: [{subject, object}]}; the ends may be called head and tail, or be a list."""
    facts = []
    for predicate, pairs in value.items():
        if not isinstance(pairs, list) or not all(isinstance(pair, (dict, list)) for pair in pairs):
            raise ValueError(NO_TRIPLETS)
        for pair in pairs:
            if isinstance(pair, list):
                if len(pair) != 2:
                    raise ValueError(NO_TRIPLETS)
                pair = {"subject": pair[0], "object": pair[1]}
            subject, object_ = get_field(pair, "subject"), get_field(pair, "object")
            if subject is None or object_ is None:
                raise ValueError("答案里的三元组缺少主语或宾语")
            fact = read_fact({**pair, "predicate": predicate})
            known = types.get(predicate, Types("", ""))
            facts.append(
                fact._replace(
                    subject_type=fact.subject_type or known.subject,
                    object_type=fact.object_type or known.object,
                )
            )
    return facts


class _Candidate(NamedTuple):
    """What may be the JSON of an answer.

    `is_apart` from prose; `is_cut`: what stands around it looks as if it were part of a longer list.
    """

    text: str
    is_apart: bool
    is_cut: bool = False


def _candidates(body: str) -> list[_Candidate]:
    """Return what may be the JSON of an answer, likeliest first."""
    fenced = [part.strip() for part in body.split(_FENCE)[1::2]]
    apart = [body, *(part[4:] if part[:4].lower() == "json" else part for part in fenced)]
    found = [_Candidate(part, True) for part in apart]
    for opening, closing in ("[]", "{}"):
        start, end = body.find(opening), body.rfind(closing)
        if 0 <= start < end:
            is_cut = body[:start].rstrip().endswith("[") or "{" in body[end:]
            found.append(_Candidate(body[start : end + 1], False, is_cut))
    return found

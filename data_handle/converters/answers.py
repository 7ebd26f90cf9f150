"""Facts in a model's answer: JSON with or without a fence and prose around it, by predicate, or "(a,b,c)"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from data_handle.converters.fields import find_field, get_field, is_fact, read_fact
from data_handle.converters.labelled import Fact
from data_handle.converters.source import parse_json

NO_TRIPLETS = "答案不是三元组（文字答案的分类样本不必转换，直接并入训练文件）"
_FENCE = "```"
_TUPLE = re.compile(r"[(（]([^()（）,，]+)[,，]([^()（）,，]+)[,，]([^()（）,，]+)[)）]")
_BETWEEN_TUPLES = re.compile(r"[\s,，、;；\[\]。]*")


class Types(NamedTuple):
    """The types of a predicate's subject and object."""

    subject: str
    object: str


def read_answer(text: str, types: Mapping[str, Types] | None = None) -> list[Fact]:
    """Read the facts of an answer.

    Args:
        text: a JSON list of facts, one fact, an object that wraps a list of them or lists them by predicate;
            alone, in a fence or with prose around it; or (head,relation,tail) in brackets.
        types: of predicates, for answers by predicate.

    Raises:
        ValueError: in Chinese, if it is none of these.
    """
    body = text.strip()
    if body in ("", "NAN", "nan", "None", "无", "null"):
        if body:
            return []
        raise ValueError("答案是空的")
    for candidate, is_apart in _candidates(body):
        try:
            value = parse_json(candidate)
        except ValueError:
            continue
        if isinstance(value, (list, dict)):
            facts = read_value(value, types)
            if facts or is_apart:  # the brackets of `main(String[] args) {}` don't say that there is nothing
                return facts
    if facts := _read_tuples(body):
        return facts
    raise ValueError(NO_TRIPLETS)


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
    return _by_predicate(value, types or {})


def _by_predicate(value: Mapping[str, Any], types: Mapping[str, Types]) -> list[Fact]:
    """Read {predicate: [{subject, object}]}; the ends may be called head and tail too."""
    facts = []
    for predicate, pairs in value.items():
        if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
            raise ValueError(NO_TRIPLETS)
        for pair in pairs:
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


def _candidates(body: str) -> list[tuple[str, bool]]:
    """Return what may be the JSON of an answer, likeliest first, and whether it stands apart from prose."""
    fenced = [part.strip() for part in body.split(_FENCE)[1::2]]
    apart = [body, *(part[4:] if part[:4].lower() == "json" else part for part in fenced)]
    found = [(part, True) for part in apart]
    for opening, closing in ("[]", "{}"):
        start, end = body.find(opening), body.rfind(closing)
        if 0 <= start < end:
            found.append((body[start : end + 1], False))
    return found


def _read_tuples(body: str) -> list[Fact]:
    """Read "(head,relation,tail)" one after another; nothing if there is other text between them."""
    if _BETWEEN_TUPLES.sub("", _TUPLE.sub("", body)):
        return []
    return [Fact(match[2].strip(), match[1].strip(), match[3].strip()) for match in _TUPLE.finditer(body)]

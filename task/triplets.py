"""The notation of triplets: five fields in the README's order, a fenced JSON list as the model's answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from utils.common_utils import is_encodable


class Triplet(NamedTuple):
    """One fact of a sentence; the order of the fields is that of the data files and of every output."""

    predicate: str
    object_type: str
    subject_type: str
    object: str
    subject: str


class Combination(NamedTuple):
    """A predicate with the types of its subject and object."""

    predicate: str
    subject_type: str
    object_type: str


KEYS = Triplet._fields
_TRIPLET_START = re.compile(r"\s*(?:```|\[\s*[{\]])")
_FENCE_START, _FENCE_END = "```json\n", "\n```"


def format_target(triplets: Iterable[Triplet]) -> str:
    """Return the answer that stands for `triplets` in training data: a fenced JSON list on one line."""
    answer = json.dumps([triplet._asdict() for triplet in triplets], ensure_ascii=False)
    return f"{_FENCE_START}{answer}{_FENCE_END}"


def parse_target(text: str) -> list[Triplet]:
    """Read an answer strictly, with or without its fence.

    Raises:
        ValueError: it is not a JSON list of objects with exactly the five fields, each once, all strings of
            whole characters (JSON can write half of a surrogate pair, which no file can hold).
    """
    body = text.strip()
    if body.startswith("```"):
        body = body.removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        items = json.loads(body, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("JSON 嵌套过深") from error
    if not isinstance(items, list):
        raise ValueError("不是 JSON 列表")
    triplets = []
    for item in items:
        if not isinstance(item, dict) or set(item) != set(KEYS):
            raise ValueError(f"三元组应当恰好有这些字段：{'、'.join(KEYS)}")
        if not all(isinstance(value, str) for value in item.values()):
            raise ValueError("三元组的字段应当都是字符串")
        if not all(map(is_encodable, item.values())):
            raise ValueError("三元组的字段含有不成对的代理字符（\\ud800–\\udfff）")
        triplets.append(Triplet(**item))
    return triplets


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("三元组里有字段写了不止一次")
    return result


def is_value(text: str) -> bool:
    """Tell whether a text can be a subject or an object: it holds a letter, a digit or an ideograph."""
    return any(map(str.isalnum, text))


def combination_of(triplet: Triplet) -> Combination:
    """Return the predicate of a triplet with its types."""
    return Combination(triplet.predicate, triplet.subject_type, triplet.object_type)


def combinations_in(targets: Iterable[str]) -> frozenset[Combination]:
    """Collect the combinations of training answers.

    Classification answers have none, nor have broken ones (the data linter reports those).
    """
    return frozenset(combination_of(triplet) for target in targets for triplet in _read_target(target))


def _read_target(target: str) -> list[Triplet]:
    try:
        return parse_target(target) if is_triplet_target(target) else []
    except ValueError:
        return []


def is_triplet_target(text: str) -> bool:
    """Tell an answer in triplet notation from a classification answer, without judging its content."""
    return _TRIPLET_START.match(text) is not None

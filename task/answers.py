"""Answers of labelled data as people write them: what is meant beyond doubt is read, the rest is named.

Training, the linter and evaluation read answers here; what a model writes is read in extraction/parsing.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from task.schema import name_problem
from task.triplets import KEYS, Triplet, format_target, is_triplet_target
from utils.common_utils import is_encodable

# Ways of writing that are rewritten: kind, and what a report calls it.
CHANGES = {
    "prose": "前后的说明文字",
    "fence": "没有代码围栏，或围栏的写法不同",
    "wrapped": "列表外面包着对象",
    "object": "单个对象，没有列表",
    "extra": "三元组里多余的字段",
    "notation": "字段的顺序或 JSON 的排版不同",
}
NO_JSON = "答案不是合法的 JSON"
MISSING_TYPE = "三元组没有类型"
EMPTY_TYPE = re.compile("字段 (subject|object)_type 是空的")  # in a problem
_TYPES = {"subject_type", "object_type"}
_LIST_NAMES = {
    *("triplets", "triples", "spo_list", "spos", "relations", "relation_list", "results", "result", "data"),
    *("output", "answer", "三元组", "三元组列表", "关系", "结果"),
}
_OTHER_NAMES = ({"head", "tail"}, {"relation", "head"}, {"source", "target"}, {"from", "to"}, {"s", "p", "o"})
# The fence may be of backticks or tildes and name any language; it may lack its end.
_FENCE = re.compile(r"(?P<mark>`{3,}|~{3,})[ \t]*[\w+-]*[ \t]*\r?\n?(?P<body>.*?)(?:(?P=mark)|\Z)", re.DOTALL)
_VALUE_START = re.compile(r"[\[{]")
_JSON_ANSWER = re.compile(r"\s*(?:```json|(?:```\s*)?\[\s*\{)")
_BETWEEN = re.compile(r"[\s,，;；]*")
_ASKS_FOR_TRIPLETS = re.compile(r"三元组|SPO", re.IGNORECASE)
_PARTS = re.compile(r"_|\||｜|\t|->|→|—+|,|，|、|;|；")
_BRACKETS = " \t()（）<>《》[]【】{}“”\"'"


@dataclass(frozen=True)
class Answer:
    """An answer, read.

    Attributes:
        target: what to learn: the product's notation if it is of triplets, else the text as it is.
        triplets: None if it is of another kind, or can't be used.
        changes: keys of `CHANGES`: how it was written instead.
        problem: why it is neither triplets nor of another kind, in Chinese; then it teaches nothing.
        is_other: it is of another kind, though the prompt asks for triplets, or its brackets look like them.
    """

    target: str
    triplets: tuple[Triplet, ...] | None = None
    changes: tuple[str, ...] = ()
    problem: str | None = None
    is_other: bool = False


class _ProblemError(ValueError):
    """Triplets that can't be used; the message is in Chinese."""


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys was written twice."""

    repeated: str | None = None


def read_answer(target: str, head: str = "", sentence: str = "") -> Answer:
    """Read an answer.

    Args:
        target: the answer.
        head, sentence: of its context, see `split_context`; they tell facts written as words from answers to
            other questions.
    """
    try:
        found = _find_items(target)
    except _ProblemError as error:
        return Answer(target, problem=str(error))
    if found is None:
        if '"predicate"' in target and '"subject"' in target:
            return Answer(target, problem="认不出三元组的写法")
        asked = _ASKS_FOR_TRIPLETS.search(head) is not None
        if asked and _is_written_out(target, sentence):
            return Answer(target, problem="答案是用文字写的三元组，不是 JSON")
        return Answer(target, is_other=asked or is_triplet_target(target))
    items, changes = found
    try:
        triplets = tuple(_triplet(item) for item in items)
    except _ProblemError as error:
        return Answer(target, problem=str(error))
    if any(set(item) - set(KEYS) for item in items):
        changes.append("extra")
    rewritten = format_target(triplets)
    if rewritten != target and not changes:
        changes.append("notation")
    return Answer(rewritten, triplets, tuple(changes))


def _find_items(target: str) -> tuple[list[_Object], list[str]] | None:
    """Find the objects of an answer, and how it was written; None if it is of another kind.

    Raises:
        _ProblemError: it is broken JSON, or there is more than one list.
    """
    fence = _FENCE.search(target)
    body = fence["body"] if fence else target
    values = _parse_body(body)
    if values is None:
        if _JSON_ANSWER.match(target) or (_VALUE_START.search(body) and '"predicate"' in body):
            raise _ProblemError(NO_JSON)
        return None
    content, around = values
    if fence:
        around += target[: fence.start()] + target[fence.end() :]
    has_prose = bool(around.strip())
    changes = ["prose"] if has_prose else []
    if fence is None or not (fence[0].startswith("```json\n") and fence[0].endswith("\n```")):
        changes.append("fence")
    only = content[0] if len(content) == 1 else None
    if isinstance(only, list):
        items = only
        if not items and (fence or not has_prose):
            _refuse_more(around)
            return [], changes
    elif (inner := _unwrap(only)) is not None:
        items = inner
        changes.append("wrapped")
        if not items:
            _refuse_more(around)
            return [], changes
    else:
        items = content
        changes.append("object")
    if any(_is_like_triplet(item) for item in items):
        _refuse_more(around)
        if not all(isinstance(item, dict) for item in items):
            raise _ProblemError("三元组的列表里有不是对象的项")
        return items, changes
    lists = [part for part in items if isinstance(part, list)]
    if any(_is_like_triplet(item) for part in lists for item in part):
        raise _ProblemError("答案里有不止一个 JSON 列表")
    return None


def _refuse_more(around: str) -> None:
    """Refuse an answer that may hold further triplets in the words around those that were read."""
    if '"predicate"' in around or _FENCE.search(around):
        raise _ProblemError("答案里有不止一段 JSON")


def _parse_body(body: str) -> tuple[list[Any], str] | None:
    """Return the JSON values of a text, and the other words around them; None if there are none.

    A value is looked for from the first bracket on; what is broken there is broken.
    """
    start = _VALUE_START.search(body)
    if start is None:
        return None
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    values, position = [], start.start()
    before = body[:position]
    try:
        while position < len(body) and body[position] in "[{":
            value, position = decoder.raw_decode(body, position)
            values.append(value)
            between = _BETWEEN.match(body, position)
            position = between.end() if between else position
    except (ValueError, RecursionError):
        return None
    return values, before + body[position:]


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    result = _Object(pairs)
    if len(result) < len(pairs):
        (result.repeated, _), *_ = Counter(name for name, _ in pairs).most_common(1)
    return result


def _unwrap(value: Any) -> list[Any] | None:
    """Return the list in an object that holds nothing else than a list of triplets."""
    if not isinstance(value, dict) or len(value) != 1:
        return None
    ((name, inner),) = value.items()
    if not isinstance(inner, list):
        return None
    is_list = any(_is_like_triplet(item) for item in inner) or (not inner and name.lower() in _LIST_NAMES)
    return inner if is_list else None


def _is_like_triplet(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    names = set(item)
    return (
        "predicate" in names or len(names & set(KEYS)) >= 2 or any(other <= names for other in _OTHER_NAMES)
    )


def _triplet(item: _Object) -> Triplet:
    """Return the triplet that an object states.

    Raises:
        _ProblemError: it doesn't state one.
    """
    if item.repeated is not None:
        raise _ProblemError(f"三元组里字段 {item.repeated} 写了不止一次")
    missing = [name for name in KEYS if name not in item]
    if missing and set(missing) <= _TYPES:
        raise _ProblemError(f"{MISSING_TYPE}（缺少字段 {'、'.join(missing)}）")
    if missing:
        others = "、".join(name for name in item if name not in KEYS)
        hint = f"（现有 {others[:60]}）" if others else ""
        raise _ProblemError(f"三元组缺少字段 {'、'.join(missing)}{hint}")
    for name in KEYS:
        if problem := _value_problem(name, item[name]):
            raise _ProblemError(f"三元组的字段 {name} {problem}")
    return Triplet(*(item[name] for name in KEYS))


def _value_problem(name: str, value: Any) -> str | None:
    if name not in ("subject", "object"):
        return name_problem(value)
    if not isinstance(value, str):
        return "应当是字符串"
    if not is_encodable(value):
        return "含有不成对的代理字符（\\ud800–\\udfff）"
    return None if value[:1].isalnum() or any(map(str.isalnum, value)) else "没有一个字"


def _is_written_out(target: str, sentence: str) -> bool:
    """Tell a text like 甲传_导演_张一 (one or several): three parts, the outer ones from the sentence."""
    if not sentence:
        return False
    lines = [line for line in re.split(r"[\n;；]", target) if line.strip(_BRACKETS)]
    return bool(lines) and all(_is_fact(line, sentence) for line in lines)


def _is_fact(line: str, sentence: str) -> bool:
    parts = [part.strip(_BRACKETS) for part in _PARTS.split(line.strip(_BRACKETS))]
    return len(parts) == 3 and all(parts) and sum(part in sentence for part in parts) >= 2

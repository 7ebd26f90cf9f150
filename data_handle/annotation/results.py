"""What an extraction wrote: its JSONL read back, with scores and spans where they were asked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from data_handle.converters.fields import read_span
from data_handle.converters.labelled import Problem, Span, excerpt
from data_handle.converters.source import open_source
from task.triplets import KEYS, Triplet
from utils.common_utils import UserError, is_encodable


class Found(NamedTuple):
    """A triplet that was found, its score between 0 and 1, and where its values stand; None if not told."""

    triplet: Triplet
    score: float | None
    object_span: Span | None
    subject_span: Span | None


class Result(NamedTuple):
    """A line of results.

    Args:
        where: file and line.
        fields: the whole line.
        text: its sentence.
        found: what was extracted.
        failed: there is no answer, for a reason that the line tells.
    """

    where: str
    fields: dict[str, Any]
    text: str
    found: list[Found]
    failed: bool


def read_results(path: Path) -> tuple[list[Result], list[Problem]]:
    """Read the output of `inference_triplet.py --input … --output …`.

    Returns:
        The lines with a sentence, and those that can't be used.

    Raises:
        UserError: the file can't be read, or no line of it is a result.
    """
    source = open_source(path)
    results: list[Result] = []
    problems = list(source.problems)
    for where, value in source.records:
        try:
            results.append(_read(where, value))
        except ValueError as error:
            problems.append(Problem(where, str(error), excerpt(str(value))))
    if not results:
        raise UserError(
            f"{path} 里没有抽取结果：应当是 inference_triplet.py --input … --output … 写的 JSONL。"
        )
    return results, problems


def score_of(found: Iterable[Found]) -> float | None:
    """Return the lowest score of some triplets; None if none has one."""
    return min((each.score for each in found if each.score is not None), default=None)


def _read(where: str, value: Any) -> Result:
    if not isinstance(value, dict) or not isinstance(value.get("text"), str) or not value["text"].strip():
        raise ValueError("没有句子（text）")
    if not is_encodable(value["text"]):
        raise ValueError("句子里有读不出的字符")
    items = value.get("triplets")
    if not isinstance(items, list):
        if "error" not in value:
            raise ValueError("没有 triplets 列表，不是抽取结果")
        items = []
    return Result(where, value, value["text"], [_read_found(item) for item in items], "error" in value)


def _read_found(item: Any) -> Found:
    if not isinstance(item, dict) or not all(isinstance(item.get(key), str) and item[key] for key in KEYS):
        raise ValueError(f"三元组应当有这些字段：{'、'.join(KEYS)}")
    score = item.get("score")
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        score = None
    spans = (read_span(item.get(name)) for name in ("object_span", "subject_span"))
    return Found(Triplet(**{key: item[key] for key in KEYS}), score, *spans)

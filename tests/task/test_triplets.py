"""Answers: triplets to text and back, and what kind an answer is."""

from __future__ import annotations

import json

import pytest

from task import triplets
from task.triplets import Triplet, format_target, parse_target

FACT = Triplet("导演", "人物", "影视作品", "张玲", "娘家的故事第二部")


def test_targets_round_trip() -> None:
    text = format_target([FACT, FACT._replace(object='引"号\\')])
    assert text.startswith(
        '```json\n[{"predicate": "导演", "object_type": "人物", "subject_type": "影视作品", '
    )
    assert parse_target(text) == [FACT, FACT._replace(object='引"号\\')]
    assert format_target([]) == "```json\n[]\n```"
    assert parse_target("[]") == parse_target("```\n[]\n```") == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "正面", "{}", "[1]", '[{"predicate": "导演"}]', "```json\n[", "[" * 100_000),
        json.dumps([{**FACT._asdict(), "object": 3}]),
        json.dumps([{**FACT._asdict(), "extra": "x"}]),
    ],
)
def test_bad_targets_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json has messages of its own)
        parse_target(text)


def test_kinds_of_answers() -> None:
    assert triplets.is_triplet_target(format_target([]))
    assert triplets.is_triplet_target('[{"predicate"')
    assert triplets.is_triplet_target('[\n  {"predicate"')
    assert triplets.is_triplet_target(" [ ]")
    assert not triplets.is_triplet_target("正面")
    assert not triplets.is_triplet_target('["人物"]')

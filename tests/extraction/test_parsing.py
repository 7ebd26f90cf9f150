"""Reading of answers: what counts as valid, what is repaired, and that nothing is invented."""

from __future__ import annotations

import random

import pytest

from extraction.parsing import AnswerStatus, parse_answer
from task.triplets import Triplet, format_target

DIRECTOR = Triplet("导演", "人物", "影视作品", "张玲", "娘家的故事")
ACTOR = Triplet("主演", "人物", "影视作品", "林在培", "娘家的故事")
QUOTED = Triplet("歌手", "人物", "歌曲", '他说"好"', "a}b, {c\\d\n")
D = (
    '{"predicate": "导演", "object_type": "人物", "subject_type": "影视作品", '
    '"object": "张玲", "subject": "娘家的故事"}'
)
A = D.replace("导演", "主演").replace("张玲", "林在培")


def triplets_and_status(raw: str) -> tuple[list[Triplet], str]:
    triplets, status = parse_answer(raw)
    return triplets, status.value


@pytest.mark.parametrize(
    ("raw", "triplets"),
    [
        (format_target([DIRECTOR, ACTOR]), [DIRECTOR, ACTOR]),
        (f"[{D}]", [DIRECTOR]),
        (f"```\n[{D}]\n```", [DIRECTOR]),
        (f"句子的[SPO]如下：\n```json\n[{D},{A}]\n```\n完毕。", [DIRECTOR, ACTOR]),
        (f"[{D}] 和 [{A}]", [DIRECTOR, ACTOR]),
        ("```json\n[]\n```", []),
        (" [ ] ", []),
        ("没有三元组：[]。", []),
        (f"[{D}, {A}, {D}]", [DIRECTOR, ACTOR]),
        (format_target([QUOTED]), [QUOTED]),
        (f"[{D}]".replace("张玲", "张\\u73b2"), [DIRECTOR]),
        (f"[{D}, {A}]".replace("林在培", "，。"), [DIRECTOR]),  # punctuation is no value
        (f"[{A}]".replace("娘家的故事", "《》 "), []),
    ],
)
def test_valid_answers(raw: str, triplets: list[Triplet]) -> None:
    assert triplets_and_status(raw) == (triplets, "ok")


@pytest.mark.parametrize(
    ("raw", "triplets"),
    [
        (f"[{D}, {A}", [DIRECTOR, ACTOR]),  # no bracket
        (f"[{D}, {A}\n```", [DIRECTOR, ACTOR]),
        (f"[{D} {A}]", [DIRECTOR, ACTOR]),  # no comma
        (f"[{D},]", [DIRECTOR]),
        (f"[{D}]".replace('"', "'"), [DIRECTOR]),
        (f"[{D}]".replace(", ", "，"), [DIRECTOR]),
        (f"[{D[:-2]}}}]", [DIRECTOR]),  # the last quote is missing, the list is closed
        (D, [DIRECTOR]),
        (f'[{D[:-1]}, "置信度": 1}}]', [DIRECTOR]),
        (f'[{D}, {{"predicate": "主演"}}]', [DIRECTOR]),  # incomplete object
        (f"[{D}, {A}]".replace('"林在培"', '""'), [DIRECTOR]),  # empty value
        (f"[{D}, {A}]".replace('"林在培"', "1993"), [DIRECTOR]),  # not a string
        (f"[{D}, {A}]".replace("林在培", "\\ud800"), [DIRECTOR]),  # can't be written out
        (f"[{D}] 和 [{A}", [DIRECTOR, ACTOR]),
        (f'[{D}, "多余", 3]', [DIRECTOR]),
    ],
)
def test_repaired_answers(raw: str, triplets: list[Triplet]) -> None:
    assert triplets_and_status(raw) == (triplets, "repaired")


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "没有。",
        "[",
        "```json\n[\n```",
        '["水果"]',
        "[1, 2]",
        "[{}]",
        '{"predicate": "导演"}',
        f"[{D[:-2]}",  # cut in the last value
        f"[{D[:-2]}}}",  # … which may have gone on behind this brace
        "[" * 3000,
        "{" * 5000,
        "{" * 5000 + "}]",
        '[{"predicate": ' * 3000,
    ],
)
def test_answers_without_a_result(raw: str) -> None:
    assert triplets_and_status(raw) == ([], "invalid")


@pytest.mark.parametrize("ending", ["", "}", "}b", "{}", "{a}", '{"a": 1}', '"', '", ', '", "'])
def test_a_cut_value_is_never_completed(ending: str) -> None:
    cut = f"[{D}, {A[:-2]}{ending}"
    assert triplets_and_status(cut) == ([DIRECTOR], "repaired")


def test_fields_of_two_facts_are_not_mixed() -> None:
    run_together = f'[{A}, {D[:-1]}, "predicate": "编剧", "object": "李四"}}]'
    assert triplets_and_status(run_together) == ([ACTOR], "repaired")
    assert triplets_and_status(f"[{D[:-1]}, {A[1:]}]") == ([], "invalid")


def test_json_is_no_value() -> None:
    missing_quote = f"[{D}, {A}]".replace('"林在培"', '"林在培')
    assert DIRECTOR in parse_answer(missing_quote).triplets
    assert all(
        '"subject"' not in value for triplet in parse_answer(missing_quote).triplets for value in triplet
    )


def test_every_prefix_of_an_answer_gives_a_prefix_of_its_triplets() -> None:
    triplets = [DIRECTOR, QUOTED, ACTOR]
    answer = format_target(triplets)
    ends = [len(format_target(triplets[:count])) - len("]\n```") for count in (1, 2, 3)]
    for length in range(len(answer)):
        found, status = parse_answer(answer[:length])
        complete = sum(end <= length for end in ends)
        assert found == triplets[:complete], answer[:length]
        assert status is (
            AnswerStatus.INVALID
            if not complete
            else AnswerStatus.OK
            if "]" in answer[ends[-1] : length]
            else AnswerStatus.REPAIRED
        )


def test_damaged_answers_give_complete_triplets_only() -> None:
    generator = random.Random(0)
    answer = format_target([DIRECTOR, QUOTED, ACTOR])
    for _ in range(500):
        start = generator.randrange(len(answer))
        damaged = answer[:start] + generator.choice(["", '"', "}", "]", ",", "\\"]) + answer[start + 1 :]
        for triplet in parse_answer(damaged).triplets:
            assert all(isinstance(value, str) and value.strip() for value in triplet)

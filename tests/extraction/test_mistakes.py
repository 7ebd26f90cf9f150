"""Tests for extraction.evaluation.mistakes."""

from __future__ import annotations

import pytest

from extraction.evaluation.mistakes import Mistake, Scored, bootstrap, count_mistakes, grouped, kind_of, total
from task.triplets import Triplet


def fact(subject: str, predicate: str, value: str, types: tuple[str, str] = ("人物", "作品")) -> Triplet:
    return Triplet(predicate, types[1], types[0], value, subject)


WROTE = fact("余华", "作者", "活着")


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        (fact("余华", "作者", "活着", ("人物", "书")), Mistake.TYPE),
        (fact("活着", "作者", "余华"), Mistake.DIRECTION),
        (fact("余华", "主编", "活着"), Mistake.PREDICATE),
        (fact("余华", "作者", "活着全集"), Mistake.BOUNDARY),
        (fact("余华先生", "作者", "活"), Mistake.BOUNDARY),
        (fact("余华", "作者", "兄弟"), Mistake.VALUE),
        (fact("莫言", "作者", "活着"), Mistake.VALUE),
        (fact("莫言", "作者", "蛙"), Mistake.ALONE),
        (fact("莫言", "国籍", "活着"), Mistake.ALONE),
    ],
)
def test_kinds(other: Triplet, kind: Mistake) -> None:
    assert kind_of(WROTE, [other]) is kind
    assert kind_of(WROTE, [fact("莫言", "国籍", "中国"), other]) is kind


def test_nothing_on_the_other_side() -> None:
    assert kind_of(WROTE, []) is Mistake.ALONE


def test_the_nearest_counts() -> None:
    assert kind_of(WROTE, [fact("余华", "作者", "兄弟"), fact("余华", "作者", "活")]) is Mistake.BOUNDARY


def sentence(expected: list[Triplet], predicted: list[Triplet]) -> Scored:
    return Scored("余华写了活着。", frozenset(expected), frozenset(predicted))


def test_both_sides_are_counted() -> None:
    invented = fact("莫言", "国籍", "中国")
    missed, wrong = count_mistakes(
        [sentence([WROTE], [fact("余华", "作者", "活"), invented]), sentence([WROTE], [WROTE])]
    )
    assert missed == {Mistake.BOUNDARY: 1}
    assert wrong == {Mistake.BOUNDARY: 1, Mistake.ALONE: 1}


def test_groups_add_up() -> None:
    sentences = [sentence([WROTE], [WROTE]), sentence([WROTE], []), sentence([], [])]
    groups = grouped(sentences, lambda item: str(len(item.expected)))
    assert list(groups) == ["0", "1"]
    assert groups["1"].to_dict() == total(sentences).to_dict()


def test_interval() -> None:
    right, wrong = sentence([WROTE], [WROTE]), sentence([WROTE], [])
    assert bootstrap([right] * 5) == (1.0, 1.0)
    low, high = bootstrap([right, wrong] * 50)
    assert low < total([right, wrong] * 50).f1 < high
    few_low, few_high = bootstrap([right, wrong] * 5)
    assert few_high - few_low > high - low
    with pytest.raises(ValueError, match="no sentences"):
        bootstrap([])

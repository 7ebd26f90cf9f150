"""Scores against what is right: bins, and the level below which a triplet is rather wrong."""

from __future__ import annotations

import random

import pytest

from extraction.evaluation.reliability import Reliability


def test_reliability() -> None:
    reliability = Reliability()
    for score, correct in ((0.95, True), (0.95, True), (0.85, False), (1.0, True), (0.0, False)):
        reliability.add(score, correct)
    result = reliability.to_dict()
    assert [row["triplets"] for row in result["bins"]] == [1, 0, 0, 0, 0, 0, 0, 0, 1, 3]
    assert result["bins"][9]["precision"] == 1.0
    assert (result["bins"][8]["triplets_above"], result["bins"][8]["precision_above"]) == (4, 0.75)
    assert result["expected_calibration_error"] == pytest.approx((0.05 + 0.05 + 0.0 + 0.85) / 5)
    assert "0.9–1.0" in reliability.to_table()
    assert result["half_right_score"] == 0.5
    assert "置信度低于 0.5 的三元组多半是错的" in reliability.to_table()


def counted(*groups: tuple[float, int, int]) -> Reliability:
    """Count, for each score, how many right and how many wrong triplets have it."""
    reliability = Reliability()
    for score, right, wrong in groups:
        for index in range(right + wrong):
            reliability.add(score, index < right)
    return reliability


@pytest.mark.parametrize(
    ("groups", "level"),
    [
        ([], None),  # no scores: nothing can be said
        ([(0.95, 50, 1), (0.45, 20, 5), (0.25, 4, 20), (0.05, 0, 30)], 0.4),
        ([(0.95, 50, 1), (0.35, 30, 5), (0.25, 5, 8), (0.15, 30, 10)], 0.1),  # one bad bin among good ones
        ([(0.95, 50, 1), (0.35, 5, 8), (0.25, 6, 5), (0.15, 0, 30)], 0.5),  # more wrong below 0.5
        ([(0.95, 0, 40), (0.55, 0, 40)], 1.0),  # all wrong: nothing is to be believed
        ([(0.95, 1, 0)], 0.5),  # a handful of triplets: the score is taken at its word
        ([(0.85, 0, 1)], 0.5),
        ([(0.15, 1, 0)], 0.5),
        ([(0.15, 40, 0)], 0.1),
    ],
)
def test_half_right_score(groups: list[tuple[float, int, int]], level: float | None) -> None:
    assert counted(*groups).half_right_score() == level


def test_half_right_score_of_scores_that_are_true() -> None:
    generator = random.Random(0)
    reliability = Reliability()
    for _ in range(2000):
        score = generator.random()
        reliability.add(score, generator.random() < score)
    level = reliability.half_right_score()
    assert level is not None and abs(level - 0.5) <= 0.1

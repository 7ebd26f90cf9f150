"""Scores read as what they turned out to mean, and the level that is worth keeping."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from extraction.calibration import FEWEST_TRIPLETS, Calibration, best_level, fit
from extraction.evaluation.reliability import Reliability

AS_IT_IS = Calibration(1.0, 1.0, 0.0)


def draw(seed: int, count: int = 600) -> tuple[list[float], list[bool]]:
    """Return scores that claim too much, and what is right: log odds mean 0.4 of what they say, less 0.6."""
    generator = random.Random(seed)
    scores = [generator.random() ** 0.4 for _ in range(count)]
    odds = [0.4 * math.log(score / (1 - score)) - 0.6 for score in scores]
    return scores, [generator.random() < 1 / (1 + math.exp(-each)) for each in odds]


def error_of(scores: list[float], correct: list[bool], calibration: Calibration) -> float:
    reliability = Reliability()
    for score, right in zip(scores, correct, strict=True):
        reliability.add(calibration.apply(score), right)
    return reliability.calibration_error


def test_scores_that_claim_too_much_are_put_right() -> None:
    calibration = fit(*draw(0))
    assert calibration is not None
    fresh = draw(1, 3000)
    assert error_of(*fresh, AS_IT_IS) > 0.15
    assert error_of(*fresh, calibration) < 0.05


def test_the_order_of_scores_is_kept() -> None:
    calibration = fit(*draw(0))
    assert calibration is not None
    values = [calibration.apply(place / 1000) for place in range(1001)]
    assert all(low <= high for low, high in itertools.pairwise(values))
    assert 0 < values[0] < values[-1] < 1


@pytest.mark.parametrize("score", [0.0, 1e-30, 0.3, 0.99999999, 1.0])
def test_scores_that_are_true_stay(score: float) -> None:
    assert AS_IT_IS.apply(score) == pytest.approx(score, abs=1.01e-4)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_no_certainty(right: bool) -> None:
    calibration = fit([0.5, 0.9] * 20, [right] * 40)
    assert calibration is not None and 0.001 < calibration.apply(0.9) < 0.999


def test_nothing_is_learnt_of_few_or_of_scores_that_mean_nothing() -> None:
    assert fit([0.9] * (FEWEST_TRIPLETS - 1), [True] * (FEWEST_TRIPLETS - 1)) is None
    upside_down = [(place / 400, place < 200) for place in range(400)]
    assert fit([score for score, _ in upside_down], [right for _, right in upside_down]) is None


def test_what_a_file_says() -> None:
    assert Calibration.read(Calibration(0.3, 1, -0.5)._asdict()) == Calibration(0.3, 1, -0.5)
    good = AS_IT_IS._asdict()
    bad = [None, [1, 1, 0], {"right": 1}, good | {"more": 1}, good | {"right": -1}, good | {"wrong": "1"}]
    bad += [good | {"shift": math.nan}, good | {"shift": math.inf}, good | {"right": 0, "wrong": 0}]
    bad += [good | {"right": True}, good | {"right": 1e9}]
    assert [Calibration.read(value) for value in bad] == [None] * len(bad)


def test_the_best_level_keeps_what_raises_f1() -> None:
    generator = random.Random(0)
    likely = [generator.random() for _ in range(200)]

    def f1(level: float) -> float:
        kept = [value for value in likely if value >= level]
        return 2 * sum(kept) / (len(kept) + 150)

    level = best_level(likely, 150)
    assert f1(level) == pytest.approx(max(f1(place / 500) for place in range(501)), abs=1e-9)
    assert level == pytest.approx(f1(level) / 2, abs=0.01)
    assert best_level([], 0) == 0.0

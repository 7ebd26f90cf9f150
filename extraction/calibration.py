"""From a model's probability of a triplet to how often such triplets are right, learnt on held-out lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

FEWEST_TRIPLETS = 30  # of fewer, nothing is concluded
_LIMIT = 1e-4  # scores count as no nearer to 0 and 1; results are rounded as far, too
_PRIOR = 1.0  # how firmly scores are believed as they are, before any triplet is seen
_LARGEST = 100.0  # of a number in a file


class Calibration(NamedTuple):
    """The log odds that a triplet is right, from its score s: `right * ln s - wrong * ln(1 - s) + shift`.

    With 1, 1 and 0, scores stay as they are. It rises with the score, so that their order is kept.

    Source: Kull, Silva Filho and Flach, Beta calibration, AISTATS 2017.

    Args:
        right, wrong: not below 0, nor both 0.
    """

    right: float
    wrong: float
    shift: float

    def apply(self, score: float) -> float:
        """Return how likely a triplet is right that the model gives a probability; both from 0 to 1."""
        near, far = _features(score)
        return 1 / (1 + math.exp(-(self.right * near + self.wrong * far + self.shift)))

    @classmethod
    def read(cls, value: Any) -> Calibration | None:
        """Return what an adapter's file says; None for what is none."""
        if not (isinstance(value, dict) and value.keys() == set(cls._fields)):
            return None
        if not all(type(number) in (int, float) and abs(number) <= _LARGEST for number in value.values()):
            return None
        found = cls(**value)
        return found if min(found.right, found.wrong) >= 0 and found.right + found.wrong > 0 else None


def fit(scores: Sequence[float], correct: Sequence[bool]) -> Calibration | None:
    """Find the calibration under which what was right or wrong is likeliest.

    Args:
        scores: of predicted triplets, 0 to 1.
        correct: whether each is right.

    Returns:
        None where there are too few triplets.
    """
    if len(scores) < FEWEST_TRIPLETS:
        return None
    features = np.array([(*_features(score), 1.0) for score in scores])  # [N, 3]
    outcomes = np.array(correct, dtype=float)
    used = [0, 1, 2]
    weights = _regress(features, outcomes, used)
    if weights[0] < 0 or weights[1] < 0:
        used.remove(0 if weights[0] < weights[1] else 1)
        weights = _regress(features, outcomes, used)
    right, wrong, shift = (float(np.clip(weight, -_LARGEST, _LARGEST)) for weight in weights)
    if max(right, wrong) <= 0:  # worse scores were right more often: they say nothing
        return None
    return Calibration(max(right, 0.0), max(wrong, 0.0), shift)


def best_level(probabilities: Sequence[float], expected: int) -> float:
    """Return the level below which to leave triplets out, so that F1 is the highest to be expected.

    That is half of this F1 (Lipton, Elkan and Naryanaswamy, Optimal Thresholding to Maximize F1, 2014): a
    triplet is worth keeping if it is right more often than that.

    Args:
        probabilities: that each predicted triplet is right.
        expected: how many triplets there are to be found.
    """
    likely = np.sort(np.array([0.0, *probabilities]))[::-1]
    found = 2 * likely.cumsum() / (np.arange(1, len(likely) + 1) + max(expected, 1))
    return float(found.max()) / 2


def _features(score: float) -> tuple[float, float]:
    score = min(max(score, _LIMIT), 1 - _LIMIT)
    return math.log(score), -math.log1p(-score)


def _regress(features: np.ndarray, outcomes: np.ndarray, used: Sequence[int]) -> np.ndarray:
    """Return the weights [3] of a logistic regression on the columns in use, by Newton's steps."""
    x = features[:, list(used)]
    prior = np.array([1.0, 1.0, 0.0])[list(used)]
    line = prior.copy()
    for _ in range(200):
        p = 1 / (1 + np.exp(-np.clip(x @ line, -50, 50)))
        gradient = x.T @ (p - outcomes) + _PRIOR * (line - prior)
        step = np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + _PRIOR * np.eye(len(line)), gradient)
        line -= step / max(1.0, float(np.abs(step).max()))  # far from the end, a whole one may overshoot
        if np.abs(step).max() < 1e-9:
            break
    weights = np.zeros(3)
    weights[list(used)] = line
    return weights

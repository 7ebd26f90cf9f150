"""Learning rate by step, groups of batches."""

from __future__ import annotations

import pytest

from training import schedule


def test_learning_rate_by_hand() -> None:
    rates = [schedule.learning_rate_at(step, 10, 1.0, 0.2) for step in range(11)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0.0)
    assert schedule.learning_rate_at(0, 1, 1.0, 0.0) == 1.0


def test_groups() -> None:
    assert list(schedule.in_groups(range(5), 2)) == [[0, 1], [2, 3], [4]]

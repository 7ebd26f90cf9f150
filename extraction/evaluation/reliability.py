"""How far scores can be believed: triplets by score, and how many of each bin are correct."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BINS = 10
PRIOR_TRIPLETS = 2  # in each bin, right as often as their score says, before any are counted


@dataclass
class _Bin:
    triplets: int = 0
    correct: int = 0
    score_sum: float = 0.0

    @property
    def mean_score(self) -> float:
        return self.score_sum / self.triplets if self.triplets else 0.0

    @property
    def precision(self) -> float:
        return self.correct / self.triplets if self.triplets else 0.0


@dataclass
class Reliability:
    """Scores of predicted triplets against whether they are correct, in bins of equal width."""

    bins: list[_Bin] = field(default_factory=lambda: [_Bin() for _ in range(BINS)])

    def add(self, score: float, correct: bool) -> None:
        """Count a triplet."""
        place = self.bins[min(int(score * BINS), BINS - 1)]
        place.triplets += 1
        place.correct += correct
        place.score_sum += score

    @property
    def triplets(self) -> int:
        """Number of triplets counted."""
        return sum(place.triplets for place in self.bins)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: the mean distance of a bin's precision from its mean score."""
        distances = (place.triplets * abs(place.precision - place.mean_score) for place in self.bins)
        return sum(distances) / self.triplets if self.triplets else 0.0

    def half_right_score(self) -> float | None:
        """Return the score below which a triplet is rather wrong than right; None if none was counted.

        It is the lowest level (a bin's end) with at least as many right triplets as wrong ones between it and
        every level above it: where the balance of right and wrong, summed from 1 downwards, is highest. A few
        triplets can't shift it far: each bin starts with `PRIOR_TRIPLETS` that are right as often as their
        score claims, so that a level of which nothing is known is judged by the score itself.
        """
        if not self.triplets:
            return None
        level, highest, balance = 1.0, 0.0, 0.0
        for index in reversed(range(BINS)):
            place, claimed = self.bins[index], (index + 0.5) / BINS
            balance += 2 * place.correct - place.triplets + PRIOR_TRIPLETS * (2 * claimed - 1)
            if balance >= highest:
                level, highest = index / BINS, balance
        return level

    def to_dict(self) -> dict[str, Any]:
        """Return the table for JSON, with the precision that each bin's lower end gives as a threshold."""
        rows = []
        for index, place in enumerate(self.bins):
            above = self.bins[index:]
            count = sum(item.triplets for item in above)
            rows.append(
                {
                    "from": index / BINS,
                    "to": (index + 1) / BINS,
                    "triplets": place.triplets,
                    "mean_score": place.mean_score,
                    "precision": place.precision,
                    "triplets_above": count,
                    "precision_above": sum(item.correct for item in above) / count if count else 0.0,
                }
            )
        return {
            "expected_calibration_error": self.calibration_error,
            "half_right_score": self.half_right_score(),
            "bins": rows,
        }

    def to_table(self) -> str:
        """Return the bins that hold triplets as Chinese lines."""
        lines = ["置信度    三元组  平均置信度  正确率"]
        for index, place in enumerate(self.bins):
            if place.triplets:
                label = f"{index / BINS:.1f}–{(index + 1) / BINS:.1f}"
                lines.append(
                    f"{label}   {place.triplets:>6}  {place.mean_score:>10.3f}  {place.precision:>6.3f}"
                )
        lines.append(f"置信度与正确率平均相差 {self.calibration_error:.3f}")
        if (level := self.half_right_score()) is not None:
            lines.append(
                f"置信度低于 {level:g} 的三元组多半是错的（抽取时 --min_score {level:g} 可以略去它们）"
            )
        return "\n".join(lines)

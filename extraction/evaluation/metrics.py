"""Scores of extracted triplets against reference ones: strict and relaxed P/R/F1, rates, list of errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from extraction.parsing import AnswerStatus
from task.triplets import Triplet
from utils.table import format_table


@dataclass
class Counts:
    """How many triplets were predicted, how many expected, and how many of them are the same."""

    correct: int = 0
    predicted: int = 0
    expected: int = 0

    def add(self, predicted: set[Any], expected: set[Any]) -> None:
        """Count one sentence."""
        self.correct += len(predicted & expected)
        self.predicted += len(predicted)
        self.expected += len(expected)

    @property
    def precision(self) -> float:
        """Share of the predicted triplets that are correct; 0 if none was predicted."""
        return _ratio(self.correct, self.predicted)

    @property
    def recall(self) -> float:
        """Share of the expected triplets that were found; 0 if none was expected."""
        return _ratio(self.correct, self.expected)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if nothing is correct."""
        return _ratio(2 * self.correct, self.predicted + self.expected)

    def to_dict(self) -> dict[str, float | int]:
        """Return ratios and counts for JSON."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "correct": self.correct,
            "predicted": self.predicted,
            "expected": self.expected,
        }


@dataclass
class Match:
    """Counts under both criteria."""

    strict: Counts = field(default_factory=Counts)  # all five fields equal
    relaxed: Counts = field(default_factory=Counts)  # subject, predicate and object equal

    def add(self, predicted: Iterable[Triplet], expected: Iterable[Triplet]) -> None:
        """Count one sentence."""
        predicted, expected = set(predicted), set(expected)
        self.strict.add(predicted, expected)
        self.relaxed.add(set(map(_relax, predicted)), set(map(_relax, expected)))

    def to_dict(self) -> dict[str, dict[str, float | int]]:
        """Return both criteria for JSON."""
        return {"strict": self.strict.to_dict(), "relaxed": self.relaxed.to_dict()}


@dataclass(frozen=True)
class SentenceErrors:
    """What went wrong in one sentence, by the strict criterion."""

    sentence: str
    status: AnswerStatus
    missing: list[Triplet]  # expected, but not predicted
    spurious: list[Triplet]  # predicted, but not expected

    def to_dict(self) -> dict[str, Any]:
        """Return the errors for JSON, triplets in the README's key order."""
        return {
            "sentence": self.sentence,
            "status": self.status.value,
            "missing": [triplet._asdict() for triplet in self.missing],
            "spurious": [triplet._asdict() for triplet in self.spurious],
        }


@dataclass
class Report:
    """Scores over a list of sentences; triplets count once per sentence."""

    sentences: int = 0
    exact: int = 0  # sentences whose triplets are exactly the expected ones; two empty sets are equal too
    invalid: int = 0
    repaired: int = 0
    values: int = 0  # subjects and objects predicted …
    values_outside: int = 0  # … and those of them that their sentence does not contain
    overall: Match = field(default_factory=Match)
    per_predicate: dict[str, Match] = field(default_factory=lambda: defaultdict(Match))
    errors: list[SentenceErrors] = field(default_factory=list)

    def add(
        self, sentence: str, predicted: Sequence[Triplet], expected: Sequence[Triplet], status: AnswerStatus
    ) -> None:
        """Count one sentence."""
        predicted, expected = list(dict.fromkeys(predicted)), list(dict.fromkeys(expected))
        self.sentences += 1
        self.invalid += status is AnswerStatus.INVALID
        self.repaired += status is AnswerStatus.REPAIRED
        self.overall.add(predicted, expected)
        for predicate in {triplet.predicate for triplet in (*predicted, *expected)}:
            self.per_predicate[predicate].add(
                _with_predicate(predicted, predicate), _with_predicate(expected, predicate)
            )
        values = [value for triplet in predicted for value in (triplet.subject, triplet.object)]
        self.values += len(values)
        self.values_outside += sum(value not in sentence for value in values)
        missing = [triplet for triplet in expected if triplet not in predicted]
        spurious = [triplet for triplet in predicted if triplet not in expected]
        if missing or spurious or status is AnswerStatus.INVALID:
            self.errors.append(SentenceErrors(sentence, status, missing, spurious))
        else:
            self.exact += 1

    def to_dict(self, max_errors: int | None = None) -> dict[str, Any]:
        """Return the report for JSON, with all errors or the first `max_errors`; `error_count` counts all."""
        return {
            "sentences": self.sentences,
            **self.overall.to_dict(),
            "exact_match": _ratio(self.exact, self.sentences),
            "invalid_rate": _ratio(self.invalid, self.sentences),
            "repaired_rate": _ratio(self.repaired, self.sentences),
            "outside_rate": _ratio(self.values_outside, self.values),
            "per_predicate": {name: match.to_dict() for name, match in self._by_frequency()},
            "error_count": len(self.errors),
            "errors": [errors.to_dict() for errors in self.errors[:max_errors]],
        }

    def _by_frequency(self) -> list[tuple[str, Match]]:
        return sorted(self.per_predicate.items(), key=lambda item: (-item[1].strict.expected, item[0]))

    def to_table(self) -> str:
        """Return the scores as a Chinese table, most frequent predicate first, and a line of rates."""
        header = ["关系", "标准", "预测", "正确", "精确率", "召回率", "F1", "宽松正确", "宽松F1"]
        rows = [[name, *_cells(match)] for name, match in self._by_frequency()]
        rows.append(["总计", *_cells(self.overall)])
        rates = {
            "完全一致": (self.exact, self.sentences),
            "无效回答": (self.invalid, self.sentences),
            "修复回答": (self.repaired, self.sentences),
            "不在原文的值": (self.values_outside, self.values),
        }
        summary = "，".join(
            f"{name} {part}/{whole}（{_ratio(part, whole):.1%}）" for name, (part, whole) in rates.items()
        )
        return f"{format_table(header, rows)}\n句子 {self.sentences}，{summary}"


def score(
    predictions: Sequence[Sequence[Triplet]],
    references: Sequence[Sequence[Triplet]],
    sentences: Sequence[str],
    statuses: Sequence[AnswerStatus] | None = None,
) -> Report:
    """Score the triplets of sentences.

    Args:
        predictions: for each sentence, the extracted triplets.
        references: for each sentence, the expected ones.
        sentences: the texts that the values should come from.
        statuses: how each answer was read; all `OK` if not given.

    Raises:
        ValueError: the lengths differ.
    """
    report = Report()
    statuses = [AnswerStatus.OK] * len(sentences) if statuses is None else statuses
    for sentence, predicted, expected, status in zip(
        sentences, predictions, references, statuses, strict=True
    ):
        report.add(sentence, predicted, expected, status)
    return report


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _relax(triplet: Triplet) -> Hashable:
    return triplet.subject, triplet.predicate, triplet.object


def _with_predicate(triplets: Iterable[Triplet], predicate: str) -> list[Triplet]:
    return [triplet for triplet in triplets if triplet.predicate == predicate]


def _cells(match: Match) -> list[str]:
    strict, relaxed = match.strict, match.relaxed
    counts = [str(count) for count in (strict.expected, strict.predicted, strict.correct)]
    ratios = [f"{ratio:.3f}" for ratio in (strict.precision, strict.recall, strict.f1)]
    return [*counts, *ratios, str(relaxed.correct), f"{relaxed.f1:.3f}"]

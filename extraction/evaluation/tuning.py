"""What answers to held-out lines teach about scores: how they are to be read, and which are worth keeping.

All that is reported of it is cross-validated: each line's triplets are judged by what the other lines taught.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from extraction.calibration import Calibration, best_level, fit
from extraction.evaluation.evaluate import Evaluation, score
from extraction.result import Extraction
from task.answers import read_answer
from task.prompt import split_context
from task.schema import Schema
from task.triplets import Triplet

FOLDS = 5


@dataclass(frozen=True)
class Tuning:
    """What was learnt.

    Args:
        calibration: of the scores.
        min_score: the calibrated score below which triplets are left out; 0 where that did not raise F1.
        error_before, error: expected calibration error without and with it.
        f1_before, f1: strict F1 with all triplets, and with those that are kept.
    """

    calibration: Calibration
    min_score: float
    error_before: float
    error: float
    f1_before: float
    f1: float

    def of_adapter(self) -> dict[str, Any]:
        """Return the fields of `AdapterMeta`."""
        return {"calibration": self.calibration._asdict(), "min_score": self.min_score}

    def describe(self) -> str:
        """Return what it brings as a Chinese sentence."""
        lines = f"置信度已校准：与正确率平均相差 {self.error_before:.3f} → {self.error:.3f}"
        if self.min_score > 0:
            lines += f"；低于 {self.min_score:.2f} 的三元组不要：F1 {self.f1_before:.4f} → {self.f1:.4f}"
        return lines + "（验证集，交叉检验；抽取时 --min_score 0 保留全部）"


def tune(
    contexts: Sequence[str],
    targets: Sequence[str],
    extractions: Mapping[int, Extraction],
    tokenizer: Any,
    schema: Schema | None = None,
) -> tuple[Evaluation, Tuning | None]:
    """Learn from answers that have scores, and evaluate them as they are when that is followed.

    Args:
        contexts, targets, extractions, tokenizer, schema: see `evaluate.score`; nothing was left out of the
            answers.

    Returns:
        The evaluation and what was learnt; the plain evaluation and None where there are too few triplets.
    """
    plain = score(contexts, targets, extractions, tokenizer, schema)
    references = [_references(*line) for line in zip(contexts, targets, strict=True)]
    whole = _learn(extractions, references, range(len(contexts)))
    calibrated: dict[int, Extraction] = {}
    kept: dict[int, Extraction] = {}
    for fold in range(FOLDS):
        others = [index for index in range(len(contexts)) if index % FOLDS != fold]
        learnt = _learn(extractions, references, others)
        if whole is None or learnt is None:
            return plain, None
        for index in range(fold, len(contexts), FOLDS):
            calibrated[index] = follow(extractions[index], learnt[0], 0.0)
            kept[index] = follow(extractions[index], *learnt)
    assert whole is not None
    evaluation, cut = (score(contexts, targets, answers, tokenizer, schema) for answers in (calibrated, kept))
    f1_before, f1 = (each.report.overall.strict.f1 for each in (evaluation, cut))
    error_before, error = (each.reliability.calibration_error for each in (plain, evaluation))
    calibration, level = whole
    if f1 <= f1_before:
        return evaluation, Tuning(calibration, 0.0, error_before, error, f1_before, f1_before)
    return cut, Tuning(calibration, round(level, 4), error_before, error, f1_before, f1)


def follow(extraction: Extraction, calibration: Calibration, min_score: float) -> Extraction:
    """Return an extraction with calibrated scores, without those triplets that are below a level."""
    if len(extraction.scores) != len(extraction.triplets):  # written freely
        return extraction
    scores = list(map(calibration.apply, extraction.scores))
    kept = [place for place, value in enumerate(scores) if value >= min_score]
    return replace(
        extraction,
        triplets=[extraction.triplets[place] for place in kept],
        scores=[scores[place] for place in kept],
        spans=[extraction.spans[place] for place in kept],
    )


def _references(context: str, target: str) -> list[Triplet]:
    head, sentence, _ = split_context(context)
    return list(dict.fromkeys(read_answer(target, head, sentence).triplets or ()))


def _learn(
    extractions: Mapping[int, Extraction], references: Sequence[list[Triplet]], lines: Sequence[int]
) -> tuple[Calibration, float] | None:
    """Return the calibration that lines teach, and the level to keep triplets from; None if too few do."""
    found = [
        (value, triplet in references[index])
        for index in lines
        for triplet, value in zip(extractions[index].triplets, extractions[index].scores, strict=False)
    ]
    calibration = fit([value for value, _ in found], [right for _, right in found])
    if calibration is None:
        return None
    expected = sum(len(references[index]) for index in lines)
    return calibration, best_level([calibration.apply(value) for value, _ in found], expected)

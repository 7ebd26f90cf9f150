"""What held-out lines teach: calibrated scores, and a level that is kept only where it helps."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from extraction.calibration import Calibration
from extraction.evaluation.evaluate import score
from extraction.evaluation.tuning import follow, tune
from extraction.result import Extraction, Span
from task.prompt import build_prompt
from task.triplets import Triplet, format_target

TOKENIZER: Any = SimpleNamespace()  # values are compared as they were typed
WORDS = "甲乙丙丁戊己庚辛"


def line(seed: int, wrong_below: float) -> tuple[str, str, Extraction]:
    """Return a context, its target and an answer: below a score most triplets are wrong, above few are."""
    generator = random.Random(seed)
    sentence = WORDS + str(seed)
    triplets, scores, right = [], [], []
    for word in WORDS[:4]:
        triplet = Triplet("作者", "人物", "图书作品", word, sentence)
        value = generator.random()
        triplets.append(triplet)
        scores.append(value)
        if generator.random() < (0.1 if value < wrong_below else 0.5 + 0.5 * value):
            right.append(triplet)
    spans = [(Span(0, 1), Span(0, len(sentence)))] * len(triplets)
    return build_prompt(sentence), format_target(right), Extraction(triplets, scores=scores, spans=spans)


def lines(count: int, wrong_below: float) -> tuple[list[str], list[str], dict[int, Extraction]]:
    contexts, targets, answers = zip(*(line(seed, wrong_below) for seed in range(count)), strict=True)
    return list(contexts), list(targets), dict(enumerate(answers))


def test_poor_triplets_are_left_out_and_scores_put_right() -> None:
    given = lines(100, wrong_below=0.6)
    plain = score(*given, TOKENIZER)
    evaluation, tuning = tune(*given, TOKENIZER)
    assert tuning is not None and 0 < tuning.min_score < 1
    assert evaluation.report.overall.strict.f1 == tuning.f1 > tuning.f1_before + 0.05
    assert tuning.f1_before == plain.report.overall.strict.f1
    assert tuning.error_before == plain.reliability.calibration_error
    assert evaluation.reliability.triplets < plain.reliability.triplets
    words = tuning.describe()
    assert "置信度已校准" in words and "的三元组不要：F1" in words
    saved = tuning.of_adapter()
    assert Calibration.read(saved["calibration"]) == tuning.calibration


def test_each_line_is_judged_by_the_others() -> None:
    contexts, targets, answers = lines(50, wrong_below=0.5)
    before, tuning = tune(contexts, targets, answers, TOKENIZER)
    targets[7] = format_target([])  # of the same fold as 2: what it teaches does not reach that line
    after, other = tune(contexts, targets, answers, TOKENIZER)
    assert tuning != other
    assert [row["triplets"] for row in after.results[2::5]] == [
        row["triplets"] for row in before.results[2::5]
    ]
    assert after.results[3]["triplets"] != before.results[3]["triplets"]


def test_the_level_is_given_up_where_it_does_not_help() -> None:
    contexts, targets, answers = lines(40, wrong_below=0.0)
    evaluation, tuning = tune(contexts, targets, answers, TOKENIZER)
    assert tuning is not None and tuning.min_score == 0.0 and tuning.f1 == tuning.f1_before
    assert evaluation.reliability.triplets == 160
    assert "不要" not in tuning.describe()


def test_too_few_triplets_teach_nothing() -> None:
    given = lines(8, wrong_below=0.5)
    evaluation, tuning = tune(*given, TOKENIZER)
    assert tuning is None
    assert evaluation.to_dict() == score(*given, TOKENIZER).to_dict()


@pytest.mark.parametrize("answer", [Extraction(error="x"), Extraction([Triplet("a", "b", "c", "d", "e")])])
def test_answers_without_scores_stay(answer: Extraction) -> None:
    assert follow(answer, Calibration(1, 1, 0), 0.9) == answer

"""Scores against figures counted by hand."""

from __future__ import annotations

import json

import pytest

from extraction.evaluation.metrics import Counts, score
from extraction.parsing import AnswerStatus
from task.triplets import Triplet


def triplet(predicate: str, subject: str, obj: str, subject_type: str = "影视作品") -> Triplet:
    return Triplet(predicate, "人物", subject_type, obj, subject)


SENTENCES = ["甲由乙导演，丙主演。", "丁由戊导演。", "今天下雨。", "己由庚导演。"]
REFERENCES = [
    [triplet("导演", "甲", "乙"), triplet("主演", "甲", "丙")],
    [triplet("导演", "丁", "戊")],
    [],
    [triplet("导演", "己", "庚")],
]
PREDICTIONS = [
    # right; right twice; right but for a type; wrong, its object is in no sentence
    [
        triplet("导演", "甲", "乙"),
        triplet("导演", "甲", "乙"),
        triplet("主演", "甲", "丙", "图书作品"),
        triplet("主演", "甲", "无名"),
    ],
    [triplet("导演", "丁", "戊")],
    [],
    [],
]
STATUSES = [AnswerStatus.REPAIRED, AnswerStatus.OK, AnswerStatus.OK, AnswerStatus.INVALID]


def test_counts_and_ratios() -> None:
    report = score(PREDICTIONS, REFERENCES, SENTENCES, STATUSES)
    assert report.overall.strict == Counts(correct=2, predicted=4, expected=4)
    assert report.overall.relaxed == Counts(correct=3, predicted=4, expected=4)
    result = report.to_dict()
    assert result["strict"] == {
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "correct": 2,
        "predicted": 4,
        "expected": 4,
    }
    assert result["relaxed"]["f1"] == 0.75
    assert result["sentences"] == 4
    assert result["exact_match"] == 0.5  # the second, and the third with nothing to extract
    assert result["invalid_rate"] == 0.25
    assert result["repaired_rate"] == 0.25
    assert result["outside_rate"] == 1 / 8  # 无名, of four subjects and four objects


def test_precision_and_recall_are_not_confused() -> None:
    report = score([[triplet("导演", "甲", "乙")]], [REFERENCES[0]], SENTENCES[:1])
    strict = report.overall.strict
    assert (strict.precision, strict.recall, strict.f1) == (1.0, 0.5, pytest.approx(2 / 3))


def test_per_predicate() -> None:
    predicates = score(PREDICTIONS, REFERENCES, SENTENCES, STATUSES).to_dict()["per_predicate"]
    assert list(predicates) == ["导演", "主演"]  # most frequent first
    directors, actors = predicates["导演"], predicates["主演"]
    assert [directors["strict"][key] for key in ("correct", "predicted", "expected")] == [2, 2, 3]
    assert directors["strict"]["f1"] == 0.8
    assert [actors["strict"][key] for key in ("correct", "predicted", "expected")] == [0, 2, 1]
    assert actors["strict"]["f1"] == 0.0
    assert [actors["relaxed"][key] for key in ("correct", "predicted", "expected")] == [1, 2, 1]
    assert actors["relaxed"]["f1"] == pytest.approx(2 / 3)


def test_errors_are_listed() -> None:
    report = score(PREDICTIONS, REFERENCES, SENTENCES, STATUSES)
    assert [error.sentence for error in report.errors] == [SENTENCES[0], SENTENCES[3]]
    first = report.errors[0].to_dict()
    assert first["status"] == "repaired"
    assert first["missing"] == [triplet("主演", "甲", "丙")._asdict()]
    assert [item["object"] for item in first["spurious"]] == ["丙", "无名"]
    assert list(first["missing"][0]) == ["predicate", "object_type", "subject_type", "object", "subject"]
    shortened = report.to_dict(max_errors=1)
    assert len(shortened["errors"]) == 1
    assert shortened["error_count"] == 2


def test_empty_answers() -> None:
    both_empty = score([[]], [[]], ["今天下雨。"])
    assert both_empty.overall.strict == Counts(0, 0, 0)
    assert both_empty.to_dict()["exact_match"] == 1.0
    assert both_empty.to_dict()["strict"]["f1"] == 0.0
    assert both_empty.errors == []

    invented = score([[triplet("导演", "甲", "乙")]], [[]], ["今天下雨。"])
    assert invented.overall.strict == Counts(0, 1, 0)
    assert invented.to_dict()["outside_rate"] == 1.0

    unread = score([[]], [[]], ["今天下雨。"], [AnswerStatus.INVALID])
    assert unread.to_dict()["exact_match"] == 0.0  # no answer is not the answer "nothing"
    assert len(unread.errors) == 1


def test_nothing_to_score() -> None:
    result = score([], [], []).to_dict()
    assert (result["sentences"], result["exact_match"], result["outside_rate"]) == (0, 0.0, 0.0)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="zip"):
        score([[]], [[], []], ["甲", "乙"])


def test_report_is_json() -> None:
    report = score(PREDICTIONS, REFERENCES, SENTENCES, STATUSES)
    assert json.loads(json.dumps(report.to_dict()))["error_count"] == 2


def test_table_is_aligned_in_chinese() -> None:
    from prompt_toolkit.utils import get_cwidth

    table = score(PREDICTIONS, REFERENCES, SENTENCES, STATUSES).to_table()
    header, directors, actors, total, rates = table.splitlines()
    assert header.split()[:4] == ["关系", "标准", "预测", "正确"]
    assert directors.split() == ["导演", "3", "2", "2", "1.000", "0.667", "0.800", "2", "0.800"]
    assert actors.split() == ["主演", "1", "2", "0", "0.000", "0.000", "0.000", "1", "0.667"]
    assert total.split() == ["总计", "4", "4", "2", "0.500", "0.500", "0.500", "3", "0.750"]
    assert len({get_cwidth(line) for line in (header, directors, actors, total)}) == 1
    assert "完全一致 2/4（50.0%）" in rates
    assert "不在原文的值 1/8（12.5%）" in rates

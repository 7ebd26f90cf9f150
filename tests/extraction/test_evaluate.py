"""Scoring of answers against references as people write them: clear ones are read, others counted apart."""

from __future__ import annotations

import json
from typing import Any

from extraction.evaluation.evaluate import score
from extraction.parsing import AnswerStatus
from extraction.result import Extraction, Span
from task.prompt import build_prompt
from task.triplets import Triplet, format_target

FACT = Triplet("作者", "人物", "图书作品", "何青", "北方的路")
CONTEXT = build_prompt("《北方的路》的作者是何青。")
BARE = json.dumps([FACT._asdict()], ensure_ascii=False)


def extraction_of(*triplets: Triplet) -> Extraction:
    spans: list[tuple[Span | None, Span | None]] = [(None, None)] * len(triplets)
    return Extraction(list(triplets), format_target(triplets), AnswerStatus.OK, spans=spans)


def score_references(*targets: str) -> dict[str, Any]:
    """Score an extractor that finds the fact, or nothing where that is right (spans need no tokenizer)."""
    answers = [extraction_of() if target == "[]" else extraction_of(FACT) for target in targets]
    return score([CONTEXT] * len(targets), targets, dict(enumerate(answers)), None).to_dict()


def test_references_in_any_clear_notation_are_scored() -> None:
    targets = [BARE, f"结果：\n```JSON\n{BARE}\n```", f'{{"triplets": {BARE}}}', "[]"]
    result = score_references(*targets)
    assert (result["triplets"]["sentences"], result["triplets"]["strict"]["f1"]) == (4, 1.0)
    assert result["unusable_count"] == result["classification"]["sentences"] == 0


def test_references_in_doubt_are_counted_and_not_scored() -> None:
    untyped = '[{"subject": "北方的路", "predicate": "作者", "object": "何青"}]'
    targets = [
        untyped,
        "北方的路_作者_何青",
        BARE.replace('"何青"', '"何青", "object": "方圆"'),
        '[{"a": 1}]',
    ]
    result = score_references(*targets)
    assert result["triplets"]["sentences"] == 0
    assert [item["error"].partition("：")[2] for item in result["unusable"]] == [
        "三元组没有类型（缺少字段 object_type、subject_type）",
        "答案是用文字写的三元组，不是 JSON",
        "三元组里字段 object 写了不止一次",
        "不是三元组的列表",
    ]

"""The schema: what is collected from targets, what a file may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from task.schema import Combination, Schema
from task.triplets import Triplet, format_target
from utils.common_utils import UserError

DIRECTOR = Triplet("导演", "人物", "影视作品", "张玲", "娘家的故事")
AUTHOR = Triplet("作者", "人物", "图书作品", "余华", "活着")


def test_collects_the_combinations_of_triplet_targets() -> None:
    targets = [
        format_target([DIRECTOR, AUTHOR]),
        format_target([DIRECTOR]),
        "[]",
        '["水果"]',
        '[{"predicate": "x',
    ]
    schema = Schema.from_targets(targets)
    assert schema.combinations == {
        Combination("导演", "影视作品", "人物"),
        Combination("作者", "图书作品", "人物"),
    }
    assert DIRECTOR in schema
    assert DIRECTOR._replace(object="别人") in schema
    assert DIRECTOR._replace(subject_type="图书作品") not in schema


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    schema = Schema.from_targets([format_target([DIRECTOR, AUTHOR])])
    assert schema.to_dict()["combinations"][0] == {
        "predicate": "作者",
        "subject_type": "图书作品",
        "object_type": "人物",
    }
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema.to_dict()), encoding="utf-8")
    assert Schema.load(path) == schema
    path.write_text(json.dumps(schema.to_dict()), encoding="utf-8-sig")  # as Windows' Notepad does
    assert Schema.load(path) == schema
    path.write_text(json.dumps(schema.to_dict(), ensure_ascii=False), encoding="gbk")
    with pytest.raises(UserError, match="不是 UTF-8 编码"):
        Schema.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        '{"combinations": 3}',
        '{"combinations": ["导演"]}',
        '{"combinations": [{"predicate": "导演"}]}',
        '{"combinations": [{"predicate": "导演", "subject_type": "", "object_type": "人物"}]}',
        '{"combinations": [{"predicate": "导演", "subject_type": 3, "object_type": "人物"}]}',
        '{"combinations": [{"predicate": "x", "subject_type": "x", "object_type": "x", "more": "x"}]}',
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "schema.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"模式文件 .*schema.json 应为"):
        Schema.load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"读不了模式文件 .*none.json"):
        Schema.load(tmp_path / "none.json")

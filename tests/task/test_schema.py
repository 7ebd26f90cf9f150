"""The schema: what is collected from targets, what a file may hold."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from task.schema import MAX_COMBINATIONS, MAX_NAME_CHARACTERS, Schema, describe_counts
from task.triplets import Combination, Triplet, format_target
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


def declaration(**names: object) -> dict[str, object]:
    return {"predicate": "导演", "subject_type": "影视作品", "object_type": "人物"} | names


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "文件是空的"),
        ("[]", "里面没有 combinations 列表"),
        ("3", "里面没有 combinations 列表"),
        ({"combinations": 3}, "里面没有 combinations 列表"),
        ({"combinations": ["导演"]}, "第 1 项不是 JSON 对象"),
        ({"combinations": [declaration(), {"predicate": "导演"}]}, "第 2 项缺少字段 subject_type"),
        ({"combinations": [declaration(subject_type="")]}, "第 1 项的字段 subject_type 是空的"),
        ({"combinations": [declaration(subject_type=" \u3000")]}, "第 1 项的字段 subject_type 是空的"),
        ({"combinations": [declaration(subject_type=3)]}, "第 1 项的字段 subject_type 应当是字符串"),
        ({"combinations": [declaration(object_type={"@value": "人物"})]}, "object_type 应当是字符串"),
        ({"combinations": [declaration(more="x")]}, "第 1 项有多余的字段 more"),
        ({"combinations": [declaration(**{"x" * 5000: "x"})]}, f"第 1 项有多余的字段 {'x' * 60}"),
        ({"combinations": [declaration(predicate="\ud800")]}, "不成对的代理字符"),
        ({"combinations": [declaration(predicate="导" * 101)]}, "有 101 个字符，超过上限 100"),
        (declaration(object_type={}), "第 1 行的字段 object_type 应当是字符串"),
        ("x\n", "第 1 行不是合法的 JSON，第 1 个字符处出错"),
        ("[" * 100_000, "第 1 行 JSON 嵌套太深"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: object, problem: str) -> None:
    path = tmp_path / "schema.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"模式文件 .*schema.json 应为") as caught:
        Schema.load(path)
    assert problem in str(caught.value) and len(str(caught.value)) < 1000


def test_the_schema_file_of_duie(tmp_path: Path) -> None:
    """An object a line: object_type plain, with "@value", with further slots; other fields don't matter."""
    path = tmp_path / "duie.json"
    lines = [
        declaration(object_type={"@value": "人物"}),
        declaration(predicate="票房", object_type={"inArea": "地点", "@value": "Number"}, id=3),
        declaration(predicate="妻子", subject_type="人物"),
    ]
    expected = {
        Combination("导演", "影视作品", "人物"),
        Combination("票房", "影视作品", "Number"),
        Combination("妻子", "人物", "人物"),
    }
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\r\n\n" for line in lines), "utf-8")
    assert Schema.load(path).combinations == expected
    path.write_text(json.dumps(lines[0]), "utf-8")
    assert Schema.load(path).combinations == {Combination("导演", "影视作品", "人物")}


def test_names_and_combinations_have_limits(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"

    def load(count: int, length: int) -> Schema:
        items = [declaration(predicate=str(number).rjust(length, "关")) for number in range(count)]
        path.write_text(json.dumps({"combinations": items}), encoding="utf-8")
        return Schema.load(path)

    assert len(load(MAX_COMBINATIONS, MAX_NAME_CHARACTERS).combinations) == MAX_COMBINATIONS
    with pytest.raises(UserError, match="共有 5,001 种，超过上限 5,000"):
        load(MAX_COMBINATIONS + 1, 5)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"读不了模式文件 .*none.json"):
        Schema.load(tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"读不了模式文件 .*pipe：不是普通文件"):
        Schema.load(tmp_path / "pipe")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"huge.json.*超过了"):
        Schema.load(tmp_path / "huge.json")


def test_combinations_that_a_schema_lacks_are_counted() -> None:
    schema = Schema.from_targets([format_target([DIRECTOR])])
    other = DIRECTOR._replace(object_type="企业")
    unknown = schema.unknown([DIRECTOR, AUTHOR, other, other])
    assert unknown == {Combination("作者", "图书作品", "人物"): 1, Combination("导演", "影视作品", "企业"): 2}
    assert describe_counts(unknown) == "导演（影视作品 → 企业）2 个、作者（图书作品 → 人物）1 个"
    assert describe_counts(unknown, limit=1) == "导演（影视作品 → 企业）2 个等 2 种"

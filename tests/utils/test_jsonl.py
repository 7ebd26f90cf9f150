"""Objects of JSONL files in any encoding, and of files that are one JSON array."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils import jsonl
from utils.common_utils import UserError
from utils.jsonl import BadLine, iter_objects

OBJECTS = [{"句": "甲\n乙", "号": 1}, {"句": "丙"}]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_item_by_item(
    indent: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(OBJECTS, ensure_ascii=False, indent=indent), encoding="utf-8-sig")
    assert list(iter_objects(path)) == [(1, OBJECTS[0]), (2, OBJECTS[1])]
    assert capsys.readouterr().err == f"{path} 是一个 JSON 数组，逐项读取，下面说的第几行是指第几项。\n"


@pytest.mark.parametrize("encoding", ["gbk", "utf-16"])
def test_an_array_in_one_line_longer_than_a_line_may_be(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    items = [{"句": "甲乙丙丁" * 100, "号": number} for number in range(1_500)]
    path.write_text(json.dumps(items, ensure_ascii=False), encoding=encoding)
    assert list(iter_objects(path)) == list(enumerate(items, start=1))


def test_items_that_are_no_objects_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}, 3, [{}]]')
    assert list(iter_objects(path)) == [
        (1, {"a": 1}),
        BadLine(str(path), 2, "应当是 JSON 对象，却是数字"),
        BadLine(str(path), 3, "应当是 JSON 对象，却是列表"),
    ]


def test_what_only_begins_like_an_array_is_read_by_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('[{"a": 1}]\n{"b": 2}\n[\n')
    found = list(iter_objects(path))
    assert found[1] == (2, {"b": 2})
    assert [item.line_number for item in found if isinstance(item, BadLine)] == [1, 3]


def test_an_array_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_ARRAY_BYTES", 100)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(OBJECTS * 20))
    with pytest.raises(UserError, match=r"a\.json 是 JSON 数组，超过了 .* MB：请转成 JSONL"):
        list(iter_objects(path))


@pytest.mark.parametrize("encoding", ["gbk", "utf-16"])
def test_objects_in_other_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    text = "".join(json.dumps(item, ensure_ascii=False) + "\r\n" for item in OBJECTS)
    path.write_bytes(text.encode(encoding))
    assert list(iter_objects(path)) == [(1, OBJECTS[0]), (2, OBJECTS[1])]

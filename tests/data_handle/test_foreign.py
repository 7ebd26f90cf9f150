"""Files of other tools are named for what they are, with what turns them into training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_handle.data_loader import load_data
from data_handle.foreign import name_foreign_file, name_foreign_record, remedy_for
from data_handle.reader import read_jsonl
from tests.helpers.data_samples import CharacterTokenizer
from utils.common_utils import UserError

TEXT = "《四月》是方圆写的诗集。"
TYPED = {"predicate": "作者", "subject": "四月", "subject_type": "图书作品"}
RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "alpaca": ({"instruction": "抽取", "input": TEXT, "output": "[]"}, "Alpaca 格式"),
    "sharegpt": ({"conversations": [{"from": "human", "value": TEXT}]}, "ShareGPT 格式"),
    "messages": ({"messages": [{"role": "user", "content": TEXT}]}, "messages（role/content） 格式"),
    "duie": ({"text": TEXT, "spo_list": [{**TYPED, "object": {}, "object_type": {}}]}, "DuIE 2.0 格式"),
    "empty duie": ({"text": TEXT, "spo_list": []}, "DuIE 格式"),
    "untyped": ({"text": TEXT, "spo_list": [{"subject": "四月"}]}, "句子与三元组（text、spo_list） 格式"),
    "lists": ({"text": TEXT, "spo_list": [["四月", "作者", "方圆"]]}, "句子与三元组（text、spo_list） 格式"),
    "doccano": (
        {"text": TEXT, "entities": [], "relations": [], "Comments": []},
        "doccano（实体与关系） 格式",
    ),
    "old doccano": ({"text": TEXT, "label": [[0, 2, "书"]]}, "doccano（只有实体） 格式"),
    "label studio": ({"id": 1, "data": {"text": TEXT}, "annotations": []}, "Label Studio JSON 格式"),
    "iepile": ({"instruction": '{"schema": ["作者"], "input": "甲"}', "output": "{}"}, "IEPile / OneKE 格式"),
    "head and tail": (
        {"sentence": TEXT, "spo": [{"head": {}, "tail": {}}]},
        "句子与三元组（sentence、spo） 格式",
    ),
    "one fact": (
        {"text": TEXT, "head": "四月", "relation": "作者", "tail": "方圆"},
        "每条一个三元组的 JSON 格式",
    ),
    "json-min": ({"annotator": 1, "annotation_id": 1, "lead_time": 1}, "Label Studio 的 JSON-MIN 导出"),
    "schema": ({**TYPED, "object_type": {"@value": "人物"}}, "关系的 schema"),
    "sentences": ({"content": TEXT}, "没有答案的句子（字段 content）"),
}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("as_array", [False, True])
def test_records_of_other_tools(name: str, as_array: bool, tmp_path: Path) -> None:
    record, kind = RECORDS[name]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([record] if as_array else record, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_jsonl(path)
    message = str(error.value)
    limits = {"max_source_seq_len": 256, "max_target_seq_len": 128}
    with pytest.raises(UserError) as error:
        load_data(path, CharacterTokenizer(), **limits, cache_dir=tmp_path / "cache")
    assert str(error.value) == message
    assert f"{path} 没有一行可用：里面是 {kind}" in message
    is_labelled = name not in ("schema", "sentences")
    assert (f"请先转换：python -m data_handle.convert {path} -o train.jsonl" in message) == is_labelled
    assert ("--schema" in message) == (name == "schema")
    assert ("--input" in message) == (name == "sentences")


def test_our_own_records_and_unknown_ones_are_not_foreign() -> None:
    assert name_foreign_record({"context": TEXT, "text": TEXT}) is None
    assert name_foreign_record({}) is None
    assert "convert a.json -o" in remedy_for("DuIE 格式（字段 text、spo_list）", "a.json")


FILES = {
    "csv": ("text,subject\n甲,乙\n".encode(), "CSV 表格（第一行：text,subject）"),
    "csv in gbk": ("句子,主语\n甲,乙\n".encode("gbk"), "CSV 表格"),
    "tsv": ("text\tsubject\n甲\t乙\n".encode(), "TSV 表格"),
    "xlsx": (b"PK\x03\x04" + bytes(100), "xlsx"),
    "xls": (b"\xd0\xcf\x11\xe0" + bytes(100), "旧版 Office"),
    "gzip": (b"\x1f\x8b" + bytes(100), "gzip"),
    "parquet": (b"PAR1" + bytes(100), "Parquet"),
    "pdf": (b"%PDF-1.7\n", "PDF"),
    "html": (b"<html>\n<p>a, b</p>\n", "网页或 XML"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "pretty": (b'{\n  "context": "a",\n  "target": "b"\n}\n', "排成多行的 JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_lines_of_json(name: str, tmp_path: Path) -> None:
    content, said = FILES[name]
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(UserError, match="mine 没有一行可用：它是") as error:
        read_jsonl(path)
    assert said in str(error.value)


def test_lines_that_are_just_broken_are_not_called_foreign(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"context": "a", "target": }\n{"context": "a", "target": }\n')
    with pytest.raises(UserError, match="第 1 行不是合法的 JSON"):
        read_jsonl(path)
    assert name_foreign_file(tmp_path) is None and name_foreign_file(tmp_path / "none") is None


def test_a_file_is_said_once_to_be_in_another_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(RECORDS["alpaca"][0], ensure_ascii=False), encoding="gbk")
    with pytest.raises(UserError, match="Alpaca"):
        read_jsonl(path)
    assert capsys.readouterr().err == f"{path} 是 GBK 编码，读取时转成 UTF-8。\n"

"""Input files into records: every format, what is wrong with a line, and what is refused as a whole."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from extraction.records import (
    STANDARD,
    Record,
    count_records,
    input_name_problem,
    read_records,
    typed_problem,
)
from utils.common_utils import UserError


def test_bad_lines_of_a_jsonl_file_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(
        b'{"text": 3, "id": 1}\n{"id": 2}\n{"text": " "}\nnot json\n\n[1]\n{"text": "\xff"}\n{"text": "a"}\n'
    )
    records = list(read_records(source))
    assert [record.fields for record in records] == [
        {"text": 3, "id": 1},
        {"id": 2, "text": ""},
        {"text": " "},
        {"line": 4, "text": "not json"},
        {"line": 6, "text": "[1]"},
        {"line": 7, "text": '{"text": "\ufffd"}'},
        {"text": "a"},
    ]
    problems = [record.problem for record in records]
    assert problems[-1] is None
    expected = [
        "应当是字符串",
        "缺少字段 text",
        "是空的",
        "不是合法的 JSON",
        "应当是 JSON 对象",
        "不是 UTF-8",
    ]
    for problem, part in zip(problems, expected, strict=False):
        assert problem is not None
        assert part in problem


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", '\n{"text": "甲"}\n', ["甲"]),
        ("a.txt", '{甲}\n{"text": "乙"}\n', ["{甲}", '{"text": "乙"}']),
        ("a.txt", "甲\u2028乙\x85丙\n 丁 \n", ["甲\u2028乙\x85丙", " 丁 "]),
        ("a.NDJSON", '{"text": "甲"}', ["甲"]),
        ("a", "", []),
        ("a", "[" * 100_000, ["[" * 100_000]),
    ],
)
def test_format_of_an_input_file(tmp_path: Path, name: str, content: str, texts: list[str]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert [record.fields["text"] for record in read_records(tmp_path / name)] == texts


@pytest.mark.parametrize(
    "line",
    ["第 {} 句。", '{{"id": {0}, "text": "第 {0} 句。"}}'],
    ids=["plain", "json"],
)
def test_an_input_that_is_a_pipe(tmp_path: Path, line: str) -> None:
    """A pipe can be read once only: nothing of it may be lost to a look at its format."""
    pipe, count = tmp_path / "pipe", 10_000
    content = ("\ufeff\n \n" + "".join(line.format(number) + "\n" for number in range(count))).encode()
    assert len(content) > 2 * 65536  # what a pipe holds
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[content], daemon=True)
    writer.start()
    records = list(read_records(pipe))
    writer.join(timeout=10)
    assert [record.fields["text"] for record in records] == [f"第 {number} 句。" for number in range(count)]
    assert all(record.problem is None for record in records)
    assert not writer.is_alive()


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text('\n\n{"text": "甲"}\n\nnot json\n', encoding="utf-8")
    assert [record.fields for record in read_records(source)] == [
        {"text": "甲"},
        {"line": 5, "text": "not json"},
    ]


@pytest.mark.parametrize(
    ("form", "long"),
    [("{}", "甲" * 400_000), ("{}", " " * 1_200_000 + "甲"), ('{{"text": "{}"}}', "甲" * 400_000)],
    ids=["plain", "blanks", "json"],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_line_over_the_limit_is_a_bad_line(tmp_path: Path, form: str, long: str, first: bool) -> None:
    source = tmp_path / "in"
    lines = [form.format(text) for text in ((long, "乙", "丙") if first else ("乙", long, "丙"))]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    records = list(read_records(source))
    assert [record.fields["text"] for record in records if record.problem is None] == ["乙", "丙"]
    (bad,) = [record for record in records if record.problem is not None]
    assert bad.problem.endswith("超过上限 1,048,576 字节")
    assert bad.fields == {"line": 1 if first else 2, "text": ""}
    assert records.index(bad) == bad.fields["line"] - 1


@pytest.mark.parametrize(("encoding", "name"), [("gbk", "GBK"), ("utf-16", "UTF-16")])
def test_a_file_in_another_encoding_is_converted_which_is_said_once(
    encoding: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.txt"
    path.write_text("张玲执导\n甲 1\n", encoding=encoding)
    assert count_records(path) == 2
    assert [(record.fields["text"], record.problem) for record in read_records(path)] == [
        ("张玲执导", None),
        ("甲 1", None),
    ]
    assert capsys.readouterr().err == f"{path} 是 {name} 编码，读取时转成 UTF-8。\n"


# --- arrays


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt", "a"])
def test_a_json_array(tmp_path: Path, name: str, indent: int | None) -> None:
    items = [{"text": "甲", "id": 1}, "乙", {"id": 2}, 3, {"text": " "}]
    path = write(tmp_path / name, "\ufeff\n" + json.dumps(items, ensure_ascii=False, indent=indent))
    assert list(read_records(path)) == [
        Record({"text": "甲", "id": 1}),
        Record({"text": "乙"}),
        Record({"id": 2, "text": ""}, "缺少字段 text"),
        Record({"item": 4, "text": ""}, "数组的这一项应当是 JSON 对象或字符串"),
        Record({"text": " "}, "字段 text 是空的"),
    ]
    assert count_records(path) == 5


@pytest.mark.parametrize("content", ['["甲', '[{"text": "甲"}', '["甲"] 乙', "[图] 今天下雨。"])
def test_sentences_that_begin_like_an_array(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "a.txt", content + "\n丙\n")
    assert [record.fields["text"] for record in read_records(path)] == [content, "丙"]


def test_an_array_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.jsonl.MAX_ARRAY_BYTES", 1 << 20)
    path = write(tmp_path / "a.json", "[\n" + '"甲",\n' * 200_000)
    with pytest.raises(UserError, match="是 JSON 数组，超过了 1 MB：请转成 JSONL"):
        list(read_records(path))


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("name", ["content", "sentence", "句子"])
def test_the_field_with_the_sentence_is_pointed_out(tmp_path: Path, name: str, array: bool) -> None:
    line = {"id": 1, name: "甲。", "title": "乙"}
    path = write(tmp_path / "a.json", json.dumps([line] if array else line))
    with pytest.raises(UserError, match=f"没有字段 text，句子像是在 {name} 里：请加上 --text_field {name}"):
        list(read_records(path))
    (record,) = read_records(path, name)
    assert record == Record({**line, "text": "甲。"})


def test_data_of_other_tools_is_named(tmp_path: Path) -> None:
    record = {"instruction": "抽取三元组", "input": "甲的乙。", "output": "[]"}
    path = write(tmp_path / "a.json", json.dumps([record]))
    with pytest.raises(UserError, match=r"没有字段 text，像是Alpaca.*--text_field"):
        list(read_records(path))
    assert [r.fields["text"] for r in read_records(path, "input")] == ["甲的乙。"]
    schema = {"predicate": "导演", "subject_type": "影视作品", "object_type": {"@value": "人物"}}
    with pytest.raises(UserError, match=r"是关系的 schema，不是句子文件：请用作 --schema"):
        list(read_records(write(tmp_path / "b.jsonl", json.dumps(schema))))


def test_labelled_data_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"context": "Instruction: …", "target": "[]"}\n')
    with pytest.raises(UserError, match=r"是带标注的数据.*用 --evaluate"):
        list(read_records(path))


# --- tables


@pytest.mark.parametrize("name", ["句子", "sentence", "Text", "content"])
@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".TSV", "\t")])
def test_a_table(tmp_path: Path, name: str, suffix: str, mark: str) -> None:
    rows = [("编号", name), ("1", '"甲，""乙""\n丙。"'), ("", ""), ("2", " "), ("3",), ("4", "丁")]
    path = write(tmp_path / f"a{suffix}", "\ufeff" + "".join(mark.join(row) + "\r\n" for row in rows))
    assert list(read_records(path)) == [
        Record({"编号": "1", name: '甲，"乙"\n丙。', "text": '甲，"乙"\n丙。'} | {name: '甲，"乙"\n丙。'}),
        Record({"编号": "2", name: " ", "text": " "}, f"字段 {name} 是空的"),
        Record({"line": 6, "编号": "3", "text": ""}, "这一行有 1 列，表头有 2 列"),
        Record({"编号": "4", name: "丁", "text": "丁"}),
    ]


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        ("编号,备注\n1,甲\n", None, "表头是：编号、备注，看不出哪一列是句子：请用 --text_field 列名 指定"),
        ("text,content\n甲,乙\n", None, "好几列都像句子"),
        ("甲是乙。\n", None, "看不出哪一列是句子"),
        ("", None, "表头是：（空）"),
        ("a,a\n", "a", "重名的列"),
        ("编号,备注\n", "句子", "没有名为 句子 的列，表头是：编号、备注"),
        ('text\n"甲\n' + "乙" * 400_000, None, "第 3 行超过 1,048,576 字节"),
        ("text\n甲\0\n", None, "第 2 行含有 NUL 字节"),
    ],
)
def test_a_table_that_is_not_clear(tmp_path: Path, content: str, field: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(read_records(write(tmp_path / "a.csv", content), field))


def test_the_column_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,备注\n甲,乙\n")
    assert list(read_records(path, "备注")) == [Record({"text": "乙", "备注": "乙"})]


# --- other files


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("a.xlsx", "另存为 CSV"), ("a.DOCX", "另存为纯文本"), ("a.gz", "先解压"), ("a.parquet", "转成 JSONL")],
)
def test_other_formats_are_refused_with_what_to_do(tmp_path: Path, name: str, remedy: str) -> None:
    assert remedy in (input_name_problem(tmp_path / name) or "")
    with pytest.raises(UserError, match=f"{remedy}.*能读的是纯文本、JSONL、JSON、CSV 和 TSV"):
        next(read_records(write(tmp_path / name, "甲")))


def test_lines_that_end_with_a_carriage_return_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "甲\r乙\r\r丙\r\n丁")
    assert [record.fields["text"] for record in read_records(path)] == ["甲", "乙", "丙", "丁"]


def test_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("甲\n乙\n".encode())))
    assert count_records(STANDARD) is None
    assert [record.fields["text"] for record in read_records(STANDARD)] == ["甲", "乙"]


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("a", "", 0),
        ("a", "甲", 1),
        ("a", "甲\n\n \n乙\n", 2),
        ("a.jsonl", "{}\n" * 3, 3),
        ("a.csv", "text\n甲\n乙", 2),
        ("a.json", "[1,\n2]", 2),
    ],
)
def test_lines_are_counted(tmp_path: Path, name: str, content: str, count: int) -> None:
    assert count_records(write(tmp_path / name, content)) == count


def test_a_pipe_is_not_counted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert count_records(tmp_path / "pipe") is None


def test_what_is_typed() -> None:
    assert typed_problem("甲") is None
    assert typed_problem("张玲".encode("gbk").decode("utf-8", "surrogateescape")).endswith(
        "请把文件转成 UTF-8）"
    )
    assert "代理字符" in (typed_problem("甲\ud800") or "")

"""Reading JSONL: every kind of bad line is named with its reason, and costs nothing but itself."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from pathlib import Path

import pytest

from data_handle.reader import Example, read_jsonl
from utils.common_utils import UserError
from utils.jsonl import BadLine, describe_bad_lines, iter_objects

GOOD = json.dumps({"context": "问", "target": "答"}, ensure_ascii=False).encode()

BAD_LINES = {
    "not json": (b'{"context": "a", "target": }', "不是合法的 JSON，第 28 个字符处出错"),
    "two objects": (GOOD + GOOD, "不是合法的 JSON"),
    "cut off": (GOOD[:20], "不是合法的 JSON"),
    "list": (b'["context", "target"]', "应当是 JSON 对象，却是列表"),
    "string": (b'"context"', "应当是 JSON 对象，却是字符串"),
    "null": (b"null", "应当是 JSON 对象，却是 null"),
    "true": (b"true", "应当是 JSON 对象，却是布尔值"),
    "missing field": (b'{"context": "a"}', "缺少字段 target"),
    "both missing": (b"{}", "缺少字段 context；缺少字段 target"),
    "number": (b'{"context": "a", "target": 1}', "字段 target 应当是字符串，却是数字"),
    "object": (b'{"context": {}, "target": "b"}', "字段 context 应当是字符串，却是对象"),
    "empty": (b'{"context": "", "target": "b"}', "字段 context 是空的"),
    "blank": (b'{"context": "a", "target": " \\n\\u3000"}', "字段 target 是空的"),
    "gbk": (
        '{"context": "问题", "target": "答"}'.encode("gbk"),
        "不是 UTF-8 编码，第 14 个字节处出错（像是 GBK",
    ),
    "no encoding": (b'{"context": "\xff", "target": "b"}', "不是 UTF-8 编码，第 14 个字节处出错"),
    "raw NUL": (b'{"context": "a\0", "target": "b"}', "含有 NUL 字节"),
    "utf-16": ('{"context": "a"}'.encode("utf-16-le"), "像是 UTF-16 编码"),
    "escaped NUL": (b'{"context": "a\\u0000", "target": "b"}', "字段 context 含有 NUL 字符"),
    "surrogate": (b'{"context": "\\ud83d", "target": "b"}', "字段 context 含有不成对的代理字符"),
    "raw surrogate": (b'{"context": "\xed\xa0\x80", "target": "b"}', "不是 UTF-8 编码"),
    "deep nesting": (b'{"context": ' + b"[" * 200_000, "JSON 嵌套过深"),
    "long number": (b'{"context": ' + b"9" * 10_000 + b"}", "JSON 里有过长的数字"),
    "long line": (b'{"context": "' + b"a" * (10 << 20) + b'"}', "10,485,776 字节，超过上限 1,048,576"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_line_is_named_and_costs_only_itself(tmp_path: Path, name: str) -> None:
    raw, reason = BAD_LINES[name]
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD + b"\n" + raw + b"\n" + GOOD + b"\n")

    examples, bad_lines = read_jsonl(path)

    assert examples == [Example("问", "答", 1), Example("问", "答", 3)]
    assert [(bad.path, bad.line_number) for bad in bad_lines] == [(str(path), 2)]
    assert reason in bad_lines[0].reason
    assert str(bad_lines[0]).startswith(f"{path}:2: ")


def test_zoo_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"".join(raw + b"\n" + GOOD + b"\n" for raw, _ in BAD_LINES.values()))

    examples, bad_lines = read_jsonl(path)

    assert [example.line_number for example in examples] == list(range(2, 2 * len(BAD_LINES) + 1, 2))
    assert [bad.line_number for bad in bad_lines] == list(range(1, 2 * len(BAD_LINES), 2))


def test_byte_order_marks_crlf_blank_lines_and_a_missing_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    bom = b"\xef\xbb\xbf"
    path.write_bytes(bom + GOOD + b"\r\n\r\n  \t\n" + GOOD + b"\n" + bom + GOOD)

    examples, bad_lines = read_jsonl(path)

    assert [example.line_number for example in examples] == [1, 4, 5]
    assert bad_lines == []


def test_only_newlines_end_lines_and_other_fields_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    line = '{"id": NaN, "context": "a\u2028b\x85c", "target": "😀\\ud83d\\ude00[gMASK]"}\n'
    path.write_text(line, encoding="utf-8")

    assert read_jsonl(path) == ([Example("a\u2028b\x85c", "😀😀[gMASK]", 1)], [])


def test_line_at_the_size_limit_is_read_and_a_longer_last_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD + b"\n" + GOOD + b" ")

    items = list(iter_objects(path, max_line_bytes=len(GOOD)))

    assert items[0] == (1, {"context": "问", "target": "答"})
    assert isinstance(items[1], BadLine)
    assert items[1].reason == f"这一行有 {len(GOOD) + 1} 字节，超过上限 {len(GOOD)} 字节"


def test_long_line_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"a" * (32 << 20) + b"\n" + GOOD)

    tracemalloc.start()
    try:
        examples, _ = read_jsonl(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(examples) == 1
    assert peak < 4 << 20


def test_a_line_without_end_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD + b"\n")
    with path.open("r+b") as file:
        file.truncate(20 * 2**30)  # NULs, and none of them on the disk
    with pytest.raises(UserError, match="第 2 行过了 512 MB 还没有结束"):
        read_jsonl(path)


def test_strict_refuses_and_names_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join([GOOD, b"{}", b"[]", *[b"1"] * 5]))

    with pytest.raises(
        UserError, match="有 7 行坏数据，而 strict_data 不允许跳过：第 2 行缺少字段 context"
    ) as caught:
        read_jsonl(path, strict=True)
    assert "第 3 行应当是 JSON 对象，却是列表" in str(caught.value)
    assert "还有 2 行" in str(caught.value)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"x\ny\n")
    with pytest.raises(UserError, match="没有一行可用：第 1 行不是合法的 JSON，第 1 个字符处出错；第 2 行"):
        read_jsonl(path)


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="是空的"):
        read_jsonl(path)


def test_paths_that_are_no_readable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="找不到数据文件"):
        read_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="是目录"):
        read_jsonl(tmp_path)
    with pytest.raises(UserError, match="不是普通文件"):
        read_jsonl("/dev/zero")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UserError, match="loop"):
        read_jsonl(loop)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD)
    path.chmod(0)
    with pytest.raises(UserError, match="读不了数据文件"):
        read_jsonl(path)


def test_description_for_the_log_is_limited() -> None:
    bad_lines = [BadLine("a.jsonl", number, "坏") for number in (3, 5, 8)]
    assert describe_bad_lines([]) == []
    assert describe_bad_lines(bad_lines, limit=2) == [
        "a.jsonl 有 3 行坏数据，已跳过：",
        "  a.jsonl:3: 坏",
        "  a.jsonl:5: 坏",
        "  ……还有 1 行",
    ]


def test_mutated_lines_are_each_read_or_named(tmp_path: Path) -> None:
    """Whatever bytes a line holds, it comes out as one example or one bad line, and its neighbours stay."""
    generator = random.Random(0)
    mutants = []
    for _ in range(2_000):
        line = bytearray(
            json.dumps({"context": "问\\u4e2d😀", "target": "[{}]"}, ensure_ascii=False).encode()
        )
        for _ in range(generator.randint(1, 4)):
            position = generator.randrange(len(line))
            line[position : position + generator.randint(0, 2)] = generator.randbytes(generator.randint(0, 2))
        mutants.append(bytes(line).replace(b"\n", b"") or b"x")
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"".join(mutant + b"\n" + GOOD + b"\n" for mutant in mutants))

    examples, bad_lines = read_jsonl(path)

    assert [e.line_number for e in examples if e.line_number % 2 == 0] == list(range(2, 4_001, 2))
    assert all(e == Example("问", "答", e.line_number) for e in examples if e.line_number % 2 == 0)
    odd = [item.line_number for item in (*examples, *bad_lines) if item.line_number % 2]
    assert sorted(odd) == list(range(1, 4_000, 2))
    assert len(bad_lines) > 1_000

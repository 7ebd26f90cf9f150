"""Lines in UTF-8 of files in other encodings, with other line ends; mixed files stay as they are."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest

from utils.text_lines import TextLines

LINES = ["plain\n", "《长河》由张一执导。\n", "联通\n", '{"句": "戊，己！"}\n', "最后 1 行"]


def read(path: Path, size: int = 1000) -> list[bytes]:
    with TextLines(path.open("rb"), path.name) as lines:
        return list(iter(lambda: lines.readline(size), b""))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("gbk", "GBK"), ("gb18030", "GBK"), ("utf-16", "UTF-16"), ("utf-8", None)],
)
def test_other_encodings_are_converted_and_said_once(
    encoding: str, name: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.txt", "".join(LINES).encode(encoding))
    assert [line.decode() for line in read(path)] == LINES
    said = f"a.txt 是 {name} 编码，读取时转成 UTF-8。\n" if name else ""
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_its_mark_is_told_by_a_bracket(encoding: str, tmp_path: Path) -> None:
    text = '{"句": "甲上不下\u0a0a"}\r\n{}'  # 上 and U+0A0A have bytes that are line ends elsewhere
    path = write(tmp_path / "a.json", text.encode(encoding))
    assert b"".join(read(path)).decode() == text.replace("\r\n", "\n")


def test_a_line_end_of_cr_alone(tmp_path: Path) -> None:
    content = "甲一\r乙二\r\r丙三".encode()
    assert read(write(tmp_path / "a.txt", content)) == [*map(str.encode, ("甲一\n", "乙二\n", "\n", "丙三"))]
    assert read(write(tmp_path / "b.txt", b"a\r\nb\r\n")) == [b"a\r\n", b"b\r\n"]
    assert read(write(tmp_path / "c.txt", b"a\rb\nc")) == [b"a\rb\n", b"c"]


def test_a_file_in_utf8_with_a_line_of_gbk_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["甲乙丙\n".encode(), "甲乙丙\n".encode("gbk"), "丁\n".encode()]
    assert read(write(tmp_path / "a.txt", b"".join(lines))) == lines
    assert capsys.readouterr().err == ""


def test_broken_utf8_is_not_taken_for_gbk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "这一行的末尾少了一个字节，原来是好好的一行文字。".encode()
    lines = [text[:-1] + b"\n", text + b"\n"]
    assert read(write(tmp_path / "a.txt", b"".join(lines))) == lines
    assert capsys.readouterr().err == ""


def test_lines_of_utf8_among_gbk_are_understood(tmp_path: Path) -> None:
    content = "甲乙丙丁\n".encode("gbk") + "戊己庚\n".encode() + "辛壬\n".encode("gbk")
    assert b"".join(read(write(tmp_path / "a.txt", content))).decode() == "甲乙丙丁\n戊己庚\n辛壬\n"


def test_long_lines_come_in_parts_and_looking_ahead_takes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"abcdefgh\nij\n")
    assert read(path, size=5) == [b"abcde", b"fgh\n", b"ij\n"]
    with TextLines(path.open("rb"), "a") as lines:
        assert lines.peek_line(100) == lines.peek_line(100) == b"abcdefgh\n"
        assert [lines.readline(), lines.readline(), lines.readline()] == [b"abcdefgh\n", b"ij\n", b""]
    assert TextLines(io.BytesIO("甲\n".encode()), "b").readline() == "甲\n".encode()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_converted_too(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    content = "".join(LINES).encode("utf-16")
    threading.Thread(target=lambda: pipe.write_bytes(content), daemon=True).start()
    assert [line.decode() for line in read(pipe)] == LINES

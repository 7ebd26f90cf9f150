"""The bounded reader of small JSON files: what it reads, and what it refuses without waiting or swelling."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.small_json import read_json_object, read_small_file


def test_an_object_is_read(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "a.json").write_text('{"关系": 1}', encoding=encoding)
        assert read_json_object(tmp_path / "a.json") == {"关系": 1}


def test_a_link_to_a_regular_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "link.json").symlink_to("a.json")
    assert read_json_object(tmp_path / "link.json") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "不是 JSON 对象"),
        ("[" * 100_000, "嵌套太深"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ('{"a": }', "Expecting value"),
        ('{"a": "' + "x" * 100 + '"}', "超过了 50 字节的上限"),
    ],
)
def test_what_is_no_small_object(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_json_object(tmp_path / "a.json", limit=50 if "x" in text else 10**6)


def test_a_sparse_file_of_terabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(ValueError, match="4,398,046,511,104 字节"):
        read_json_object(tmp_path / "a.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_fifos_devices_and_directories_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(OSError, match="不是普通文件"):
            read_small_file(path)
    with pytest.raises(OSError, match="不是普通文件") as refused:
        read_small_file(tmp_path)
    assert refused.value.filename == str(tmp_path)
    with pytest.raises(OSError, match="文件名不合法"):
        read_small_file("a\0b")

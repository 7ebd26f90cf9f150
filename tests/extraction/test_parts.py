"""A file cut into parts: together they give what one reading gives, and each reads its own bytes only."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import extraction.parts
from extraction.parts import CutFile, cut_file
from extraction.records import Kind, read_records
from utils.common_utils import UserError

SENTENCES = [
    "甲是乙。",
    "",
    "  ",
    "《活着》的作者是余华。",
    "a",
    "😀𠮷",
    "x" * 300,
    "\ufeff丙",
    "丁\r戊",
    "\0",
]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction.parts, "MIN_PART", 1)
    monkeypatch.setattr(extraction.parts, "CHUNK", 64)


def joined(cut: CutFile) -> list[Any]:
    return [record for number in range(len(cut.parts)) for record in cut.records(number)]


def plain(lines: list[str], encoding: str = "utf-8", end: str = "\n") -> bytes:
    return "".join(line + end for line in lines).encode(encoding, "surrogatepass")


def objects(lines: list[str]) -> bytes:
    return "".join(json.dumps({"n": n, "text": line}) + "\n" for n, line in enumerate(lines)).encode()


def table(lines: list[str]) -> bytes:
    cells = [line.replace("\0", "").replace('"', '""') for line in lines]
    return ("编号,text\n" + "".join(f'{n},"{cell}\n{cell}"\n' for n, cell in enumerate(cells))).encode()


CASES = {
    "plain.txt": plain(SENTENCES),
    "no_end.txt": plain(SENTENCES)[:-1],
    "bom.txt": b"\xef\xbb\xbf" + plain(SENTENCES),
    "windows.txt": plain(SENTENCES, end="\r\n"),
    "bad.txt": plain(SENTENCES) + b"\xff\xfe\n" + plain(SENTENCES) + b"\xff",
    "gbk.txt": plain(["abc"] * 40 + ["鲁迅是绍兴人。", "x", "他写了《呐喊》。"] * 9, "gb18030"),
    "utf16.txt": b"\xff\xfe" + plain(SENTENCES, "utf-16-le"),
    "mac.txt": plain(["甲", "乙", "丙"] * 5, end="\r"),
    "long.txt": plain(["a", "b" * ((1 << 20) + 5), "c"]),
    "objects.jsonl": objects(SENTENCES),
    "broken.jsonl": objects(SENTENCES) + b'{"text": \n\n[1]\n{"n": 1}\n' + objects(SENTENCES),
    "array.json": json.dumps([{"text": line} for line in SENTENCES]).encode(),
    "no_array.txt": b"[1] note\n" + plain(SENTENCES),
    "table.csv": table(SENTENCES),
    "ragged.csv": table(SENTENCES) + "9,丙,x\n\n,\n10,丁\n".encode(),
    "gbk.csv": "编号,句子\n1,鲁迅是绍兴人。\n2,他写了《呐喊》。\n".encode("gb18030") * 1,
    "blank.txt": b"\n \n\n",
    "empty.txt": b"",
}


@pytest.mark.parametrize("shares", [1, 2, 5, 1000])
@pytest.mark.parametrize("name", CASES)
def test_parts_give_what_the_whole_gives(tmp_path: Path, name: str, shares: int) -> None:
    path = tmp_path / name
    path.write_bytes(CASES[name])
    cut = cut_file(path, None, shares)
    assert joined(cut) == list(read_records(path))
    assert CutFile.from_dict(path, json.loads(json.dumps(cut.to_dict()))) == cut
    lines = sum(part.lines for part in cut.parts)
    if cut.kind in (Kind.SENTENCES, Kind.OBJECTS):
        assert lines == CASES[name].count(b"\n") + (not CASES[name].endswith(b"\n") and CASES[name] != b"")


def test_random_files(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "a.txt"
    for _ in range(60):
        pieces = [b"\n", b"\r\n", b"\r", b"a", "甲".encode(), "中文".encode("gbk"), b"{", b"\xff", b"b" * 70]
        path.write_bytes(b"".join(rng.choices(pieces, k=rng.randrange(60))))
        assert joined(cut_file(path, None, rng.randrange(1, 9))) == list(read_records(path))


class Counted(io.BufferedReader):
    """Counts the bytes that are read of a file."""

    read_bytes = 0

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        Counted.read_bytes += len(line)
        return line


@pytest.mark.parametrize("make", [plain, objects, table])
def test_a_part_reads_its_own_bytes_only(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ("a.csv" if make is table else "a.txt")
    path.write_bytes(make([f"第{n}句" for n in range(1000)]))
    cut = cut_file(path, None, 10)
    size = path.stat().st_size
    open_path = Path.open

    def count(self: Path, mode: str) -> BinaryIO:
        return Counted(open_path(self, mode).detach())  # type: ignore[attr-defined]

    monkeypatch.setattr(Path, "open", count)
    monkeypatch.setattr(Counted, "read_bytes", 0)
    records = list(cut.records(4))
    assert 90 <= len(records) <= 110
    assert size / 11 < Counted.read_bytes < size / 9


def test_the_first_object_is_checked_before_anybody_starts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"sentence": "甲"}\n', "utf-8")
    with pytest.raises(UserError, match="--text_field sentence"):
        cut_file(path, None, 2)
    path = tmp_path / "a.csv"
    path.write_text('text\n"甲', "utf-8")
    assert joined(cut_file(path, None, 2)) == list(read_records(path))


def test_a_change_of_the_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\nb\n")
    cut = cut_file(path, None, 2)
    assert cut.is_still(path, None) and not cut.is_still(path, "text")
    path.touch()
    assert cut.is_still(path, None)
    path.write_bytes(b"a\nc\n")
    assert not cut.is_still(path, None)
    path.write_bytes(b"a\nb\nc\n")
    assert not cut.is_still(path, None)

"""Reading results for a graph: where they may come from."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export import graph
from tests.helpers.graph_samples import item, write_lines
from utils.common_utils import UserError

ROOT = Path(__file__).resolve().parents[2]


def write(*arguments: Any) -> None:
    assert graph.main([str(argument) for argument in arguments]) == 0


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8-sig").splitlines()))


def test_compressed_results_and_stdin(tmp_path: Path) -> None:
    lines = [{"text": "甲", "triplets": [item("a", "p", "b")]}, {"text": "乙", "triplets": []}]
    plain = write_lines(tmp_path / "in.jsonl", *lines)
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    write(packed, "--format", "csv", "-o", tmp_path / "a.csv")
    assert [row["句子编号"] for row in rows_of(tmp_path / "a.csv")] == ["in.jsonl.gz:1"]
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"解压到一半出错.*请检查文件是否完整"):
        write(packed, "--format", "csv", "-o", tmp_path / "b.csv")
    command = [sys.executable, "-m", "export.graph", "-", "--format", "csv", "-o", str(tmp_path / "c.csv")]
    subprocess.run(command, cwd=ROOT, input=plain.read_bytes(), check=True, capture_output=True)
    assert [row["句子编号"] for row in rows_of(tmp_path / "c.csv")] == ["stdin:1"]

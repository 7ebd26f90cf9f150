"""Shares of a file for several processes: real `accelerate launch`, joined in order; and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import extraction.shards
from extraction.files import FileSummary
from extraction.shards import Shards
from inference_triplet import main
from tests.helpers.extraction_samples import FILM, NOVEL, RAIN, TinyRun
from utils.common_utils import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shares_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction.shards, "SHARE", 2)


@pytest.mark.usefixtures("shares_of_two")
def test_lines_are_shared_out() -> None:
    shares = [list(Shards(Path("out"), rank, 3).mine(range(11))) for rank in range(3)]
    assert shares == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10]]
    assert list(Shards(Path("out")).mine(range(5))) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("shares_of_two")
@pytest.mark.parametrize("lines", [0, 1, 5, 12, 13])
def test_files_are_joined_in_order(tmp_path: Path, lines: int) -> None:
    shards = [Shards(tmp_path / "out", rank, 3) for rank in range(3)]
    for shard in shards:
        if mine := list(shard.mine(range(lines))):
            shard.path.write_text("".join(f"{number}\n" for number in mine))
    shards[0]._join_files()
    assert (tmp_path / "out").read_text() == "".join(f"{number}\n" for number in range(lines))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_one_process_writes_the_output_itself(tmp_path: Path) -> None:
    (tmp_path / "out2.1-of-2").touch()  # of another output
    shards = Shards.of_this_process(tmp_path / "out")
    assert shards.path == tmp_path / "out"
    summary = FileSummary(1, 2, 3)
    assert shards.join(summary) is summary


def test_unfinished_results_of_other_processes_are_named(tmp_path: Path) -> None:
    (tmp_path / "out.2-of-3").write_text("…")
    with pytest.raises(UserError, match=r"有 3 个进程没有做完的结果（out\.2-of-3 等）：请仍用 3 个进程继续"):
        Shards.of_this_process(tmp_path / "out")
    assert (tmp_path / "out.2-of-3").read_text() == "…"


def test_two_processes_give_the_file_of_one(tiny_run: TinyRun, tmp_path: Path) -> None:
    source, one, two = tmp_path / "in.txt", tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    text = "".join(f"{sentence}\n" for sentence in [FILM, NOVEL, RAIN, "  x"] * 7)
    source.write_bytes(text.encode() + b"\xff\n")  # the second process's; it must not end the first one
    argv = ["--adapter", str(tiny_run.adapter), "--input", str(source), "--batch_size", "1", "--output"]
    assert main([*argv, str(one)]) == 1
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]

    def run() -> str:
        done = subprocess.run(
            [sys.executable, *launch, str(ROOT / "inference_triplet.py"), *argv, str(two)],
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
            timeout=300,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        return done.stderr

    assert "共 29 行（其中 0 行是上次完成的）" in run()
    assert two.read_bytes() == one.read_bytes()
    assert len([json.loads(line) for line in two.open(encoding="utf-8")]) == 29
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "one.jsonl", "two.jsonl"]
    assert "共 29 行（其中 29 行是上次完成的）" in run()  # nothing to do
    assert two.read_bytes() == one.read_bytes()

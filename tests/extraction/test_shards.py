"""A file shared by processes: parts taken and joined, processes that die, other numbers of them; the command
under a real `accelerate launch`."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import extraction.parts
from extraction.files import FileJob, FileSummary, ResultFile
from extraction.parsing import AnswerStatus
from extraction.records import read_records
from extraction.result import Extraction
from extraction.shards import SharedFile, parts_folder
from inference_triplet import main
from task.triplets import Triplet
from tests.helpers.extraction_samples import FILM, NOVEL, RAIN, TinyRun
from utils.common_utils import UserError
from utils.progress import Progress

ROOT = Path(__file__).resolve().parents[2]


class Scripted:
    """Answers with the sentence; may fail at one, or be slow."""

    def __init__(self, fails_at: str = "", seconds: float = 0) -> None:
        self.seen: list[str] = []
        self._fails_at, self._seconds = fails_at, seconds

    def stream(self, sentences: Sequence[str], **_: Any) -> Iterator[tuple[int, Extraction]]:
        for index, sentence in enumerate(sentences):
            if sentence == self._fails_at:
                raise OSError("gone")
            time.sleep(self._seconds)
            self.seen.append(sentence)
            yield index, Extraction([Triplet("p", "o", "s", sentence, sentence)], "…", AnswerStatus.OK)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction.parts, "MIN_PART", 1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"第{n}句\n" for n in range(100)) + "\n", "utf-8")
    return path


@pytest.fixture
def expected(source: Path, tmp_path: Path) -> bytes:
    """What one process writes."""
    path = tmp_path / "expected"
    alone(source, path, Scripted())
    result = path.read_bytes()
    path.unlink()
    return result


def alone(source: Path, output: Path, extractor: Any) -> None:
    job = FileJob(read_records(source), ResultFile(output), 2)
    try:
        if job.find_rest():
            job.finish(extractor, Progress(enabled=False))
    finally:
        job.close()


def work(shared: SharedFile, extractor: Any) -> FileSummary:
    def make_job(number: int) -> FileJob:
        return FileJob(shared.cut.records(number), ResultFile(shared.result_path(number)), 2)

    return shared.work(make_job, lambda: extractor, Progress(enabled=False))


def share(source: Path, output: Path, processes: int, extractor: Any) -> FileSummary:
    return work(SharedFile.open(source, output, None, processes), extractor)


def test_parts_are_joined_in_order(source: Path, tmp_path: Path, expected: bytes) -> None:
    output = tmp_path / "out"
    shared = SharedFile.open(source, output, None, 3)
    assert len(shared.cut.parts) == 21
    assert work(shared, Scripted()) == FileSummary(0, 100, 0, 100)
    assert output.read_bytes() == expected
    assert not list(parts_folder(output).glob("*.jsonl"))  # the disk holds everything once
    shared.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out"]


def test_a_process_that_dies_costs_its_part_only(source: Path, tmp_path: Path, expected: bytes) -> None:
    output = tmp_path / "out"
    with pytest.raises(OSError, match="gone"):
        share(source, output, 2, Scripted(fails_at="第50句"))
    done = len(output.read_bytes().splitlines())
    assert 40 <= done <= 50  # what is joined already
    extractor = Scripted()
    summary = share(source, output, 5, extractor)  # another number of processes
    assert output.read_bytes() == expected
    assert summary.resumed + summary.written == 100 and summary.resumed >= done
    assert len(extractor.seen) <= 52


@pytest.mark.parametrize("lines", [0, 1, 37, 99, 100])
def test_what_one_process_has_written_is_taken_up(
    source: Path, tmp_path: Path, expected: bytes, lines: int
) -> None:
    output = tmp_path / "out"
    output.write_bytes(
        b"".join(expected.splitlines(keepends=True)[:lines]) + (b'{"te' if lines < 100 else b"")
    )
    extractor = Scripted()
    summary = share(source, output, 2, extractor)
    assert output.read_bytes() == expected
    assert (summary.resumed, summary.written) == (lines, 100 - lines)
    assert len(extractor.seen) <= 100 - lines + 2


@pytest.mark.parametrize("kill_at", ["index.json", "truncate", "fsync", "unlink"])
def test_a_kill_while_taking_up_or_joining(
    source: Path, tmp_path: Path, expected: bytes, kill_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    output.write_bytes(b"".join(expected.splitlines(keepends=True)[:30]))

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if kill_at == "index.json":
            patch.setattr("extraction.shards.CutFile.to_dict", die)
        elif kill_at == "truncate":
            patch.setattr("extraction.shards._append", die)
        elif kill_at == "fsync":
            patch.setattr("os.fsync", die)
        else:
            patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            share(source, output, 2, Scripted())
    share(source, output, 3, Scripted())
    assert output.read_bytes() == expected


def test_a_copy_that_the_kernel_refuses(
    source: Path, tmp_path: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        raise OSError(18, "cross-device link")

    monkeypatch.setattr("os.copy_file_range", refuse)
    share(source, tmp_path / "out", 2, Scripted())
    assert (tmp_path / "out").read_bytes() == expected


@pytest.mark.parametrize("name", ["index.json", "000000.done"])
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"parts": 5}', "[" * 10**5, '{"size": -1}'])
def test_what_a_damaged_folder_has_lost_is_found_in_the_output(
    source: Path, tmp_path: Path, expected: bytes, name: str, text: str
) -> None:
    output = tmp_path / "out"
    with pytest.raises(OSError, match="gone"):
        share(source, output, 2, Scripted(fails_at="第50句"))
    (parts_folder(output) / name).write_text(text, "utf-8")
    before = output.read_bytes()
    with pytest.raises(UserError, match=rf"{name} 已损坏，不知道上次做到哪里：请删除目录"):
        share(source, output, 2, Scripted())
    assert output.read_bytes() == before
    shutil.rmtree(parts_folder(output))
    share(source, output, 2, Scripted())
    assert output.read_bytes() == expected


def test_a_changed_input_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        share(source, tmp_path / "out", 2, Scripted(fails_at="第50句"))
    before = (tmp_path / "out").read_bytes()
    source.write_text("别的\n", "utf-8")
    with pytest.raises(UserError, match=r"在上次运行之后变了.*请换回原来的，或换一个 --output"):
        SharedFile.open(source, tmp_path / "out", None, 2)
    assert (tmp_path / "out").read_bytes() == before


def test_results_of_another_input_are_refused(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text('{"text": "别的", "triplets": []}\n', "utf-8")
    with pytest.raises(UserError, match="与输入对不上"):
        SharedFile.open(source, output, None, 2)
    assert "别的" in output.read_text("utf-8")


def test_a_file_that_is_being_written_is_refused(source: Path, tmp_path: Path) -> None:
    results = ResultFile(tmp_path / "out")
    results.write(b"x\n")
    with pytest.raises(UserError, match="另一个进程正在写"):
        SharedFile.open(source, tmp_path / "out", None, 2)
    results.close()


def _process(source: Path, output: Path, ready: Callable[[], None], seconds: float) -> None:
    extraction.parts.MIN_PART = 1
    ready()
    share(source, output, 3, Scripted(seconds=seconds))


def test_killed_processes_are_replaced_by_those_that_live(
    source: Path, tmp_path: Path, expected: bytes
) -> None:
    output = tmp_path / "out"
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    processes = [
        context.Process(target=_process, args=(source, output, barrier.wait, seconds))
        for seconds in (0.5, 0.01, 0.01)  # the first is in its first part when it is killed
    ]
    for process in processes:
        process.start()
    time.sleep(0.4)
    assert processes[0].pid is not None
    os.kill(processes[0].pid, signal.SIGKILL)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [-9, 0, 0]
    assert output.read_bytes() == expected


def test_two_processes_give_the_file_of_one(tiny_run: TinyRun, tmp_path: Path) -> None:
    source, one, two = tmp_path / "in.txt", tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    text = "".join(f"{sentence}\n" for sentence in [FILM, NOVEL, RAIN, "  x"] * 16)
    source.write_bytes(text.encode() + b"\xff\n")
    argv = ["--adapter", str(tiny_run.adapter), "--input", str(source), "--batch_size", "1", "--output"]
    assert main([*argv, str(one)]) == 1
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]

    def run(*launch: str) -> str:
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

    assert "共 65 行（其中 0 行是上次完成的）" in run(*launch)
    assert two.read_bytes() == one.read_bytes()
    assert len([json.loads(line) for line in two.open(encoding="utf-8")]) == 65
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "one.jsonl", "two.jsonl"]
    assert "共 65 行（其中 65 行是上次完成的）" in run(*launch)  # nothing to do
    assert two.read_bytes() == one.read_bytes()


def test_one_process_takes_up_what_several_have_left(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, one, two = tmp_path / "in.txt", tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    source.write_text("".join(f"{sentence}\n" for sentence in [FILM, NOVEL, RAIN]), "utf-8")
    argv = ["--adapter", str(tiny_run.adapter), "--input", str(source), "--output"]
    assert main([*argv, str(one)]) == 0
    SharedFile.open(source, two, None, 4)  # a job that others have begun
    assert main([*argv, str(two)]) == 0
    assert "共 3 行（其中 0 行是上次完成的），结果在" in capsys.readouterr().err
    assert two.read_bytes() == one.read_bytes()
    assert not parts_folder(two).exists()

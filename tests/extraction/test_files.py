"""Files of sentences: the lines written, and restarts after a cut at any byte."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from extraction.files import FileJob, FileSummary, ResultFile, ResultStream
from extraction.parsing import AnswerStatus
from extraction.records import Record
from extraction.result import Extraction
from task.triplets import Triplet
from utils.common_utils import UserError
from utils.progress import Progress

RECORDS = [
    Record({"text": "甲的“歌”"}),
    Record({"id": 7, "text": "乙", "triplets": ["旧"], "error": "旧", "分数": 0.5}),
    Record({"line": 3, "text": ""}, "不是合法的 JSON"),
    Record({"text": "丙"}),
    Record({"text": "丁", "备注": "\ud800"}),
    Record({"text": "戊\n己"}),
    Record({"text": "庚"}),
]


def triplet(text: str) -> Triplet:
    return Triplet("p", "o", "s", text, text)


class Extractor:
    """Answers with the sentence itself, and remembers which sentences came together."""

    SPECIAL: ClassVar = {
        "丙": Extraction(raw="没有。"),
        "丁": Extraction([triplet("丁")], "…", AnswerStatus.REPAIRED, truncated=True, source_truncated=True),
        "庚": Extraction(error="RuntimeError: 坏了"),
    }

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def stream(self, sentences: Sequence[str], **_: Any) -> Iterator[tuple[int, Extraction]]:
        self.calls.append(list(sentences))
        for index, s in enumerate(sentences):
            yield index, self.SPECIAL.get(s) or Extraction([triplet(s)], "…", AnswerStatus.OK)


def finish(job: FileJob, extractor: Any) -> None:
    """Do what a job has left to do, if anything."""
    with contextlib.closing(job):
        if job.find_rest():
            job.finish(extractor, Progress(enabled=False))


def run(output: Path, records: list[Record] = RECORDS, batch: int = 1) -> tuple[FileSummary, Extractor]:
    """Run a job in groups of 1, 2, 4, 8 … records, times the batch size."""
    job, extractor = FileJob(records, ResultFile(output), batch), Extractor()
    finish(job, extractor)
    return job.summary, extractor


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.jsonl"
    run(path)
    return path


def test_lines(whole: Path) -> None:
    lines = [json.loads(line) for line in whole.read_text(encoding="utf-8").splitlines()]
    answer = triplet("乙")._asdict()
    assert list(answer) == ["predicate", "object_type", "subject_type", "object", "subject"]
    assert lines[0] == {"text": "甲的“歌”", "triplets": [triplet("甲的“歌”")._asdict()]}
    assert list(lines[1].items()) == [("id", 7), ("text", "乙"), ("分数", 0.5), ("triplets", [answer])]
    assert lines[2] == {"line": 3, "text": "", "triplets": [], "error": "不是合法的 JSON"}
    assert lines[3] == {
        "text": "丙",
        "triplets": [],
        "error": "模型的回答不是可用的三元组 JSON",
        "raw": "没有。",
    }
    assert lines[4] == {
        "text": "丁",
        "备注": "\ud800",
        "triplets": [triplet("丁")._asdict()],
        "repaired": True,
        "truncated": True,
        "source_truncated": True,
    }
    assert lines[5]["text"] == "戊\n己"
    assert lines[6] == {"text": "庚", "triplets": [], "error": "生成失败：RuntimeError: 坏了", "raw": ""}
    assert "甲的“歌”" in whole.read_text(encoding="utf-8")  # not escaped


def test_sentences_come_together_in_groups_that_grow(tmp_path: Path) -> None:
    summary, extractor = run(tmp_path / "out")
    assert extractor.calls == [["甲的“歌”"], ["乙"], ["丙", "丁", "戊\n己", "庚"]]
    assert summary == FileSummary(resumed=0, written=7, failed=3, extracted=6)
    many = [Record({"text": str(number)}) for number in range(70)]
    extractor = run(tmp_path / "many", many, batch=2)[1]
    assert [len(call) for call in extractor.calls] == [2, 4, 8, 16, 16, 16, 8]


def test_a_restart_after_a_cut_at_any_byte_gives_the_same_file(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    output = tmp_path / "cut.jsonl"
    for length in range(len(content) + 1):
        output.write_bytes(content[:length])
        summary, extractor = run(output)
        assert output.read_bytes() == content
        done = content[:length].count(b"\n")
        assert (summary.resumed, summary.written, summary.failed) == (done, 7 - done, 3)
        # Whole groups (of 1, 2 and 4 lines) are repeated, with the same company, and none that was complete
        # or has only a bad line left.
        groups = [["甲的“歌”"], ["乙"], ["丙", "丁", "戊\n己", "庚"]]
        assert extractor.calls == groups[[0, 1, 2, 2, 2, 2, 2, 3][done] :]


def test_nothing_is_extracted_for_bad_lines_alone(tmp_path: Path) -> None:
    summary, extractor = run(tmp_path / "out", [RECORDS[2]])
    assert (extractor.calls, summary.failed, summary.extracted) == ([], 1, 0)


@pytest.mark.parametrize(
    "foreign",
    [
        b"my diary",
        b"my diary\n",
        b'{"text": "other", "triplets": []}\n',
        b'{"text": "\xe7\x94\xb2"',
        b"\0\0\0",
        b'{"text": "\xe7\x94\xb2\xe7\x9a\x84\xe2\x80\x9c\xe6\xad\x8c\xe2\x80\x9d", "oops\n',
        b'{"text": "\xe7\x94\xb2\xe7\x9a\x84\xe2\x80\x9c\xe6\xad\x8c\xe2\x80\x9d", "score": 1}\n',
    ],
)
def test_foreign_files_are_left_alone(tmp_path: Path, foreign: bytes) -> None:
    output = tmp_path / "out"
    output.write_bytes(foreign)
    with pytest.raises(UserError, match="第 1 行与输入对不上"):
        run(output)
    assert output.read_bytes() == foreign


def test_an_output_with_more_lines_than_the_input_is_refused(whole: Path) -> None:
    content = whole.read_bytes()
    with pytest.raises(UserError, match="行比输入多"):
        run(whole, RECORDS[:3])
    assert whole.read_bytes() == content


def test_an_input_that_changed_is_refused(whole: Path) -> None:
    content = whole.read_bytes()
    with pytest.raises(UserError, match="第 5 行与输入对不上"):
        run(whole, [*RECORDS[:4], Record({"text": "别的"}), *RECORDS[5:]])
    assert whole.read_bytes() == content


def test_two_processes_do_not_write_the_same_file(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    first = FileJob(RECORDS, ResultFile(output), 1)
    assert first.find_rest()
    extractor = Stopping(3)
    with contextlib.suppress(KeyboardInterrupt):
        first.finish(extractor, Progress(enabled=False))
    written = output.read_bytes()
    assert written.count(b"\n") == 4  # the bad line among them needs no model
    with pytest.raises(UserError, match=r"另一个进程正在写 .*out.jsonl"):
        run(output)
    assert output.read_bytes() == written
    first.close()
    summary, _ = run(output)
    assert summary.resumed == 4


class Stopping(Extractor):
    """Is interrupted before its answer of that number."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self._left = answers

    def stream(self, sentences: Sequence[str], **_: Any) -> Iterator[tuple[int, Extraction]]:
        for result in super().stream(sentences):
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            yield result


@pytest.mark.parametrize("answers", range(6))
def test_what_was_finished_before_an_interrupt_is_kept(tmp_path: Path, whole: Path, answers: int) -> None:
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        finish(FileJob(RECORDS, ResultFile(output), 1), Stopping(answers))
    lines = output.read_bytes().splitlines(keepends=True) if output.exists() else []
    assert len(lines) == answers + (answers >= 2)  # the bad one comes third
    assert whole.read_bytes().startswith(b"".join(lines))
    run(output)
    assert output.read_bytes() == whole.read_bytes()


def test_what_is_no_json_becomes_null(tmp_path: Path) -> None:
    fields = json.loads('{"text": "甲", "a": NaN, "b": [1.5, Infinity, {"c": -1e999}], "d": "\\ud800"}')
    run(tmp_path / "out", [Record(fields)])
    (line,) = (tmp_path / "out").read_text("utf-8").splitlines()
    assert line.startswith('{"text": "\\u7532", "a": null, "b": [1.5, null, {"c": null}], "d": "\\ud800"')


def test_a_failure_before_the_first_result_leaves_no_file(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        finish(FileJob(RECORDS, ResultFile(output), 8), Stopping(0))
    assert not output.exists()


def test_a_result_is_on_disk_as_soon_as_all_before_it_are(tmp_path: Path) -> None:
    output = tmp_path / "out"
    written: list[int] = []

    class OutOfOrder(Extractor):
        def stream(self, sentences: Sequence[str], **_: Any) -> Iterator[tuple[int, Extraction]]:
            assert sentences == ["甲的“歌”", "乙", "丙", "丁", "戊\n己", "庚"]
            for index in (1, 0, 3, 2, 4):  # RECORDS[2] has no sentence
                yield index, Extraction([triplet(sentences[index])], "…", AnswerStatus.OK)
                written.append(output.read_bytes().count(b"\n") if output.exists() else 0)
            raise OSError("磁盘已满")

    with pytest.raises(OSError, match="磁盘已满"):
        finish(FileJob(RECORDS, ResultFile(output), 7), OutOfOrder())
    assert written == [0, 3, 3, 5, 6]


def test_a_big_foreign_file_without_line_ends_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extraction.files.MAX_RESULT_BYTES", 1000)
    output = tmp_path / "big"
    with output.open("wb") as file:
        file.write(b'{"text": "\xe7\x94\xb2')
        file.truncate(1 << 40)  # sparse: read whole, it would not fit into memory
    with pytest.raises(UserError, match="第 1 行与输入对不上"):
        run(output)
    assert output.stat().st_size == 1 << 40


def test_progress_counts_for_the_speed_what_the_model_did(tmp_path: Path, whole: Path) -> None:
    output = tmp_path / "out"
    output.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:3]))
    job, progress = FileJob(RECORDS, ResultFile(output), 1), Progress(7, enabled=False)
    assert job.find_rest()
    job.finish(Extractor(), progress)
    job.close()
    assert progress.describe().startswith("已完成 7/7 句")
    assert progress._worked == 4
    assert job.summary == FileSummary(resumed=3, written=4, failed=3, extracted=4)
    lines = job.summary.describe("out", loading=5.0, extracting=2.0)
    assert "本次抽取 4 句，用时 2.0 秒，平均 2.00 句/秒（另用 5.0 秒加载模型）。" in lines


def test_a_long_sentence_shows_its_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class InPieces(Extractor):
        def stream(
            self, sentences: Sequence[str], on_piece: Any = None, **_: Any
        ) -> Iterator[tuple[int, Extraction]]:
            for answered in range(4):
                on_piece(answered, 3)
            yield from super().stream(sentences)

    monkeypatch.setattr(Progress, "INTERVAL", 0.0)
    job = FileJob([Record({"text": "甲" * 1000}), Record({"text": "乙"})], ResultFile(tmp_path / "out"), 2)
    assert job.find_rest()
    with contextlib.closing(job), Progress(2) as progress:
        job.finish(InPieces(), progress)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" | ")[2] for line in lines if " | " in line] == [
        f"长句分段抽取 {answered}/3" for answered in range(4)
    ]
    assert lines[-1].startswith("已完成 2/2 句") and " | " not in lines[-1]


class Failing:
    """A file that fails at its n-th operation; a short write leaves half of what it was given."""

    def __init__(self, file: Any, operation: int, error: OSError) -> None:
        self._file, self._left, self._error = file, operation, error

    def write(self, data: bytes) -> int:
        if self._fails():
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise self._error
        return self._file.write(data)

    def flush(self) -> None:
        if self._fails():
            raise self._error
        self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _fails(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_failure_of_any_write_costs_nothing_that_was_written(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    output = tmp_path / "out"
    error = OSError(code, os.strerror(code))
    opened = ResultFile._continue_writing
    for operation in range(14):  # a write and a flush for each of seven lines
        output.unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(
                ResultFile, "_continue_writing", lambda self, at=operation: Failing(opened(self), at, error)
            )
            with pytest.raises(OSError, match=os.strerror(code)):
                run(output)
        kept = output.read_bytes()
        assert whole.read_bytes().startswith(kept)
        summary, _ = run(output)
        assert output.read_bytes() == whole.read_bytes()
        assert summary.resumed == kept.count(b"\n") >= operation // 2


def test_a_terminal_as_output_is_not_acted_on() -> None:
    class Screen(io.BytesIO):
        def isatty(self) -> bool:
            return True

    fields = {"text": "甲\x9b31m\u202e\x1b[2J"}
    for stream in (Screen(), io.BytesIO()):
        finish(FileJob([Record(fields, "坏了")], ResultStream(stream), 1), Extractor())
        written = stream.getvalue().decode()
        assert json.loads(written) == {**fields, "triplets": [], "error": "坏了"}
        assert ("\u202e" in written) is not stream.isatty()

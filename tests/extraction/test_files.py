"""Files of sentences: the lines written, and restarts after a cut at any byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from extraction.extractor import Extraction
from extraction.files import FileSummary, Record, write_results
from extraction.parsing import AnswerStatus
from task.triplets import Triplet
from utils.common_utils import UserError

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

    def __call__(self, sentences: list[str]) -> Iterator[tuple[int, Extraction]]:
        self.calls.append(sentences)
        for index, s in enumerate(sentences):
            yield index, self.SPECIAL.get(s) or Extraction([triplet(s)], "…", AnswerStatus.OK)


def run(output: Path, records: list[Record] = RECORDS, window: int = 3) -> tuple[FileSummary, Extractor]:
    summary, extractor = FileSummary(), Extractor()
    assert sum(write_results(records, output, extractor, window, summary)) == len(records)
    return summary, extractor


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


def test_sentences_come_together_in_windows(tmp_path: Path) -> None:
    summary, extractor = run(tmp_path / "out")
    assert extractor.calls == [["甲的“歌”", "乙"], ["丙", "丁", "戊\n己"], ["庚"]]
    assert summary == FileSummary(resumed=0, written=7, failed=3)


def test_a_restart_after_a_cut_at_any_byte_gives_the_same_file(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    output = tmp_path / "cut.jsonl"
    for length in range(len(content) + 1):
        output.write_bytes(content[:length])
        summary, extractor = run(output)
        assert output.read_bytes() == content
        done = content[:length].count(b"\n")
        assert summary == FileSummary(resumed=done, written=7 - done, failed=3)
        # Whole windows are repeated, with the same company, and no window that was complete.
        assert len(extractor.calls) == (3 if done < 3 else 2 if done < 6 else 1 if done < 7 else 0)


def test_nothing_is_extracted_for_bad_lines_alone(tmp_path: Path) -> None:
    summary, extractor = run(tmp_path / "out", [RECORDS[2]])
    assert (extractor.calls, summary.failed) == ([], 1)


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
    first = write_results(RECORDS, output, Extractor(), 3, FileSummary())
    next(first)
    written = output.read_bytes()
    with pytest.raises(UserError, match=r"另一个进程正在写 .*out.jsonl"):
        run(output)
    assert output.read_bytes() == written
    first.close()
    summary, _ = run(output)
    assert summary.resumed == 3


def test_what_is_no_json_becomes_null(tmp_path: Path) -> None:
    fields = json.loads('{"text": "甲", "a": NaN, "b": [1.5, Infinity, {"c": -1e999}], "d": "\\ud800"}')
    run(tmp_path / "out", [Record(fields)])
    (line,) = (tmp_path / "out").read_text("utf-8").splitlines()
    assert line.startswith('{"text": "\\u7532", "a": null, "b": [1.5, null, {"c": null}], "d": "\\ud800"')


def test_a_failure_before_the_first_result_leaves_no_file(tmp_path: Path) -> None:
    def fail(sentences: list[str]) -> Iterator[tuple[int, Extraction]]:
        raise UserError("找不到模型")

    output = tmp_path / "out"
    with pytest.raises(UserError, match="找不到模型"):
        list(write_results(RECORDS, output, fail, 3, FileSummary()))
    assert not output.exists()


def test_a_result_is_on_disk_as_soon_as_all_before_it_are(tmp_path: Path) -> None:
    output = tmp_path / "out"
    written: list[int] = []

    def extract(sentences: list[str]) -> Iterator[tuple[int, Extraction]]:
        assert sentences == ["甲的“歌”", "乙", "丙", "丁", "戊\n己", "庚"]
        for index in (1, 0, 3, 2, 4):  # RECORDS[2] has no sentence
            yield index, Extraction([triplet(sentences[index])], "…", AnswerStatus.OK)
            written.append(output.read_bytes().count(b"\n") if output.exists() else 0)
        raise OSError("磁盘已满")

    with pytest.raises(OSError, match="磁盘已满"):
        list(write_results(RECORDS, output, extract, 7, FileSummary()))
    assert written == [0, 3, 3, 5, 6]
    whole = tmp_path / "whole"
    list(write_results(RECORDS, whole, Extractor(), 7, FileSummary()))
    assert output.read_bytes().splitlines()[:3] == whole.read_bytes().splitlines()[:3]


def test_each_line_is_on_disk_before_the_next_window(tmp_path: Path) -> None:
    output = tmp_path / "out"
    progress: Iterator[int] = write_results(RECORDS, output, Extractor(), 2, FileSummary())
    assert next(progress) == 2
    assert output.read_bytes().count(b"\n") == 2
    assert next(progress) == 2
    assert output.read_bytes().count(b"\n") == 4

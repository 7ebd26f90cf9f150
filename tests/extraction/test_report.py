"""The report of an evaluation: put over an earlier one only, never among an adapter's files, whole or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extraction.evaluation.evaluate import Evaluation
from extraction.evaluation.report import Report, check_report, write_report
from utils.common_utils import UserError

REPORT = Report(Evaluation(), "dev.jsonl", 3, [], 1.23456)


@pytest.mark.parametrize(
    "content",
    [
        b"my diary\n",
        b'{"text": "\xe7\x94\xb2"}\n',
        b"[1]",
        b'{\n  "file": "a",\n  "other": 1\n}',
        b"\0" * 100,
    ],
)
def test_what_is_no_report_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="不是以前的评估报告，不会覆盖它，请换一个 --report"):
        check_report(path)
    assert path.read_bytes() == content


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.touch()  # as `mktemp` makes it
    for _ in range(2):
        check_report(path)
        write_report(path, REPORT.to_dict())
    assert json.loads(path.read_text(encoding="utf-8"))["lines"] == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["adapter_config.json", "manifest.json"])
def test_never_among_the_files_of_an_adapter(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match="是适配器或检查点的目录，请换一个 --report"):
        check_report(tmp_path / "report.json")


def test_a_failure_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_report(path, REPORT.to_dict())
    before = path.read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(path, REPORT.to_dict())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

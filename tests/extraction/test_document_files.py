"""Files of documents: one, a folder of them, in other encodings; what can't be read is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from extraction import document_files
from extraction.document_files import find_documents, read_documents
from utils.common_utils import UserError


def test_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "甲.txt").write_text("一句。\n两句。\n", encoding="gbk")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.md").write_text("# 题\n", encoding="utf-8")
    (tmp_path / "d.py").write_text("pass", encoding="utf-8")
    (tmp_path / "空.txt").write_text(" \n", encoding="utf-8")
    empty, *rest = sorted(read_documents(tmp_path), key=lambda record: record.problem is None)
    assert [record.fields for record in rest] == [
        {"document": "b/c.md", "text": "# 题\n"},
        {"document": "甲.txt", "text": "一句。\n两句。\n"},
    ]
    assert empty.fields["document"] == "空.txt" and "空" in str(empty.problem)
    (record,) = read_documents(tmp_path / "甲.txt")
    assert record.fields["document"] == "甲.txt"


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="没有文档"):
        find_documents(tmp_path)
    with pytest.raises(UserError, match="找不到"):
        find_documents(tmp_path / "none")
    (tmp_path / "a.txt").write_bytes(bytes(range(128, 256)) * 9)
    monkeypatch.setattr(document_files, "MAX_BYTES", 2000)
    (tmp_path / "b.txt").write_text("长" * 2000, encoding="utf-8")
    problems = [record.problem for record in read_documents(tmp_path)]
    assert problems[0] is not None and "读不出的字节" in problems[0]
    assert problems[1] == "文档超过 2,000 字节，请分成几个"

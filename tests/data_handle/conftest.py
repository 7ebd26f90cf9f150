"""Fixtures of the tests of data_handle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bases.chatglm import ChatGLMTokenizer
from tests.data_handle.converting import Runner
from tests.helpers.data_samples import director, make_line


@pytest.fixture
def runner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Converts files in an empty folder."""
    return Runner(tmp_path, capsys)


@pytest.fixture
def data_file(tmp_path: Path, root: Path) -> Path:
    """Bundled lines, and what goes wrong in data: bad lines, answers too long, text of all planes."""
    bundled = (root / "data" / "mixed_dev_dataset.jsonl").read_text(encoding="utf-8")
    long = make_line("长" * 300, *(director(f"片{i}", "人") for i in range(30)))
    surrogate = make_line("😀\u2028é\t\n〇", director("😀", "é"))
    surrogate["target"] = surrogate["target"].replace("导演", r"\ud800")
    lines = [
        json.dumps(surrogate),
        "不是 JSON",
        json.dumps(long),
        json.dumps({"context": "x", "target": "```json\n[{坏"}),
        json.dumps({"context": "x"}),
        "",
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines) + bundled, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(root: Path) -> ChatGLMTokenizer:
    """That of the embedded base."""
    return ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")

"""Directories of decoder-only models from strangers: each is refused in a sentence, and takes no memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from bases import find_family
from bases.interface import CheckpointError
from tests.helpers.causal_bases import make_base
from utils.common_utils import UserError


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("qwen3"), "qwen3")


@pytest.fixture
def model_dir(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def load(model_dir: Path) -> Any:
    return find_family(model_dir).load(model_dir, load_in_4bit=False, dtype=torch.float32, device="cpu")


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 2**31 - 1}, "而 config.json 要求浮点数"),
        ({"hidden_size": 2, "head_dim": 2**30, "num_attention_heads": 1}, "head_dim 必须是1 到 4096"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 10**400}}, "config.json"),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 3, "long_factor": [1.0]}},
            "不能一起用|config.json",
        ),
        ({"model_type": ["qwen3"]}, "model_type"),
    ],
)
def test_configs_that_ask_for_too_much(model_dir: Path, fields: dict[str, Any], message: str) -> None:
    change(model_dir / "config.json", **fields)
    before = psutil.Process().memory_info().vms
    with pytest.raises(CheckpointError, match=message):
        load(model_dir)
    assert psutil.Process().memory_info().vms - before < 2**30


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("kind", ["outside", "circle", "fifo", "large"])
def test_files_that_are_none(model_dir: Path, tmp_path: Path, name: str, kind: str) -> None:
    path = model_dir / name
    path.unlink(missing_ok=True)
    if kind == "outside":
        (tmp_path / "elsewhere").write_text("{}")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "circle":
        path.symlink_to(name)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(60 * 2**30)
    if name == "chat_template.jinja":  # there is a template in tokenizer_config.json, which comes first
        content = json.loads((model_dir / "tokenizer_config.json").read_text())
        del content["chat_template"]
        (model_dir / "tokenizer_config.json").write_text(json.dumps(content))
        if kind in ("circle", "fifo"):  # no file: as if there were none
            assert load(model_dir)
            return
    with pytest.raises(CheckpointError, match=rf"{name}|分词器|分词库"):
        load(model_dir)


def test_a_regular_expression_that_never_ends(model_dir: Path) -> None:
    """The library panics, which is no `Exception`; where a text is needed, that is a user's error."""
    content = json.loads((model_dir / "tokenizer.json").read_text())
    steps = content["pre_tokenizer"]["pretokenizers"]
    steps[0] = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    (model_dir / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = find_family(model_dir).load_tokenizer(model_dir)
    assert tokenizer.encode_plain("句子")
    with pytest.raises(UserError, match=r"tokenizer\.json 处理不了这段文字"):
        tokenizer.encode_plain("a" * 3000 + "！")


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},
        {"type": "Prepend", "prepend": "x" * 10**6},
    ],
)
def test_normalisers_that_make_texts_longer(model_dir: Path, step: dict[str, Any]) -> None:
    content = json.loads((model_dir / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Sequence", "normalizers": [step] * 12}
    (model_dir / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="它的规范化会让文字变长"):
        load(model_dir)


NESTED = '{"x": [' + "[]," * 4_000_001 + "[]]}"


@pytest.mark.parametrize("make", [lambda: NESTED, lambda: "[" * 10**5, lambda: "[]", lambda: "\0"])
def test_a_tokenizer_that_is_a_bomb(model_dir: Path, make: Callable[[], str]) -> None:
    (model_dir / "tokenizer.json").write_text(make())
    with pytest.raises(CheckpointError, match=r"无法使用 .*tokenizer\.json：") as caught:
        load(model_dir)
    assert len(str(caught.value)) < 500

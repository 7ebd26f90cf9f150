"""The checkpoint of published shape: names, shards and shapes, small; and that the loader takes it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from bases.chatglm import (
    ChatGLMConfig,
    ChatGLMForConditionalGeneration,
    CheckpointError,
    load_base_model,
    loading,
)
from benchmarks import make_full_size_checkpoint as script
from utils.common_utils import UserError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same script with narrow layers and small shards."""
    shape = {"hidden_size": 64, "inner_hidden_size": 256, "num_attention_heads": 4}
    monkeypatch.setattr(script, "PUBLISHED_CONFIG", script.PUBLISHED_CONFIG | shape)
    monkeypatch.setattr(script, "MAX_SHARD_BYTES", 400_000)
    monkeypatch.setattr(script, "IMAGE_TOKENS", 100)
    monkeypatch.setattr(script, "NOISE_LENGTH", 10_007)


def write(directory: Path, *options: str) -> Path:
    script.main([str(directory), "--layers", "3", "--vocab_size", "6080", *options])
    return directory


def read(directory: Path) -> dict[str, torch.Tensor]:
    return dict(pair for shard in loading.checkpoint_shards(directory) for pair in loading.read_shard(shard))


@pytest.mark.usefixtures("small")
def test_the_loader_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    directory = write(tmp_path / "new" / "base")
    assert capsys.readouterr().out == f"{directory}\n"
    names = sorted(path.name for path in directory.glob("*.bin"))
    assert len(names) > 2
    assert names == [f"pytorch_model-{i + 1:05d}-of-{len(names):05d}.bin" for i in range(len(names))]
    model, tokenizer = load_base_model(directory, device="cpu")
    assert model.is_loaded_in_4bit and len(model.transformer.layers) == 3
    ids = torch.tensor([tokenizer.build_inputs_with_special_tokens(tokenizer.encode_plain("你好"))])
    assert model(input_ids=ids).logits.isfinite().all()


@pytest.mark.usefixtures("small")
def test_tensors(tmp_path: Path) -> None:
    state = read(write(tmp_path / "base"))
    with torch.device("meta"):
        expected = ChatGLMForConditionalGeneration(loading.load_config(tmp_path / "base")).state_dict()
    rotary = {f"transformer.layers.{i}.attention.rotary_emb.inv_freq" for i in range(3)}
    assert state.keys() == expected.keys() | rotary
    assert all(state[name].shape == expected[name].shape for name in expected)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert torch.equal(state[loading.HEAD], state[loading.EMBEDDING])
    matrices = {name: tensor.float() for name, tensor in state.items() if tensor.dim() == 2}
    for name, matrix in matrices.items():
        assert 0.019 < matrix.std() < 0.021, name
        assert len(torch.unique(matrix, dim=0)) == len(matrix), name
    first, second = (matrices[f"transformer.layers.{i}.mlp.dense_h_to_4h.weight"] for i in (0, 1))
    assert not torch.equal(first, second)
    assert state["transformer.layers.0.input_layernorm.weight"].eq(1).all()
    assert state["transformer.layers.0.mlp.dense_h_to_4h.bias"].eq(0).all()
    index = json.loads((tmp_path / "base" / "pytorch_model.bin.index.json").read_text())
    assert index["weight_map"].keys() == state.keys()
    assert index["metadata"]["total_size"] == sum(2 * tensor.numel() for tensor in state.values())


@pytest.mark.usefixtures("small")
def test_the_seed_decides(tmp_path: Path) -> None:
    first, again, other = (
        load_base_model(write(tmp_path / name, "--seed", seed), device="cpu")[0].base_fingerprint
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert first == again != other


def test_published_layout() -> None:
    shapes = script.published_shapes(ChatGLMConfig.from_dict(script.PUBLISHED_CONFIG))
    shards = script.cut_shards(shapes)
    assert [len(names) for names in shards] == [25, 63, 61, 63, 60, 63, 32, 1]
    assert shards[0][0] == loading.EMBEDDING and shards[-1] == [loading.HEAD]
    assert script.weight_bytes(shapes) == 13_415_859_968


@pytest.mark.skipif("CHATGLM_6B_DIR" not in os.environ, reason="CHATGLM_6B_DIR names no published directory")
def test_layout_and_config_of_the_published_directory() -> None:
    directory = Path(os.environ["CHATGLM_6B_DIR"])
    index = json.loads((directory / "pytorch_model.bin.index.json").read_text())["weight_map"]
    shards = script.cut_shards(script.published_shapes(ChatGLMConfig()))
    assert index == {
        name: f"pytorch_model-{number:05d}-of-00008.bin"
        for number, names in enumerate(shards, start=1)
        for name in names
    }
    assert json.loads((directory / "config.json").read_text()) == script.PUBLISHED_CONFIG


@pytest.mark.usefixtures("small")
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match="已存在且不是空目录"):
        write(tmp_path / "used")
    with pytest.raises(UserError, match="vocab_size 至少要是分词器的"):
        write(tmp_path / "new", "--vocab_size", "5000")
    with pytest.raises(UserError, match="--layers 应为正整数"):
        write(tmp_path / "new", "--layers", "0")
    with pytest.raises(CheckpointError, match="缺少分词模型"):
        write(tmp_path / "new", "--tokenizer", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="磁盘只剩"):
        write(tmp_path / "new")
    assert not (tmp_path / "new").exists()

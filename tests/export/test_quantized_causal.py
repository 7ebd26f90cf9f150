"""4-bit copies of causal models: read back bit by bit, here and by transformers; refused if changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bases import CheckpointError, check_model_dir, find_family
from bases.linear4bit import STATE_SUFFIX
from export.four_bit import quantise
from tests.bases.causal.test_published import CONFIG, published_weights
from tests.helpers.causal_bases import byte_level, make_base, write_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def load(directory: Path, **options: Any) -> Any:
    options = {"dtype": torch.bfloat16, "device": "cpu"} | options
    return find_family(directory).load(directory, **options)[0]


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits.float()


@pytest.fixture(scope="module", params=["gemma3_text", "qwen2", "published glm"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tied; with biases; ChatGLM2's names and fused tensors."""
    directory = tmp_path_factory.mktemp("base")
    if request.param != "published glm":
        return make_base(directory, request.param)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    tokenizer = json.loads(byte_level())  # but bytes and control tokens: the vocabulary is small
    vocabulary = {piece: index for piece, index in tokenizer["model"]["vocab"].items() if index < 264}
    tokenizer["model"] |= {"vocab": vocabulary, "merges": []}
    write_tokenizer(directory, json.dumps(tokenizer))
    save_file(published_weights(), directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def copy(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("copies") / "copy"
    quantise(str(base), directory, "bfloat16", "cpu")
    return directory


def test_a_copy_is_read_back_bit_by_bit(base: Path, copy: Path) -> None:
    check_model_dir(copy)
    family = find_family(copy)
    assert family.shape(family.load_config(copy)).quantized
    original, again = load(base), load(copy)
    assert torch.equal(logits_of(again), logits_of(original))
    assert again.base_fingerprint == original.base_fingerprint  # so adapters go with both
    assert not hasattr(again.config, "quantization_config")
    assert (copy / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    stored = load_file(copy / "model.safetensors")
    assert any(name.endswith(STATE_SUFFIX) for name in stored)


@pytest.mark.parametrize("base", ["gemma3_text"], indirect=True)
def test_transformers_reads_it_too(copy: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(copy, dtype=torch.bfloat16, device_map={"": "cpu"})
    mine = logits_of(load(copy))
    # (In evaluation mode bitsandbytes repacks weights on some CPUs, which takes wider ones than these.)
    assert (logits_of(theirs.train()) - mine).abs().max() < 0.02 * mine.abs().max()


def test_what_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="是 4-bit 量化副本，不能按半精度加载"):
        load(copy, load_in_4bit=False)
    with pytest.raises(CheckpointError, match="不能按 8-bit 加载"):
        load(copy, load_in_4bit=False, load_in_8bit=True)
    with pytest.raises(CheckpointError, match="得不到半精度的权重"):
        find_family(copy).stored_weights(copy)

    def changed(change: Any) -> Path:
        directory = tmp_path / "changed"
        directory.mkdir(exist_ok=True)
        for path in copy.iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
        state = load_file(directory / "model.safetensors")
        change(state)
        save_file(state, directory / "model.safetensors")
        return directory

    name = min(name for name in load_file(copy / "model.safetensors") if "layers.1" in name)
    weight = next(name for name in load_file(copy / "model.safetensors") if name.endswith(".absmax"))
    with pytest.raises(CheckpointError, match=f"缺少 1 个参数，例如 {name}"):
        check_model_dir(changed(lambda state: state.pop(name)))
    with pytest.raises(CheckpointError, match="不是这个 4-bit 副本应有的"):
        check_model_dir(changed(lambda state: state.update({name: state[name][..., :3].clone()})))
    with pytest.raises(CheckpointError, match="不是这个 4-bit 副本应有的"):
        check_model_dir(changed(lambda state: state.update({"further": torch.ones(2)})))
    with pytest.raises(CheckpointError, match="与量化时写下的不同"):
        load(changed(lambda state: state[weight].add_(1)))


@pytest.mark.parametrize("note", [5, [], {"quant_method": "gptq", "bits": 4}])
def test_weights_that_others_quantised_are_refused(copy: Path, tmp_path: Path, note: Any) -> None:
    content = json.loads((copy / "config.json").read_text(encoding="utf-8")) | {"quantization_config": note}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="不是本项目写的 4-bit 量化"):
        find_family(tmp_path).load_config(tmp_path)

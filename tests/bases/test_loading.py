"""Loading a checkpoint directory: shards, formats, 4-bit, tying, and what is refused."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bases import check_model_dir
from bases.chatglm import (
    ChatGLMConfig,
    ChatGLMForConditionalGeneration,
    ChatGLMModel,
    CheckpointError,
    load_base_model,
    loading,
)
from utils.device import compute_dtype

PROMPT = torch.tensor([[11, 12, 13]])
EMBEDDING, HEAD = loading.EMBEDDING, loading.HEAD


def write_bin_shards(source: Path, target: Path, count: int, extra: dict | None = None) -> None:
    """Rewrite a safetensors directory in the published layout: .bin shards with an index, head included."""
    shutil.copytree(source, target)
    state = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    state[HEAD] = state[EMBEDDING].clone()
    state["transformer.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(4)
    state.update(extra or {})
    weight_map = {}
    for shard in range(count):
        name = f"pytorch_model-{shard + 1:05d}-of-{count:05d}.bin"
        part = {key: state[key] for key in sorted(state)[shard::count]}
        torch.save(part, target / name)
        weight_map |= dict.fromkeys(part, name)
    (target / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    config = model.config
    ids = torch.cat([PROMPT, torch.tensor([[config.gmask_token_id, config.bos_token_id]])], dim=1)
    with torch.no_grad():
        return model(input_ids=ids.to(model.device)).logits.float()


def test_bin_shards_load_as_safetensors_do(random_base: Path, tmp_path: Path) -> None:
    write_bin_shards(random_base, tmp_path / "bin", 3)
    expected = ChatGLMForConditionalGeneration.from_pretrained(random_base)
    loaded = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "bin")
    assert torch.equal(logits_of(loaded), logits_of(expected))
    assert loaded.base_fingerprint == expected.base_fingerprint
    assert loaded.lm_head.weight is loaded.transformer.word_embeddings.weight


def test_another_weight_changes_the_fingerprint(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "other")
    state = load_file(tmp_path / "other" / "model.safetensors")
    state["transformer.layers.1.mlp.dense_4h_to_h.weight"][0, 0] += 1
    save_file(state, tmp_path / "other" / "model.safetensors")
    expected = ChatGLMForConditionalGeneration.from_pretrained(random_base)
    other = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "other")
    assert other.base_fingerprint != expected.base_fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(random_base: Path, dtype: torch.dtype) -> None:
    model = ChatGLMForConditionalGeneration.from_pretrained(random_base, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_the_model_without_its_head(random_base: Path) -> None:
    model = ChatGLMModel.from_pretrained(random_base)
    whole = ChatGLMForConditionalGeneration.from_pretrained(random_base)
    ids = torch.tensor([[11, model.config.gmask_token_id, model.config.bos_token_id]])
    assert torch.equal(model(ids).last_hidden_state, whole.transformer(ids).last_hidden_state)


def test_save_and_load_again(random_base: Path, tmp_path: Path) -> None:
    model = ChatGLMForConditionalGeneration.from_pretrained(random_base)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert torch.equal(logits_of(ChatGLMForConditionalGeneration.from_pretrained(tmp_path)), logits_of(model))


def test_exactly_the_intended_layers_are_4bit(random_base: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    model = ChatGLMForConditionalGeneration.from_pretrained(
        random_base, dtype=torch.bfloat16, load_in_4bit=True
    )
    quantized = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    layers = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    assert quantized == {f"transformer.layers.{i}.{layer}" for i in range(2) for layer in layers}
    for name in quantized:
        weight = model.get_submodule(name).weight
        assert weight.dtype == torch.uint8
        assert weight.quant_state.quant_type == "nf4"
        assert weight.quant_state.nested  # double quantisation
    assert type(model.lm_head) is torch.nn.Linear
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    exact = ChatGLMForConditionalGeneration.from_pretrained(random_base, dtype=torch.bfloat16)
    cosine = torch.cosine_similarity(logits_of(model).flatten(), logits_of(exact).flatten(), dim=0)
    assert 0.9 < cosine < 0.9999999


def test_the_check_finds_a_layer_that_is_not_4bit(random_base: Path) -> None:
    model = ChatGLMForConditionalGeneration.from_pretrained(random_base)
    with pytest.raises(RuntimeError, match="should be 4-bit"):
        loading.check_quantization(model, loading.LINEAR_LAYERS)


def test_at_most_one_shard_is_held(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bin_shards(random_base, tmp_path / "bin", 4)
    earlier: list[weakref.ref] = []
    original = loading.read_shard

    def spying(path: Path):
        alive = [reference() for reference in earlier if reference() is not None]
        assert len(alive) <= 1, "tensors of an earlier shard are still held"  # 1: the caller's loop variable
        del alive
        for name, tensor in original(path):
            earlier.append(weakref.ref(tensor))
            yield name, tensor

    monkeypatch.setattr(loading, "read_shard", spying)
    ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "bin", dtype=torch.bfloat16, load_in_4bit=True)
    assert len(earlier) > 20


def rename_all(source: Path, target: Path, rename: Callable[[str], str], wrap: bool = False) -> None:
    """Write a checkpoint as a wrapper of the model saves it, in one `.bin` file."""
    shutil.copytree(source, target)
    state = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    renamed = {rename(name): tensor for name, tensor in state.items()}
    content = {"state_dict": renamed, "epoch": 3, "global_step": 7} if wrap else renamed
    torch.save(content, target / "pytorch_model.bin")


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"module.base_model.model.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: name.replace("query_key_value.", "query_key_value.base_layer."),
        lambda name: name,
    ],
    ids=["DDP", "DDP of PEFT", "compiled", "base layers of LoRA", "plain"],
)
def test_wrappers_are_seen_through(
    random_base: Path, tmp_path: Path, rename: Callable[[str], str], wrap: bool
) -> None:
    rename_all(random_base, tmp_path / "wrapped", rename, wrap)
    expected = ChatGLMForConditionalGeneration.from_pretrained(random_base)
    loaded = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "wrapped")
    assert torch.equal(logits_of(loaded), logits_of(expected))
    assert loaded.base_fingerprint == expected.base_fingerprint


def test_weights_quantised_elsewhere_are_called_so(random_base: Path, tmp_path: Path) -> None:
    """int8 weights, with their scales, beside a config that says nothing of it."""
    layer = "transformer.layers.0.mlp.dense_h_to_4h.weight"
    for name, extra in (("scales", {f"{layer}_scale": torch.ones(128).half()}), ("bytes", {})):
        shutil.copytree(random_base, tmp_path / name)
        state = load_file(tmp_path / name / "model.safetensors")
        state |= {layer: state[layer].to(torch.int8), **extra}
        save_file(state, tmp_path / name / "model.safetensors")
        for refuse in (check_model_dir, load_base_model):
            with pytest.raises(CheckpointError, match=r"int4 或 int8 量化过的权重.*原始的 fp16 权重"):
                refuse(tmp_path / name)


def test_long_names_are_shown_short(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors") | {"a" * 50_000: torch.ones(1)}
    save_file(state, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"a{120}… 不属于") as caught:
        load_base_model(tmp_path / "model")
    assert len(str(caught.value)) < 500


def test_lora_weights_in_place_of_a_model_are_called_so(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors")
    state["base_model.model.transformer.layers.0.attention.dense.lora_A.weight"] = torch.ones(2, 64)
    save_file(state, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"LoRA 适配器的权重.*适配器用 --adapter 指定"):
        load_base_model(tmp_path / "model")


@pytest.mark.parametrize("load_in_4bit", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["layers.1.mlp.dense_4h_to_h.weight", "final_layernorm.bias"])
def test_weights_that_are_not_finite(
    random_base: Path, tmp_path: Path, load_in_4bit: bool, value: float, name: str
) -> None:
    shutil.copytree(random_base, tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors")
    state[f"transformer.{name}"].view(-1)[33] = value
    save_file(state, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} 有 NaN 或无穷大"):
        load_base_model(tmp_path / "model", load_in_4bit=load_in_4bit, device="cpu")


def test_what_loading_refuses_the_check_refuses_with_the_same_words(
    random_base: Path, tmp_path: Path
) -> None:
    """In the same words, for all that can be told without reading weights."""
    changes: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
        "missing": lambda state: state.pop("transformer.final_layernorm.bias"),
        "unknown": lambda state: state.update({"x": torch.ones(1)}),
        "shape": lambda state: state.update({"transformer.final_layernorm.bias": torch.ones(7)}),
        "type": lambda state: state.update({EMBEDDING: state[EMBEDDING].to(torch.float8_e4m3fn)}),
    }
    for name, change in changes.items():
        shutil.copytree(random_base, tmp_path / name)
        state = load_file(tmp_path / name / "model.safetensors")
        change(state)
        save_file(state, tmp_path / name / "model.safetensors")
        messages = set()
        for refuse in (check_model_dir, load_base_model):
            with pytest.raises(CheckpointError) as caught:
                refuse(tmp_path / name)
            messages.add(str(caught.value))
        assert len(messages) == 1


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).expand(128, 64), torch.zeros(128, 64).to_sparse(), torch.zeros(128, 64, device="meta")],
    ids=["stride 0", "sparse", "meta"],
)
def test_tensors_that_are_none(random_base: Path, tmp_path: Path, tensor: torch.Tensor) -> None:
    name = "transformer.layers.0.mlp.dense_h_to_4h.weight"
    write_bin_shards(random_base, tmp_path / "bin", 1, {name: tensor})
    with pytest.raises(CheckpointError, match="张量以外的内容，拒绝加载"):
        load_base_model(tmp_path / "bin")


def test_names_that_are_no_strings(random_base: Path, tmp_path: Path) -> None:
    write_bin_shards(random_base, tmp_path / "bin", 1)
    torch.save({3: torch.ones(1)}, tmp_path / "bin" / "pytorch_model-00001-of-00001.bin")
    with pytest.raises(CheckpointError, match="张量以外的内容，拒绝加载"):
        load_base_model(tmp_path / "bin")


def test_a_head_that_differs_is_tied_with_a_warning(
    random_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = torch.zeros_like(load_file(random_base / "model.safetensors")[EMBEDDING])
    write_bin_shards(random_base, tmp_path / "bin", 2, {HEAD: head})
    with caplog.at_level(logging.WARNING, logger="bases.chatglm.loading"):
        model = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "bin")
    assert "lm_head 与词嵌入不同" in caplog.text
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    assert model.lm_head.weight.any()


def test_an_untied_config_keeps_its_head(random_base: Path, tmp_path: Path) -> None:
    head = torch.zeros_like(load_file(random_base / "model.safetensors")[EMBEDDING])
    write_bin_shards(random_base, tmp_path / "bin", 2, {HEAD: head})
    config = json.loads((tmp_path / "bin" / "config.json").read_text())
    (tmp_path / "bin" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    model = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "bin")
    assert not model.lm_head.weight.any()
    assert model.transformer.word_embeddings.weight.any()


def test_a_checkpoint_that_holds_the_head_only(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "head")
    state = load_file(tmp_path / "head" / "model.safetensors")
    state[HEAD] = state.pop(EMBEDDING)
    save_file(state, tmp_path / "head" / "model.safetensors")
    model = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "head")
    expected = ChatGLMForConditionalGeneration.from_pretrained(random_base)
    assert torch.equal(logits_of(model), logits_of(expected))
    assert model.base_fingerprint == expected.base_fingerprint


def test_a_head_of_another_vocabulary_is_refused(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "head")
    state = load_file(tmp_path / "head" / "model.safetensors")
    state[HEAD] = state.pop(EMBEDDING)[:-8].clone()
    save_file(state, tmp_path / "head" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head.weight 是"):
        ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "head")


def test_a_shard_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path, **options):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(CheckpointError, match=r"读不了权重文件 .*（Permission denied）"):
        list(loading.read_shard(tmp_path / "pytorch_model.bin"))


class Payload:
    """A pickle that would run a command when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_a_pickle_that_executes_is_refused(random_base: Path, tmp_path: Path) -> None:
    write_bin_shards(random_base, tmp_path / "bin", 1)
    shard = tmp_path / "bin" / "pytorch_model-00001-of-00001.bin"
    for write in (
        lambda: torch.save({"transformer.final_layernorm.bias": Payload(tmp_path / "owned")}, shard),
        lambda: shard.write_bytes(pickle.dumps(Payload(tmp_path / "owned"))),
    ):
        write()
        with pytest.raises(CheckpointError, match="张量以外的内容，拒绝加载"):
            ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "bin")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [{"transformer.final_layernorm.bias": 3}, [torch.ones(1)], "text"])
def test_a_shard_of_other_things_is_refused(random_base: Path, tmp_path: Path, content: object) -> None:
    write_bin_shards(random_base, tmp_path / "bin", 1)
    torch.save(content, tmp_path / "bin" / "pytorch_model-00001-of-00001.bin")
    with pytest.raises(CheckpointError, match="张量以外的内容，拒绝加载"):
        ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "bin")


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_a_damaged_shard_is_named(random_base: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == "bin":
        write_bin_shards(random_base, tmp_path / "model", 1)
        shard = tmp_path / "model" / "pytorch_model-00001-of-00001.bin"
    else:
        shutil.copytree(random_base, tmp_path / "model")
        shard = tmp_path / "model" / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=f"{shard.name}.*已损坏"):
        ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "../secret.bin"}}', "目录之外"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "目录之外"),
        ('{"weight_map": {"a": "absent.bin"}}', "缺少权重文件 absent.bin"),
        ('{"weight_map": 3}', "已损坏"),
        ("not json", "已损坏"),
    ],
)
def test_a_wrong_index_is_refused(random_base: Path, tmp_path: Path, index: str, message: str) -> None:
    write_bin_shards(random_base, tmp_path / "bin", 1)
    (tmp_path / "bin" / "pytorch_model.bin.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("transformer.final_layernorm.bias"), "缺少 1 个参数.*final_layernorm.bias"),
        (lambda state: state.update({"prefix_encoder.x": torch.ones(1)}), "prefix_encoder.x 不属于"),
        (
            lambda state: state.update({"transformer.final_layernorm.bias": torch.ones(7)}),
            r"final_layernorm.bias 是 .*\(7,\)",
        ),
        (
            lambda state: state.update(
                {"transformer.final_layernorm.bias": torch.ones(64, dtype=torch.int32)}
            ),
            "要求浮点数",
        ),
    ],
)
def test_tensors_that_do_not_fit(random_base: Path, tmp_path: Path, change, message: str) -> None:
    shutil.copytree(random_base, tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llama"}, "不是 ChatGLM"),
        ({"hidden_size": 66}, "4 倍的整数倍"),
        ({"num_layers": -1}, "num_layers 必须是大于 0 的整数"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"quantization_bit": 2}, "quantization_bit 应当是 0、4 或 8"),
        ({"position_encoding_2d": False}, "position_encoding_2d"),
        ({"pre_seq_len": "long"}, "pre_seq_len 必须是"),
    ],
)
def test_configs_that_are_refused(random_base: Path, tmp_path: Path, fields: dict, message: str) -> None:
    content = json.loads((random_base / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | fields))
    with pytest.raises(CheckpointError, match=message):
        loading.load_config(tmp_path)


def test_a_config_that_asks_for_terabytes(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "model")
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    for large in ({"vocab_size": 10**12}, {"num_layers": 10**9}):
        (tmp_path / "model" / "config.json").write_text(json.dumps(content | large))
        with pytest.raises(CheckpointError, match="远超 ChatGLM-6B，拒绝加载"):
            ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "model")


def test_a_header_that_lies_about_its_size(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "model")
    shard = tmp_path / "model" / "model.safetensors"
    shard.write_bytes((2**60).to_bytes(8, "little") + shard.read_bytes()[8:])
    with pytest.raises(CheckpointError, match=r"model.safetensors 已损坏"):
        ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "ice_text.model", "model.safetensors"])
def test_a_link_out_of_the_directory(random_base: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(random_base, tmp_path / "model")
    shutil.move(tmp_path / "model" / name, tmp_path / name)
    (tmp_path / "model" / name).symlink_to(tmp_path / name)
    with pytest.raises(CheckpointError, match="指向目录之外的文件，拒绝加载"):
        load_base_model(tmp_path / "model")


def test_the_hub_cache_s_links_are_followed(random_base: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    shutil.copytree(random_base, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / file.name)
    assert load_base_model(snapshot, device="cpu")[0].is_loaded_in_4bit


def test_remote_code_fields_are_dropped(random_base: Path, tmp_path: Path) -> None:
    content = json.loads((random_base / "config.json").read_text())
    content["auto_map"] = {"AutoConfig": "evil.Config"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert not hasattr(loading.load_config(tmp_path), "auto_map")


def test_missing_places(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"没有可读的 config.json"):
        loading.load_config(tmp_path)
    with pytest.raises(CheckpointError, match="没有权重文件"):
        loading.checkpoint_shards(tmp_path)
    with pytest.raises(CheckpointError, match=r"bases.download THUDM/chatglm-6b"):
        loading.resolve_model_dir("THUDM/chatglm-6b-absent")
    with pytest.raises(CheckpointError, match="找不到模型"):
        loading.resolve_model_dir("not//a name")


def test_a_damaged_tokenizer_is_named(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "model")
    (tmp_path / "model" / "ice_text.model").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="分词器无法加载"):
        load_base_model(tmp_path / "model")
    (tmp_path / "model" / "ice_text.model").unlink()
    with pytest.raises(CheckpointError, match=r"缺少分词模型 ice_text.model"):
        load_base_model(tmp_path / "model")


def test_a_tokenizer_of_another_model_is_refused(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "model")
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(content | {"gmask_token_id": 7}))
    with pytest.raises(CheckpointError, match="分词器与模型不配套：gmask_token_id"):
        load_base_model(tmp_path / "model")


def test_load_base_model_defaults(random_base: Path) -> None:
    model, tokenizer = load_base_model(random_base, device="cpu")
    assert model.is_loaded_in_4bit
    assert model.dtype == compute_dtype("cpu")
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert not model.training


def test_published_names_and_size() -> None:
    """The names that the published index lists: 28 layers of 12 tensors, embedding, final norm and head."""
    config = ChatGLMConfig()
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    layer = ["input_layernorm", "attention.query_key_value", "attention.dense"]
    layer += ["post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]
    expected = {HEAD, EMBEDDING, "transformer.final_layernorm.weight", "transformer.final_layernorm.bias"}
    expected |= {
        f"transformer.layers.{i}.{name}.{kind}"
        for i in range(28)
        for name in layer
        for kind in ("weight", "bias")
    }
    assert set(model.state_dict()) == expected
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == config.parameter_count() == 6173286400
    )


@pytest.mark.skipif("CHATGLM_6B_DIR" not in os.environ, reason="CHATGLM_6B_DIR names no published directory")
def test_names_of_the_published_index() -> None:
    directory = Path(os.environ["CHATGLM_6B_DIR"])
    index = json.loads((directory / "pytorch_model.bin.index.json").read_text())["weight_map"]
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(loading.load_config(directory))
    assert {name for name in index if "rotary_emb.inv_freq" not in name} == set(model.state_dict())

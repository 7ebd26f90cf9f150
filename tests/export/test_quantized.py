"""The 4-bit copy of a model: bit-identical after reloading, adapters move both ways, damage is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bases import linear4bit
from bases.adapter import AdapterMeta, attach_lora, load_adapter, write_adapter_files
from bases.chatglm import ChatGLMModel, CheckpointError, load_base_model
from bases.lora_product import shorten_lora
from export import four_bit, quantized
from export.four_bit import save_quantized
from glm_config import ProjectConfig
from training.checks import PASSED
from training.device_checks import check_model
from utils.common_utils import UserError
from utils.directories import find_damage, write_directory

LAYER = "transformer.layers.1.attention.query_key_value.weight"
STATE = LAYER + linear4bit.STATE_SUFFIX


def load(directory: Path, dtype: torch.dtype = torch.bfloat16, **options):
    return load_base_model(directory, dtype=dtype, device="cpu", **options)


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.tensor([[11, 12, 13, model.config.gmask_token_id, model.config.bos_token_id]])
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def parameter_bytes(model: torch.nn.Module) -> dict[str, tuple]:
    """Everything that a model is made of, quantisation states included, by name."""
    found = {}
    for name, parameter in model.named_parameters():
        raw = parameter.detach().contiguous().flatten().view(torch.uint8).tolist()
        state = getattr(parameter, "quant_state", None)
        parts = {} if state is None else state.as_dict()
        described = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in parts.items()}
        found[name] = (parameter.dtype, tuple(parameter.shape), raw, described)
    return found


@pytest.fixture(scope="module")
def original(random_base: Path):
    return load(random_base)


@pytest.fixture
def copy(original, tmp_path: Path) -> Path:
    directory = tmp_path / "copy"
    directory.mkdir()
    save_quantized(*original, directory)
    return directory


def change_file(directory: Path, change) -> None:
    state = load_file(directory / "model.safetensors")
    change(state)
    save_file(state, directory / "model.safetensors")


def test_reloading_gives_the_same_bits(original, copy: Path) -> None:
    model, tokenizer = load(copy)
    assert parameter_bytes(model) == parameter_bytes(original[0])
    assert torch.equal(logits_of(model), logits_of(original[0]))
    assert model.base_fingerprint == original[0].base_fingerprint
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.encode("张三出生于 1990 年。") == original[1].encode("张三出生于 1990 年。")
    assert (copy / "ice_text.model").read_bytes() == Path(original[1].vocab_file).read_bytes()


def test_nothing_is_quantised_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes

    def refuse(*args, **kwargs):
        raise AssertionError("quantised again")

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", refuse)
    assert load(copy)[0].is_loaded_in_4bit


def test_a_copy_of_the_copy_is_the_same(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    save_quantized(*load(copy), tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (copy / name).read_bytes()


def test_several_shards(original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(four_bit, "MAX_SHARD_BYTES", 15_000)
    save_quantized(*original, tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    assert parameter_bytes(load(tmp_path)[0]) == parameter_bytes(original[0])


def test_the_files_are_what_bitsandbytes_names(original, copy: Path) -> None:
    stored, expected = load_file(copy / "model.safetensors"), original[0].state_dict()
    expected.pop("lm_head.weight")
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) for name in stored)


def test_a_smaller_file_than_half_precision(copy: Path, random_base: Path) -> None:
    sizes = [
        sum(
            tensor.numel() * tensor.element_size()
            for name, tensor in load_file(directory / "model.safetensors").items()
            if ".layers." in name
        )
        for directory in (copy, random_base)
    ]
    assert sizes[0] < sizes[1] / 2.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_another_type_than_it_was_saved_in(copy: Path, dtype: torch.dtype) -> None:
    model, _ = load(copy, dtype=dtype)
    floating = {p.dtype for p in model.parameters() if not hasattr(p, "quant_state")}
    assert floating == {dtype}
    assert {p.quant_state.dtype for p in model.parameters() if hasattr(p, "quant_state")} == {dtype}
    cosine = torch.cosine_similarity(logits_of(model).flatten(), logits_of(load(copy)[0]).flatten(), dim=0)
    assert cosine > 0.999


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float16, torch.float32])
def test_the_bytes_can_be_declared_as_another_type(
    original, copy: Path, random_base: Path, tmp_path: Path, storage: torch.dtype
) -> None:
    for directory in (copy, random_base):
        model, _ = load(directory, quant_storage=storage)
        assert {p.dtype for p in model.parameters() if hasattr(p, "quant_state")} == {storage}
        assert torch.equal(logits_of(model), logits_of(original[0]))
    (tmp_path / "again").mkdir()
    save_quantized(*load(copy, quant_storage=storage), tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        copy / "model.safetensors"
    ).read_bytes()


def test_the_model_without_its_head(copy: Path, original) -> None:
    model = ChatGLMModel.from_pretrained(copy, dtype=torch.bfloat16, load_in_4bit=True)
    ids = torch.tensor([[11, model.config.gmask_token_id, model.config.bos_token_id]])
    expected = original[0].transformer(ids).last_hidden_state
    assert torch.equal(model(ids).last_hidden_state, expected)


def test_an_untied_head_is_kept(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "untied")
    change_file(
        tmp_path / "untied",
        lambda state: state.update(
            {"lm_head.weight": torch.zeros_like(state["transformer.word_embeddings.weight"])}
        ),
    )
    config = json.loads((tmp_path / "untied" / "config.json").read_text())
    (tmp_path / "untied" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    (tmp_path / "copy").mkdir()
    untied = load(tmp_path / "untied")
    save_quantized(*untied, tmp_path / "copy")
    model, _ = load(tmp_path / "copy")
    assert not model.lm_head.weight.any()
    assert model.base_fingerprint == untied[0].base_fingerprint
    ChatGLMModel.from_pretrained(tmp_path / "copy", load_in_4bit=True)  # whose copy of the head is left out


@pytest.mark.parametrize("trained_on", ["original", "copy"])
def test_adapters_move_both_ways(random_base: Path, copy: Path, tmp_path: Path, trained_on: str) -> None:
    places = {"original": random_base, "copy": copy}
    base, _ = load(places[trained_on])
    shape = {"rank": 2, "alpha": 4, "target_modules": ["query_key_value"]}
    trained = attach_lora(base, dropout=0.0, **shape)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    (tmp_path / "adapter").mkdir()
    meta = AdapterMeta(trained.base_fingerprint, "", 10, 10)
    write_adapter_files(trained, tmp_path / "adapter", meta, {}, {})
    shorten_lora(trained)  # as training does
    other, _ = load(places["copy" if trained_on == "original" else "original"])
    used = load_adapter(other, tmp_path / "adapter")
    assert torch.equal(logits_of(used), logits_of(trained.eval()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(LAYER), f"缺少 1 个参数，例如 {LAYER}"),
        (lambda state: state.pop(LAYER + ".absmax"), f"缺少 1 个参数，例如 {LAYER}.absmax"),
        (lambda state: state.pop(STATE), "缺少 1 个参数.*nf4"),
        (lambda state: state.update({LAYER + ".more": torch.ones(1)}), "more 不属于"),
        (lambda state: state.update({LAYER: state[LAYER][:-1].clone()}), "query_key_value.weight 是 .*要求"),
        (lambda state: state.update({LAYER: state[LAYER].to(torch.int16)}), "int16.*要求torch.uint8"),
        (lambda state: state.update({LAYER + ".absmax": torch.ones(1, dtype=torch.uint8)}), "absmax 是"),
        (lambda state: state.update({LAYER + ".quant_map": torch.ones(15)}), "quant_map 是"),
        (lambda state: state.update({LAYER + ".nested_quant_map": torch.ones(9)}), "nested_quant_map 是"),
        (lambda state: state.update({STATE: torch.ones(3, 3, dtype=torch.uint8)}), "要求torch.uint8 一维"),
        (lambda state: state[LAYER].add_(1), "与量化时写下的不同"),
        (lambda state: state["transformer.final_layernorm.bias"].add_(1), "与量化时写下的不同"),
    ],
)
def test_tensors_that_do_not_fit(copy: Path, change, message: str) -> None:
    change_file(copy, change)
    with pytest.raises(CheckpointError, match=message):
        load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_type": "fp4"}, "量化参数不是"),
        ({"blocksize": 4096}, "量化参数不是"),
        ({"shape": [1 << 20, 1 << 20]}, "量化参数不是"),
        ({"nested_dtype": "__class__"}, "量化参数不是"),
        ({"nested_offset": "1"}, "nested_offset"),
        ({"nested_offset": float("nan")}, "nested_offset"),
        (None, "不是 JSON"),
    ],
)
def test_a_state_that_describes_another_weight(copy: Path, change: dict | None, message: str) -> None:
    def replace(state: dict[str, torch.Tensor]) -> None:
        content = json.loads(bytes(state[STATE].tolist()))
        text = "{" * 9999 if change is None else json.dumps(content | change)
        state[STATE] = torch.tensor(list(text.encode()), dtype=torch.uint8)

    change_file(copy, replace)
    with pytest.raises(CheckpointError, match=f"query_key_value.weight 已损坏：.*{message}"):
        load(copy)


def test_every_byte_of_a_copy_counts(copy: Path, tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state[LAYER][2000] ^= 1  # far from both ends, where the quick fingerprint looks

    old = shutil.copytree(copy, tmp_path / "old")
    change_file(copy, change)
    with pytest.raises(CheckpointError, match="与量化时写下的不同"):
        load(copy)
    content = json.loads((old / "config.json").read_text())
    del content["quantization_config"]["files"]  # as copies had it before
    (old / "config.json").write_text(json.dumps(content))
    assert load(old)[0].is_loaded_in_4bit


def test_a_copy_s_statement_of_its_source_is_said_to_be_unchecked(
    random_base: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, _ = load(random_base)
    trained = attach_lora(base, rank=2, alpha=4, dropout=0.0, target_modules=["query_key_value"])
    meta = AdapterMeta(trained.base_fingerprint, "", 10, 10)
    adapter = tmp_path / "adapter"
    write_directory(adapter, lambda new: write_adapter_files(trained, new, meta, {}, {}))
    load_adapter(load(copy)[0], adapter)
    assert "是量化副本，它由哪个模型而来，只有它自己的说明为凭" in capsys.readouterr().err
    content = json.loads((copy / "config.json").read_text())
    source = content["quantization_config"]["source_files"]["model.safetensors"]
    assert source["size"] == (random_base / "model.safetensors").stat().st_size
    source["sha256"] = "0" * 64  # made of other weights, it says
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"config\.json 写明的来源 model\.safetensors 与训练适配器"):
        load_adapter(load(copy)[0], adapter)


def test_a_copy_with_nan(copy: Path) -> None:
    change_file(copy, lambda state: state[LAYER + ".quant_map"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"query_key_value.weight 已损坏：量化参数里有 NaN"):
        load(copy)


def test_half_precision_of_a_copy_is_refused(copy: Path) -> None:
    with pytest.raises(CheckpointError, match="4-bit 量化副本，不能按半精度加载；请打开 load_in_4bit"):
        load(copy, load_in_4bit=False)


@pytest.mark.parametrize(
    "change",
    [{"bnb_4bit_quant_type": "fp4"}, {"quant_method": "gptq"}, {"base_fingerprint": None}],
)
def test_other_quantisations_are_refused(copy: Path, change: dict) -> None:
    content = json.loads((copy / "config.json").read_text())
    note = content["quantization_config"] | change
    (copy / "config.json").write_text(json.dumps(content | {"quantization_config": note}))
    with pytest.raises(CheckpointError, match="不是本项目写的 4-bit 量化"):
        load(copy)


def test_only_a_4bit_model_without_adapter_is_saved(random_base: Path, tmp_path: Path) -> None:
    half, tokenizer = load(random_base, load_in_4bit=False)
    with pytest.raises(ValueError, match="needs a 4-bit model"):
        save_quantized(half, tokenizer, tmp_path)
    model, tokenizer = load(random_base)
    peft_model = attach_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=["dense"])
    with pytest.raises(ValueError, match="without an adapter"):
        save_quantized(peft_model, tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_check_passes_it(copy: Path) -> None:
    config = ProjectConfig()
    config.pre_model = str(copy)
    rows = {row.item: row for row in check_model(config)}
    assert rows["模型"].status == rows["分词器"].status == PASSED
    change_file(copy, lambda state: state.pop("transformer.word_embeddings.weight"))
    with pytest.raises(CheckpointError, match="的权重缺少 1 个参数"):
        next(iter(check_model(config)))


# ---- the command


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "export.quantized", *arguments], cwd=root, capture_output=True, text=True
    )


def test_the_command(root: Path, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "new" / "copy"
    result = run(root, "--pre_model", str(random_base), "--output", str(output), "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{output}\n"
    assert find_damage(output) is None
    assert [path.name for path in output.parent.iterdir()] == ["copy"]
    model, _ = load(output, dtype=torch.float16)
    expected, _ = load(random_base, dtype=torch.float16)
    assert parameter_bytes(model) == parameter_bytes(expected)
    for source, target, said in (
        (random_base, output, "已存在且不是空目录"),
        (output, tmp_path / "other", "已经是量化过的模型"),
        (tmp_path / "absent", tmp_path / "other", "找不到模型"),
    ):
        monkeypatch.setattr(sys, "argv", ["q", "--pre_model", str(source), "--output", str(target)])
        with pytest.raises(UserError, match=said):
            quantized.convert()


def test_a_full_disk_leaves_nothing(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    output = str(tmp_path / "copy")
    monkeypatch.setattr(sys, "argv", ["quantized", "--pre_model", str(random_base), "--output", output])
    with pytest.raises(SystemExit) as left:
        quantized.main()
    captured = capsys.readouterr()
    assert left.value.code == 2
    assert "磁盘只剩 0.0 GB" in captured.err and captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_loads_no_torch(root: Path) -> None:
    result = run(root, "--help")
    assert result.returncode == 0 and "--pre_model" in result.stdout
    code = "import sys, export.quantized as q; q.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0

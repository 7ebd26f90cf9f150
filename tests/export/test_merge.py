"""Adapters merged into their base: equal answers, shards one at a time, resumable, and what is refused."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import inference_triplet
from bases import CheckpointError, check_model_dir, find_family
from bases.adapter import AdapterMeta, attach_lora, load_adapter, write_adapter_files
from bases.causal.loading import load_model
from bases.chatglm import load_base_model, row_scaled
from bases.chatglm.anatomy import EMBEDDING, HEAD, PREFIX, is_linear_layer
from export import four_bit, shards
from export import merge as command
from export.merging import merge
from extraction.adapters import find_merged
from tests.helpers import published_shapes as shapes
from tests.helpers.extraction_samples import FILM, TinyRun
from utils.common_utils import UserError
from utils.directories import find_damage

SHARD = 40_000  # bytes
ALL = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]


def load(directory: Path, **options: Any) -> tuple[Any, Any]:
    return load_base_model(
        directory, **{"load_in_4bit": False, "dtype": torch.float32, "device": "cpu"} | options
    )


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.tensor([[11, 12, 13, model.config.gmask_token_id, model.config.bos_token_id, 14]])
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in sorted(directory.glob("*.safetensors")) for k, v in load_file(file).items()}


def make_adapter(base: Path, directory: Path, targets: list[str], scale: float = 0.3) -> Path:
    """Write an adapter with random weights in both factors."""
    model, _ = load(base)
    trained = attach_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=targets)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    directory.mkdir()
    write_adapter_files(trained, directory, AdapterMeta(model.base_fingerprint, str(base), 10, 10), {}, {})
    return directory


@pytest.fixture(scope="module")
def adapter(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(random_base, tmp_path_factory.mktemp("adapters") / "all", ALL)


@pytest.fixture(scope="module")
def merged(random_base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("merged") / "model"
    merge(adapter, directory, pre_model=str(random_base), max_shard_size=SHARD)
    return directory


def test_logits_are_the_adapters(random_base: Path, adapter: Path, merged: Path) -> None:
    expected = logits_of(load_adapter(load(random_base)[0], adapter))
    bare, ours = logits_of(load(random_base)[0]), logits_of(load(merged)[0])
    assert (ours - expected).abs().max() < 2e-3 * expected.abs().max()  # each weight rounded to half once
    assert (bare - expected).abs().max() > 0.05 * expected.abs().max()


def test_weights_are_summed_in_fp32_and_rounded_once(random_base: Path, adapter: Path, merged: Path) -> None:
    before, after = load_file(random_base / "model.safetensors"), weights_of(merged)
    lora = load_file(adapter / "adapter_model.safetensors")
    assert after.keys() == before.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all(is_linear_layer(name.removesuffix(".weight")) for name in changed)
    assert len(changed) == 8
    for name in changed:
        path = f"base_model.model.{name.removesuffix('weight')}"
        exact = (
            before[name].double()
            + 2 * lora[path + "lora_B.weight"].double() @ lora[path + "lora_A.weight"].double()
        )
        assert after[name].dtype == torch.float16
        assert (after[name].double() - exact).abs().max() <= exact.abs().max() * 2**-11


def test_files_are_those_of_a_published_model(random_base: Path, merged: Path) -> None:
    index = json.loads((merged / "model.safetensors.index.json").read_text())
    files = sorted(merged.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)
    ]
    assert len(files) > 3
    stored = {file.name: load_file(file) for file in files}
    assert index["weight_map"] == {name: file for file, content in stored.items() for name in content}
    sizes = {
        name: sum(t.numel() * t.element_size() for t in content.values()) for name, content in stored.items()
    }
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert all(size <= SHARD or len(stored[name]) == 1 for name, size in sizes.items())
    for name in ("config.json", "tokenizer_config.json", "ice_text.model"):
        assert (merged / name).read_bytes() == (random_base / name).read_bytes()
    assert find_damage(merged) is None
    assert not [path for path in merged.parent.iterdir() if path.name.startswith(".")]


def test_the_base_of_training_is_found_and_files_are_few(adapter: Path, merged: Path, tmp_path: Path) -> None:
    merge(adapter, tmp_path / "one", max_shard_size=2 * 10**9)
    assert [path.name for path in tmp_path.glob("one/*.safetensors*")] == ["model.safetensors"]
    ours, theirs = weights_of(tmp_path / "one"), weights_of(merged)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_base_of_bin_shards_with_its_head(
    random_base: Path, adapter: Path, merged: Path, tmp_path: Path
) -> None:
    state = shapes.take_weights(random_base, tmp_path / "base")
    state[HEAD] = state[EMBEDDING].clone()
    torch.save(state, tmp_path / "base" / "pytorch_model.bin")
    (tmp_path / "base" / "modeling_chatglm.py").write_text("raise SystemExit('executed')")
    merge(adapter, tmp_path / "out", pre_model=str(tmp_path / "base"), max_shard_size=10**9)
    ours = weights_of(tmp_path / "out")
    assert torch.equal(ours.pop(HEAD), ours[EMBEDDING])
    assert all(torch.equal(tensor, ours[name]) for name, tensor in weights_of(merged).items())
    assert not list((tmp_path / "out").glob("*.py"))
    assert torch.equal(logits_of(load(tmp_path / "out")[0]), logits_of(load(merged)[0]))


def test_a_base_published_in_int4(random_base: Path, tmp_path: Path) -> None:
    base = shapes.make_int(random_base, tmp_path / "int4", 4)
    own = make_adapter(base, tmp_path / "adapter", ["dense"])
    merge(own, tmp_path / "out", max_shard_size=10**9)
    expected, model = load_adapter(load(base)[0], own), load(tmp_path / "out")[0]
    assert (logits_of(model) - logits_of(expected)).abs().max() < 2e-3 * logits_of(expected).abs().max()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_bit"] == 0


# ---- killed, and begun again


class Killed(BaseException):
    pass


def test_a_run_that_was_killed_goes_on(
    random_base: Path, adapter: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []

    def save(parts: dict[str, torch.Tensor], path: Path, **options: Any) -> None:
        original(parts, path, **options)
        saved.append(path.name)
        if len(saved) == 3:
            path.write_bytes(path.read_bytes()[:1000])
            raise Killed

    original = shards.save_file
    monkeypatch.setattr(shards, "save_file", save)
    with pytest.raises(Killed):
        merge(adapter, tmp_path / "out", pre_model=str(random_base), max_shard_size=SHARD)
    assert not (tmp_path / "out").exists()
    work = tmp_path / ".out.merging"
    first = work / saved[0].removesuffix(".part")
    first.write_bytes(first.read_bytes()[:-1] + b"\xff")  # and the disk lost a byte of what was finished
    merge(adapter, tmp_path / "out", pre_model=str(random_base), max_shard_size=SHARD)
    assert saved.count(saved[0]) == 2 and saved.count(saved[1]) == 1 and saved.count(saved[2]) == 2
    for file in merged.glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_another_job_does_not_take_its_shards(
    random_base: Path, adapter: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_adapter(random_base, tmp_path / "other", ["dense"])
    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardPlan, "weight_index", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            merge(other, tmp_path / "out", pre_model=str(random_base), max_shard_size=SHARD)
    merge(adapter, tmp_path / "out", pre_model=str(random_base), max_shard_size=SHARD)
    ours = weights_of(tmp_path / "out")
    assert all(torch.equal(ours[name], tensor) for name, tensor in weights_of(merged).items())


def test_what_others_have_at_the_place_of_work_stays(
    random_base: Path, adapter: Path, tmp_path: Path
) -> None:
    work = tmp_path / ".out.merging"
    work.mkdir()
    (work / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match=r"不是合并时写的东西（diary\.txt）"):
        merge(adapter, tmp_path / "out", pre_model=str(random_base), max_shard_size=SHARD)
    assert (work / "diary.txt").read_text() == "mine"
    (work / "diary.txt").unlink()
    work.rmdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("mine")
    work.symlink_to(tmp_path / "home")
    merge(adapter, tmp_path / "out", pre_model=str(random_base), max_shard_size=SHARD)
    assert (tmp_path / "home" / "diary.txt").read_text() == "mine"


def test_at_most_one_shard_is_held(
    random_base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier: list[weakref.ref] = []

    def save(parts: dict[str, torch.Tensor], path: Path, **options: Any) -> None:
        assert not [1 for reference in earlier if reference() is not None], "an earlier shard is still held"
        earlier.extend(weakref.ref(tensor) for tensor in parts.values())
        original(parts, path, **options)

    original = shards.save_file
    monkeypatch.setattr(shards, "save_file", save)
    merge(adapter, tmp_path / "out", pre_model=str(random_base), max_shard_size=SHARD)
    assert len(earlier) > 20


# ---- quantised


@pytest.mark.parametrize("bits", row_scaled.BITS)
def test_the_published_layouts(
    random_base: Path, adapter: Path, merged: Path, tmp_path: Path, bits: int
) -> None:
    merge(adapter, tmp_path / "out", pre_model=str(random_base), max_shard_size=50_000, quantise=f"int{bits}")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["quantization_bit"], config["quantization_embeddings"]) == (bits, False)
    stored = weights_of(tmp_path / "out")
    for name, tensor in weights_of(merged).items():
        if not is_linear_layer(name.removesuffix(".weight")):
            assert torch.equal(stored.pop(name), tensor)
            continue
        numbers, scale = shapes.quantise(tensor, bits)
        assert torch.equal(stored.pop(name), numbers) and torch.equal(stored.pop(name + "_scale"), scale)
    assert not stored
    cosine = torch.cosine_similarity(
        logits_of(load(tmp_path / "out")[0]).flatten(), logits_of(load(merged)[0]).flatten(), dim=0
    )
    assert cosine > (0.9 if bits == 4 else 0.999)


def test_the_4bit_copy(random_base: Path, adapter: Path, merged: Path, tmp_path: Path) -> None:
    merge(adapter, tmp_path / "out", pre_model=str(random_base), max_shard_size=10**9, quantise="nf4")
    copy, half = (load(directory, load_in_4bit=True)[0] for directory in (tmp_path / "out", merged))
    assert copy.base_fingerprint == half.base_fingerprint
    assert torch.equal(logits_of(copy), logits_of(half))
    assert find_merged(str(tmp_path / "out")) == tmp_path / "out"  # how it was trained goes along
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


# ---- refused


def test_bases_that_an_adapter_is_not_merged_into(random_base: Path, adapter: Path, tmp_path: Path) -> None:
    merge(adapter, tmp_path / "4bit", pre_model=str(random_base), max_shard_size=10**9, quantise="nf4")
    with pytest.raises(CheckpointError, match=r"是 4-bit 量化副本.*--pre_model 指定量化前的基座"):
        merge(adapter, tmp_path / "out", pre_model=str(tmp_path / "4bit"), max_shard_size=10**9)
    shutil.copytree(random_base, tmp_path / "swapped")
    state = load_file(tmp_path / "swapped" / "model.safetensors")
    state["transformer.layers.0.attention.dense.weight"][0, 0] += 1
    shards.save_file(state, tmp_path / "swapped" / "model.safetensors")
    with pytest.raises(UserError, match="在另一个基座模型"):
        merge(adapter, tmp_path / "out", pre_model=str(tmp_path / "swapped"), max_shard_size=10**9)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.merging").exists()


def test_adapters_that_can_not_be_merged(random_base: Path, adapter: Path, tmp_path: Path) -> None:
    def changed(**fields: Any) -> Path:
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        shutil.copytree(adapter, tmp_path / "changed")
        shapes.change_json(tmp_path / "changed" / "adapter_config.json", **fields)
        return tmp_path / "changed"

    def refused(directory: Path, message: str) -> None:
        with pytest.raises(UserError, match=message):
            merge(directory, tmp_path / "out", pre_model=str(random_base), max_shard_size=10**9)

    refused(changed(target_modules=["q_proj"]), "target_modules 里的 q_proj 在基座的权重里没有")
    refused(changed(r=3), "权重形状与当前的 LoRA 参数不符")
    refused(changed(r=10**9), "比模型的线性层 .* 还大")
    refused(changed(use_dora=True), "不支持的设置：use_dora")
    refused(changed(target_modules=["dense"]), "权重与当前的 LoRA 模块不符")
    huge = make_adapter(random_base, tmp_path / "huge", ["dense"], scale=1e7)
    refused(huge, r"dense.weight 合并之后超出了 torch.float16 的范围")


def test_the_command_refuses_what_is_there(
    random_base: Path,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["merge", "--adapter", str(adapter), *words])
        with pytest.raises(SystemExit) as left:
            command.main()
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    before = {path: path.read_bytes() for path in random_base.iterdir()}
    code, out, err = run("--output", str(random_base))
    assert (code, out) == (2, "") and "已存在且不是空目录" in err
    assert {path: path.read_bytes() for path in random_base.iterdir()} == before
    code, out, err = run("--output", str(tmp_path / "out"), "--max_shard_size", "huge")
    assert (code, out) == (2, "") and "'huge' 不是大小，应写成 2GB、500MB 这样" in err
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, out, err = run("--output", str(tmp_path / "out"))
    assert (code, out) == (2, "") and "磁盘只剩 0.0 GB，还要写" in err
    monkeypatch.undo()
    code, out, err = run("--output", str(tmp_path / "out"), "--max_shard_size", "0.1MB")
    assert (code, out) == (0, f"{tmp_path / 'out'}\n")
    check_model_dir(tmp_path / "out")


# ---- prefixes, and what a merged model is to the other commands


def test_a_prefix_and_its_base_become_one_model(random_base: Path, tmp_path: Path) -> None:
    whole = shapes.make_prefix(random_base, tmp_path / "whole", 4, projection=True)
    alone = shapes.make_prefix(random_base, tmp_path / "alone", 4, projection=True, whole=False)
    with pytest.raises(UserError, match="要用 --pre_model 指定基座"):
        merge(alone, tmp_path / "out", max_shard_size=10**9)
    merge(alone, tmp_path / "out", pre_model=str(random_base), max_shard_size=10**9)
    ours, theirs = load(tmp_path / "out")[0], load(whole)[0]
    assert ours.base_fingerprint == theirs.base_fingerprint
    assert torch.equal(logits_of(ours), logits_of(theirs))
    torch.save(torch.load(whole / "pytorch_model.bin"), alone / "pytorch_model.bin")
    with pytest.raises(UserError, match="除了前缀还有"):
        merge(alone, tmp_path / "again", pre_model=str(random_base), max_shard_size=10**9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: next(iter(state.values())).view(-1)[:1].fill_(torch.nan), "有 NaN 或无穷大，没有合并"),
        (
            lambda state: state.update({key: part[:1].clone() for key, part in state.items()}),
            "合并不成：.*要求",
        ),
        (
            lambda state: state.update({f"{PREFIX}x{n}": torch.zeros(1) for n in range(2000)}),
            "合并不成：.*x0",
        ),
    ],
)
def test_a_forged_prefix_leaves_nothing(random_base: Path, tmp_path: Path, change: Any, message: str) -> None:
    prefix = shapes.make_prefix(random_base, tmp_path / "prefix", 4, projection=True, whole=False)
    state = torch.load(prefix / "pytorch_model.bin")
    change(state)
    torch.save(state, prefix / "pytorch_model.bin")
    with pytest.raises(UserError, match=message):
        merge(prefix, tmp_path / "out", pre_model=str(random_base), max_shard_size=10**9)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_takes_no_more(random_base: Path, adapter: Path, tmp_path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"没有写成 .*：File too large"):
            merge(adapter, tmp_path / "out", pre_model=str(random_base), max_shard_size=10**9)
        with pytest.raises(UserError, match=r"没有写成 .*：File too large"):
            four_bit.quantise(str(random_base), tmp_path / "copy", "float16", "cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out").exists() and not (tmp_path / "copy").exists()
    merge(adapter, tmp_path / "out", pre_model=str(random_base), max_shard_size=10**9)


def test_a_base_with_nan_is_not_merged(random_base: Path, adapter: Path, tmp_path: Path) -> None:
    base = shutil.copytree(random_base, tmp_path / "base")
    (file,) = base.glob("*.safetensors")
    state = load_file(file)
    next(part for name, part in state.items() if "layernorm" in name).fill_(torch.nan)
    save_file(state, file, metadata={"format": "pt"})
    prefix = shapes.make_prefix(random_base, tmp_path / "prefix", 4, projection=False, whole=False)
    with pytest.raises(UserError, match="有 NaN 或无穷大，没有合并"):
        merge(prefix, tmp_path / "out", pre_model=str(base), max_shard_size=10**9)
    assert not (tmp_path / "out").exists()


def test_a_merged_model_extracts_as_its_adapter_did(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge(tiny_run.adapter, tmp_path / "out", max_shard_size=10**9)
    answers = []
    for words in (["--adapter", str(tiny_run.adapter)], ["--pre_model", str(tmp_path / "out")]):
        assert inference_triplet.main(["--text", FILM, "--device", "cpu", *words]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] and len(answers[0]) == 3


def test_the_fingerprint_is_the_loaded_models(random_base: Path, merged: Path, tmp_path: Path) -> None:
    for directory in (
        random_base,
        merged,
        shapes.make_int(random_base, tmp_path / "int4", 4, embeddings=True),
    ):
        stored = find_family(directory).stored_weights(directory)
        assert stored.fingerprint() == load(directory)[0].base_fingerprint
        read = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in stored.read()}
        assert list(read) == list(stored.notes) and read == stored.notes


# ---- models of transformers


@pytest.mark.parametrize("model_type", ["qwen3", "llama", "gemma3_text"])
def test_a_causal_model_is_plain_transformers_afterwards(tmp_path: Path, model_type: str) -> None:
    from transformers import AutoModelForCausalLM

    from tests.helpers.causal_bases import make_base

    base = make_base(tmp_path / "base", model_type)
    family = find_family(base)
    model, _ = family.load(base, load_in_4bit=False, dtype=torch.float32, device="cpu")
    assert family.stored_weights(base).fingerprint() == model.base_fingerprint
    trained = attach_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=["q_proj", "down_proj"])
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    (tmp_path / "adapter").mkdir()
    meta = AdapterMeta(model.base_fingerprint, str(base), 10, 10)
    write_adapter_files(trained.eval(), tmp_path / "adapter", meta, {}, {})
    merge(tmp_path / "adapter", tmp_path / "out", max_shard_size=20_000)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        expected = trained(input_ids=ids).logits
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(
            input_ids=ids
        ).logits
        bare = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(input_ids=ids).logits
        again, _ = family.load(tmp_path / "out", load_in_4bit=False, dtype=torch.float32, device="cpu")
        here = again(input_ids=ids).logits
    assert (plain - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (here - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (bare - expected).abs().max() > 1e-2 * expected.abs().max()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    with pytest.raises(UserError, match="--quantise int4 只用于 ChatGLM-6B"):
        merge(tmp_path / "adapter", tmp_path / "int4", max_shard_size=10**9, quantise="int4")


def test_glm_as_published_keeps_its_fused_tensors(tmp_path: Path) -> None:
    """ChatGLM2, ChatGLM3, GLM-4-9B: query, key and value lie in one tensor, LoRA beside each of them."""
    from export.deltas import LoraDelta
    from tests.bases.causal.test_published import CONFIG, published_weights
    from tests.helpers.causal_bases import byte_level, write_tokenizer

    def write(directory: Path, state: dict[str, torch.Tensor]) -> Path:
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(CONFIG))
        write_tokenizer(directory, byte_level())
        shards.save_file(state, directory / "model.safetensors")
        return directory

    def model_of(directory: Path) -> Any:
        options = {
            "dtype": torch.float32,
            "load_in_4bit": False,
            "quant_storage": torch.uint8,
            "device": "cpu",
        }
        return load_model(directory, find_family(directory).load_config(directory), **options)

    base = write(tmp_path / "base", published_weights())
    stored = find_family(base).stored_weights(base)
    model = model_of(base)
    assert stored.fingerprint() == model.base_fingerprint
    trained = attach_lora(
        model, rank=2, alpha=4, dropout=0.0, target_modules=["q_proj", "v_proj", "down_proj"]
    )
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    (tmp_path / "adapter").mkdir()
    write_adapter_files(
        trained.eval(), tmp_path / "adapter", AdapterMeta(model.base_fingerprint, "", 10, 10), {}, {}
    )
    delta = LoraDelta(tmp_path / "adapter", stored, base)
    merged = write(tmp_path / "merged", {name: delta.apply(name, tensor) for name, tensor in stored.read()})
    ids = torch.tensor([[5, 17, 42, 99]])
    with torch.no_grad():
        expected, ours = trained(input_ids=ids).logits, model_of(merged)(input_ids=ids).logits
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()
    before, after = published_weights(), weights_of(merged)
    fused = "transformer.encoder.layers.0.self_attention.query_key_value.weight"
    same = (before[fused] == after[fused]).all(dim=1)
    assert same[64:96].all() and not same[:64].any() and not same[96:].any()  # key; query and value

"""Adapters: what is saved comes back, their base is found again, and what a stranger's file may not do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bases import adapter, adapter_files
from bases.chatglm import load_base_model
from utils import directories as checkpoint
from utils.common_utils import UserError

META = {"max_source_seq_len": 256, "max_target_seq_len": 128, "pre_model": "base"}


@pytest.fixture(scope="module")
def saved(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose LoRA weights change the output."""
    directory = tmp_path_factory.mktemp("adapter")
    base, _ = load_base_model(random_base, device="cpu")
    meta = adapter.AdapterMeta(base_fingerprint=base.base_fingerprint, **META)
    model = adapter.attach_lora(
        base, rank=4, alpha=8, dropout=0.0, target_modules=["query_key_value", "dense"]
    )
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    adapter.write_adapter_files(model, directory, meta, {"batch_size": 1}, {"combinations": []})
    return directory


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def load(random_base: Path, directory: Path) -> torch.nn.Module:
    return adapter.load_adapter(load_base_model(random_base, device="cpu")[0], directory)


def test_an_adapter_comes_back_the_same(random_base: Path, saved: Path) -> None:
    model = load(random_base, saved)
    stored = load_file(saved / "adapter_model.safetensors")
    loaded = {
        name.replace(".default", ""): value for name, value in model.state_dict().items() if "lora_" in name
    }
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())
    assert not model.training
    assert adapter.read_adapter_json(saved, adapter.CONFIG_FILE) == {"batch_size": 1}
    assert not (saved / "README.md").exists()


def test_the_file_holds_lora_weights_only(saved: Path) -> None:
    names = load_file(saved / "adapter_model.safetensors")
    assert all("lora_A" in name or "lora_B" in name for name in names)
    assert len(names) == 2 * 2 * 2  # layers, modules named dense are only attention's; A and B


def test_another_base_is_refused(saved: Path, random_base: Path) -> None:
    base, _ = load_base_model(random_base, device="cpu")
    base.base_fingerprint = "another"
    with pytest.raises(UserError, match="另一个基座模型（base）"):
        adapter.load_adapter(base, saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_template": "{instruction}{sentence}"}, "另一种提示词模板"),
        ({"format_version": 99}, "格式版本不是 1"),
        ({"surprise": 1}, "字段不对"),
    ],
)
def test_a_meta_that_does_not_agree(random_base: Path, copy: Path, changes: dict, message: str) -> None:
    content = json.loads((copy / adapter.META_FILE).read_text(encoding="utf-8"))
    (copy / adapter.META_FILE).write_text(json.dumps(content | changes), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load(random_base, copy)


def test_files_that_are_missing_or_damaged(random_base: Path, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"找不到适配器.*python train.py"):
        adapter.load_adapter_meta(tmp_path / "absent")
    (copy / adapter.META_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"adapter_meta.json 读不出来"):
        load(random_base, copy)
    (copy / adapter.CONFIG_FILE).write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match=r"project_config.json 读不出来.*不是 JSON 对象"):
        adapter.read_adapter_json(copy, adapter.CONFIG_FILE)
    (copy / adapter.SCHEMA_FILE).unlink()
    with pytest.raises(UserError, match=r"缺少 schema.json，它不是由本项目保存的，或没有拷贝完整"):
        adapter.read_adapter_json(copy, adapter.SCHEMA_FILE)


def test_weights_that_do_not_fit(random_base: Path, copy: Path) -> None:
    file = copy / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: value[:, :-1].contiguous() for name, value in weights.items()}, file)
    with pytest.raises(UserError, match="权重形状与当前的 LoRA 参数不符"):
        load(random_base, copy)
    name = next(iter(weights))
    save_file(weights | {name: weights[name] * float("nan")}, file)
    with pytest.raises(UserError, match="有 NaN 或无穷大"):
        load(random_base, copy)
    file.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"adapter_model.safetensors 读不出来"):
        load(random_base, copy)


def test_a_flipped_bit_is_found(random_base: Path, saved: Path, tmp_path: Path) -> None:
    checkpoint.write_directory(tmp_path / "best", lambda new: shutil.copytree(saved, new, dirs_exist_ok=True))
    assert load(random_base, tmp_path / "best") is not None
    file = tmp_path / "best" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"已损坏（adapter_model.safetensors 的内容与校验和不符）"):
        load(random_base, tmp_path / "best")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"auto_mapping": {"parent_library": "evil", "base_model_class": "Code"}},
            "不支持的设置：auto_mapping",
        ),
        ({"modules_to_save": ["lm_head"]}, "不支持的设置：modules_to_save"),
        ({"use_dora": True}, "不支持的设置：use_dora"),
        ({"peft_type": "PREFIX_TUNING"}, "不是 LoRA 的配置"),
        ({"r": "8"}, "不是 LoRA 的配置"),
        ({"r": 10**9}, "r 写的是 1000000000"),
        ({"target_modules": ["lm_head"]}, "lm_head 不是模型各层的线性层|与当前的 LoRA 模块不符"),
    ],
)
def test_a_lora_config_that_is_refused(random_base: Path, copy: Path, changes: dict, message: str) -> None:
    content = json.loads((copy / "adapter_config.json").read_text(encoding="utf-8"))
    (copy / "adapter_config.json").write_text(json.dumps(content | changes), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load(random_base, copy)


def test_resuming_with_other_modules_is_refused(random_base: Path, copy: Path) -> None:
    base, _ = load_base_model(random_base, device="cpu")
    model = adapter.attach_lora(base, rank=4, alpha=8, dropout=0.0, target_modules=["query_key_value"])
    with pytest.raises(UserError, match="与当前的 LoRA 模块不符"):
        adapter.load_adapter_weights(model, copy)


# ---- whose base it is


def meta_of(**fields: Any) -> adapter.AdapterMeta:
    return adapter.AdapterMeta(base_fingerprint="x", **META | fields)


def test_the_base_is_recorded(random_base: Path, saved: Path) -> None:
    meta = adapter.load_adapter_meta(saved)
    assert meta.base_path == str(random_base)
    assert (saved / meta.base_from_adapter).resolve() == random_base.resolve()
    assert meta.base_from_project == ""
    peft_config = json.loads((saved / "adapter_config.json").read_text(encoding="utf-8"))
    assert peft_config["base_model_name_or_path"] == "base"


def test_a_base_in_the_project_is_recorded_relative_to_it(root: Path, tmp_path: Path) -> None:
    noted = adapter_files.with_base(meta_of(), str(root / "models" / "chatglm-tiny"), tmp_path)
    assert noted.base_from_project == "models/chatglm-tiny"
    assert adapter_files.with_base(meta_of(), "absent", tmp_path) == meta_of()


def test_the_base_is_found_from_any_folder(
    random_base: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "work"
    shutil.copytree(random_base, folder / "base")
    (folder / "out" / "model_best").mkdir(parents=True)
    noted = adapter_files.with_base(meta_of(), str(folder / "base"), folder / "out" / "model_best")
    assert adapter.find_base(noted, folder / "out" / "model_best") == folder / "base"
    folder.rename(tmp_path / "moved")  # both together
    found = adapter.find_base(noted, tmp_path / "moved" / "out" / "model_best")
    assert found.resolve() == tmp_path / "moved" / "base"
    in_project = meta_of(base_from_project="models/chatglm-tiny", base_path="/gone")
    assert adapter.find_base(in_project, tmp_path) == root / "models" / "chatglm-tiny"
    old = meta_of(pre_model="models/chatglm-tiny")  # an adapter from before bases were recorded
    assert adapter.find_base(old, tmp_path) == root / "models" / "chatglm-tiny"


def test_a_base_that_is_nowhere(tmp_path: Path) -> None:
    meta = meta_of(base_path="/gone/base", pre_model="a\0b")
    with pytest.raises(UserError, match=r"找不到适配器 .* 的基座模型.*/gone/base.*请用 --pre_model 指定"):
        adapter.find_base(meta, tmp_path)


def test_old_metas_are_read(copy: Path, random_base: Path) -> None:
    content = json.loads((copy / adapter.META_FILE).read_text(encoding="utf-8"))
    new = ("half_right_score", "base_path", "base_from_adapter", "base_from_project", "base_files")
    new += ("tokenizer_digest", "calibration", "min_score")
    old = {name: value for name, value in content.items() if name not in new}
    (copy / adapter.META_FILE).write_text(json.dumps(old), encoding="utf-8")
    assert adapter.load_adapter_meta(copy).half_right_score is None
    assert load(random_base, copy) is not None


def test_every_byte_of_the_base_counts(random_base: Path, saved: Path, tmp_path: Path) -> None:
    """The quick fingerprint sees both ends of a tensor only."""
    other = Path(shutil.copytree(random_base, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    for tensor in weights.values():
        tensor.view(-1)[300:-300] = 0.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    model, _ = load_base_model(other, device="cpu")
    assert model.base_fingerprint == adapter.load_adapter_meta(saved).base_fingerprint
    with pytest.raises(UserError, match=r"model\.safetensors 与训练适配器 .* 时的不同（逐字节核对）"):
        adapter.load_adapter(model, saved)


def test_every_byte_of_the_tokenizer_counts(random_base: Path, saved: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(random_base, tmp_path / "other"))
    content = (other / "ice_text.model").read_bytes()
    first, second = "的".encode(), "是".encode()
    assert content.count(first) and content.count(second)
    aside = b"\xf1\xf2\xf3"  # stands nowhere
    assert aside not in content
    swapped = content.replace(first, aside, 1).replace(second, first, 1).replace(aside, second, 1)
    (other / "ice_text.model").write_bytes(swapped)
    with pytest.raises(UserError, match=r"ice_text\.model 与训练适配器"):
        adapter.load_adapter(load_base_model(other, device="cpu")[0], saved)


def test_the_same_weights_in_another_format_are_the_same_base(
    random_base: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(random_base, tmp_path / "other"))
    torch.save(load_file(other / "model.safetensors"), other / "pytorch_model.bin")
    (other / "model.safetensors").unlink()
    checkpoint.write_directory(
        tmp_path / "whole", lambda new: shutil.copytree(saved, new, dirs_exist_ok=True)
    )
    assert adapter.load_adapter(load_base_model(other, device="cpu")[0], tmp_path / "whole") is not None
    assert "只核对了各个张量的首尾，无法逐字节核对" in capsys.readouterr().err
    assert adapter.load_adapter(load_base_model(random_base, device="cpu")[0], tmp_path / "whole") is not None
    assert "注意" not in capsys.readouterr().err


def test_an_adapter_without_its_manifest_is_said_to_be_unchecked(
    random_base: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(random_base, copy)
    assert f"注意：适配器 {copy} 没有 manifest.json，它的文件有没有损坏" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"max_source_seq_len": 10**400},
        {"max_target_seq_len": 0},
        {"pre_model": 3},
        {"metrics": []},
    ],
)
def test_a_meta_of_other_types(copy: Path, changes: dict[str, Any]) -> None:
    content = json.loads((copy / adapter.META_FILE).read_text(encoding="utf-8"))
    (copy / adapter.META_FILE).write_text(json.dumps(content | changes), encoding="utf-8")
    with pytest.raises(UserError, match=r"adapter_meta.json 字段不对|读不出来"):
        adapter.load_adapter_meta(copy)


# ---- adapters of plain peft


def test_an_adapter_of_plain_peft_is_loaded_with_a_word(
    random_base: Path, copy: Path, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (adapter.META_FILE, adapter.CONFIG_FILE, adapter.SCHEMA_FILE):
        (copy / name).unlink()
    config = json.loads((copy / "adapter_config.json").read_text(encoding="utf-8"))
    older = {"megatron_config": None, "layers_pattern": None, "use_rslora": False, "init_lora_weights": True}
    config |= {"target_modules": sorted(config["target_modules"]), "peft_version": "0.4.0", **older}
    (copy / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert adapter.load_adapter_meta(copy).is_foreign
    ours, theirs = load(random_base, saved), load(random_base, copy)
    assert "没有 adapter_meta.json，不是由本项目保存的" in capsys.readouterr().err
    assert all(
        torch.equal(value, theirs.state_dict()[name])
        for name, value in ours.state_dict().items()
        if "lora_" in name
    )


# ---- adapters from strangers


def change_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(directory / "adapter_model.safetensors")
    change(weights)
    save_file(weights, directory / "adapter_model.safetensors")


LAYER = "base_model.model.transformer.layers.0.attention.dense.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.update(
                {"base_model.model.transformer.final_layernorm.weight": torch.zeros(64)}
            ),
            r"不符（例如 base_model\.model\.transformer\.final_layernorm\.weight",
        ),
        (
            lambda weights: weights.update(
                {"base_model.model.transformer.word_embeddings.weight": torch.zeros(6080, 64)}
            ),
            "不符（例如 .*word_embeddings",
        ),
        (lambda weights: weights.pop(LAYER), "不符（例如 .*dense.lora_A"),
        (lambda weights: weights.update({LAYER: weights[LAYER].to(torch.int8)}), "I8，不是浮点数"),
        (lambda weights: weights.update({LAYER: weights[LAYER] > 0}), "BOOL，不是浮点数"),
        (lambda weights: weights.update({LAYER: weights[LAYER].double()}), "F64，不是浮点数"),
        (lambda weights: weights.update({LAYER: torch.zeros(20_000_000, 0)}), "权重形状"),
        (lambda weights: weights.update({LAYER: weights[LAYER][None].clone()}), "权重形状"),
        (lambda weights: weights.update({LAYER: weights[LAYER] * float("inf")}), "NaN 或无穷大"),
    ],
)
def test_only_the_lora_weights_that_the_config_implies(
    random_base: Path, copy: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    change_weights(copy, change)
    base, _ = load_base_model(random_base, device="cpu")
    before = {name: value.clone() for name, value in base.named_parameters()}
    with pytest.raises(UserError, match=message):
        adapter.load_adapter(base, copy)
    assert all(torch.equal(value, before[name]) for name, value in base.named_parameters())


def test_a_rank_beyond_the_layer_allocates_nothing(random_base: Path, copy: Path) -> None:
    path = copy / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"r": 20_000_000}))
    change_weights(copy, lambda weights: weights.update(dict.fromkeys(weights, torch.zeros(20_000_000, 0))))
    with pytest.raises(UserError, match="r 写的是 20000000，比模型的线性层"):
        load(random_base, copy)


@pytest.mark.parametrize(
    "fields",
    [
        *({"lora_alpha": value} for value in (float("nan"), float("inf"), -1, 0, 1e30, True, "8")),
        *({"r": value} for value in (0, -4, True, 2.0)),
        {"target_modules": []},
        {"target_modules": 3},
    ],
)
def test_numbers_of_lora_that_are_none(random_base: Path, copy: Path, fields: dict[str, Any]) -> None:
    path = copy / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields))
    with pytest.raises(UserError, match=r"不是合理的数|不是 LoRA 的配置"):
        load(random_base, copy)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "schema.json", "adapter_meta.json", "project_config.json"]
)
def test_the_manifest_covers_every_file(random_base: Path, saved: Path, tmp_path: Path, name: str) -> None:
    whole = tmp_path / "whole"
    checkpoint.write_directory(whole, lambda new: shutil.copytree(saved, new, dirs_exist_ok=True))
    text = (whole / name).read_text(encoding="utf-8")
    (whole / name).write_text(text.replace('"lora_alpha": 8', '"lora_alpha": 80') + " ", encoding="utf-8")
    with pytest.raises(UserError, match=f"已损坏（{name} 的大小不对）"):
        load(random_base, whole)


FILES = ["adapter_config.json", "adapter_meta.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_links_out_of_an_adapter_are_not_followed(
    random_base: Path, copy: Path, tmp_path: Path, name: str
) -> None:
    shutil.move(copy / name, tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{name} 指向目录之外的文件，拒绝加载"):
        load(random_base, copy)


def test_links_of_the_hub_s_cache_are(random_base: Path, saved: Path, tmp_path: Path) -> None:
    snapshot = Path(shutil.copytree(saved, tmp_path / "snapshots" / "main"))
    (tmp_path / "blobs").mkdir()
    for file in list(snapshot.iterdir()):
        shutil.move(file, tmp_path / "blobs" / file.name)
        file.symlink_to(tmp_path / "blobs" / file.name)
    assert load(random_base, snapshot) is not None


def test_weights_too_large_to_be_mapped(
    random_base: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise MemoryError("Cannot allocate memory (os error 12)")  # as under `ulimit -v`

    base, _ = load_base_model(random_base, device="cpu")
    monkeypatch.setattr(adapter, "safe_open", no_memory)
    with pytest.raises(UserError, match="读不出来"):
        adapter.load_adapter(base, copy)
    monkeypatch.setattr("bases.weights.safe_open", no_memory)
    with pytest.raises(UserError, match="太大，超过了允许这个进程使用的内存"):
        load_base_model(random_base, device="cpu")


@pytest.mark.parametrize("name", FILES)
def test_fifos_are_not_waited_for(random_base: Path, copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(UserError, match=name):
        load(random_base, copy)


def test_a_sparse_meta_and_a_deep_one(copy: Path) -> None:
    with (copy / adapter.META_FILE).open("r+b") as file:
        file.truncate(60 * 2**30)
    with pytest.raises(UserError, match="超过了"):
        adapter.load_adapter_meta(copy)
    (copy / adapter.META_FILE).write_text('{"metrics":' + "[" * 10**5)
    with pytest.raises(UserError, match="嵌套太深"):
        adapter.load_adapter_meta(copy)


# Ends as soon as peft is looked for: with 0 if by then `kernels` can't be imported.
UNTIL_PEFT = """
import sys, types
class Watch:
    def find_spec(self, name, *_):
        if name == "peft":
            sys.exit(sys.modules.get("kernels", "free") is not None)
sys.meta_path.insert(0, Watch())
sys.modules["torch"] = types.ModuleType("torch")
import bases.adapter
sys.exit("peft was not imported")
"""


def test_no_code_from_the_hub_is_looked_for(root: Path, tmp_path: Path) -> None:
    """With the package `kernels` installed, bitsandbytes would fetch a kernel as soon as peft imports it."""
    subprocess.run([sys.executable, "-c", UNTIL_PEFT], cwd=root, check=True)
    (tmp_path / "kernels.py").write_text("import pathlib; pathlib.Path('looked').touch()")
    code = f"import sys; sys.path[:0] = [{str(root)!r}, {str(tmp_path)!r}]; import training.gradients, peft"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert not (tmp_path / "looked").exists()

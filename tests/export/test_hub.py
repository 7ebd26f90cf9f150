"""What is made ready for a model hub: a card with the facts, nothing of this machine, a whole adapter."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from bases.adapter import AdapterMeta, attach_lora, load_adapter, write_adapter_files
from bases.chatglm import load_base_model
from export import hub
from export.upload import prepare_upload
from glm_config import ProjectConfig
from task.schema import Schema
from task.triplets import Combination
from utils.common_utils import UserError
from utils.directories import find_damage


@pytest.fixture(scope="module")
def adapter(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    (folder / "my_train.jsonl").write_text("{}\n\n{}\n{}\n")
    config = ProjectConfig()
    config.pre_model, config.train_path = str(random_base), str(folder / "my_train.jsonl")
    config.max_source_seq_len, config.max_target_seq_len = 10, 12
    config.save_dir = str(folder / "secret-project")
    model, _ = load_base_model(random_base, load_in_4bit=False, dtype=torch.float32, device="cpu")
    trained = attach_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=["dense"])
    metrics = {
        "triplet_f1": 0.75,
        "triplet_precision": 0.8,
        "triplet_recall": 0.7,
        "dev_loss": 0.1,
        "step": 3,
    }
    meta = AdapterMeta(model.base_fingerprint, str(random_base), 10, 12, metrics=metrics)
    schema = Schema(
        frozenset({Combination("作者", "图书作品", "人物"), Combination("a|b`\n# c", "人物", "人物")})
    )
    (folder / "adapter").mkdir()
    write_adapter_files(trained, folder / "adapter", meta, config.to_dict(), schema.to_dict())
    return folder / "adapter"


def prepare(adapter: Path, output: Path, **options: Any) -> Path:
    named: dict[str, Any] = {
        "base_model": "THUDM/chatglm-6b",
        "title": "三元组",
        "license_name": "mit",
    } | options
    prepare_upload(adapter, output, **named)
    return output


def test_the_card_says_what_is_known(adapter: Path, tmp_path: Path) -> None:
    card = ModelCard.load(prepare(adapter, tmp_path / "out") / "README.md")
    assert card.data.base_model == "THUDM/chatglm-6b" and card.data.license == "mit"
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results][:2] == [
        ("f1", 0.75),
        ("precision", 0.8),
    ]
    text = card.text
    assert "| F1（五个字段全对） | 0.750 |" in text and "| F1 (all five fields right) | 0.750 |" in text
    assert "训练集：my_train.jsonl，3 行；2 种关系：ab c、作者" in text
    assert "r=2, alpha=4, dense" in text and "输入 10、输出 12" in text
    assert "MODEL_LICENSE" in text and "PeftModel" not in text  # a ChatGLM, which plain transformers lacks
    assert "python -m bases.download THUDM/chatglm-6b" in text


def test_nothing_of_this_machine_goes_along(adapter: Path, random_base: Path, tmp_path: Path) -> None:
    output = prepare(adapter, tmp_path / "out")
    for file in output.iterdir():
        content = file.read_bytes()
        for place in (str(random_base), str(adapter.parent), str(Path.home()), "/tmp"):
            assert place.encode() not in content, file.name
    config = json.loads((output / "project_config.json").read_text())
    assert (config["train_path"], config["save_dir"]) == ("my_train.jsonl", "secret-project")
    assert find_damage(output) is None
    assert sorted(path.suffix for path in output.iterdir()) == [*[".json"] * 5, ".md", ".safetensors"]


def test_it_loads_with_its_base(adapter: Path, random_base: Path, tmp_path: Path) -> None:
    output = prepare(adapter, tmp_path / "out")
    model, _ = load_base_model(random_base, load_in_4bit=False, dtype=torch.float32, device="cpu")
    assert load_adapter(model, output).peft_config["default"].r == 2


def test_a_local_base_is_named_by_its_last_part(
    adapter: Path, random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = prepare(adapter, tmp_path / "out", base_model=None)
    assert f"base_model: {random_base.name}\n" in (output / "README.md").read_text()
    assert "请用 --base_model 给出" in capsys.readouterr().err


def test_what_is_refused(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(adapter, tmp_path / "foreign")
    (tmp_path / "foreign" / "adapter_meta.json").unlink()
    with pytest.raises(UserError, match="不是由本项目训练的"):
        prepare(tmp_path / "foreign", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["hub", "--adapter", str(adapter), "--output", str(adapter)])
    with pytest.raises(SystemExit) as left:
        hub.main()
    assert left.value.code == 2 and "已存在且不是空目录" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["/dev/zero", "fifo", "sparse", "\0", [], 5, {}, "/proc/self/mem"])
def test_an_adapter_of_a_stranger_names_no_file_to_be_read(adapter: Path, tmp_path: Path, path: Any) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(60 * 2**30)
    path = str(tmp_path / path) if path in ("fifo", "sparse") else path
    forged = forge(adapter, tmp_path / "forged", "project_config.json", {"train_path": path})
    assert "行；" not in (prepare(forged, tmp_path / "out") / "README.md").read_text("utf-8")


@pytest.mark.parametrize("value", ["x\n# 标题", "<script>", 10**400, [], True, None, "`rm -r /`"])
def test_numbers_of_the_training_that_are_none(adapter: Path, tmp_path: Path, value: Any) -> None:
    forged = forge(
        adapter, tmp_path / "forged", "project_config.json", {"epochs": value, "learning_rate": value}
    )
    forge(forged, forged, "adapter_meta.json", {"metrics": {"triplet_f1": value, "dev_loss": value}})
    card = (prepare(forged, tmp_path / "out") / "README.md").read_text("utf-8")
    assert "? 轮，学习率 ?" in card and "没有量过" in card


def test_weights_that_are_no_numbers(adapter: Path, tmp_path: Path) -> None:
    forged = forge(adapter, tmp_path / "forged", "adapter_meta.json", {})
    state = load_file(forged / "adapter_model.safetensors")
    next(iter(state.values())).view(-1)[0] = torch.nan
    save_file(state, forged / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="有 NaN、无穷大"):
        prepare(forged, tmp_path / "out")
    (forged / "adapter_model.safetensors").unlink()
    os.mkfifo(forged / "adapter_model.safetensors")
    with pytest.raises(UserError, match="缺少 adapter_model"):
        prepare(forged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_circle_or_no_text(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").symlink_to("out")
    odd = tmp_path / os.fsdecode(b"\xff")
    monkeypatch.setattr(sys, "argv", ["hub", "--adapter", str(adapter), "--output", str(odd)])
    with pytest.raises(SystemExit, match="0"):
        hub.main()
    assert (odd / "README.md").read_text("utf-8")
    monkeypatch.setattr(sys, "argv", ["hub", "--adapter", str(adapter), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        hub.main()
    assert "Traceback" not in capsys.readouterr().err


def forge(adapter: Path, target: Path, name: str, values: dict[str, Any]) -> Path:
    """Copy an adapter, change fields of one of its files, and write the manifest anew."""
    if target != adapter:
        shutil.copytree(adapter, target)
    content = json.loads((target / name).read_text("utf-8")) | values
    (target / name).write_text(json.dumps(content), "utf-8")
    (target / "manifest.json").unlink(missing_ok=True)
    return target

"""How a run of train.py starts: anew, from a checkpoint, from an adapter, on data without a dev set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from bases.chatglm import load_base_model
from tests.helpers.runs import records
from training import assembly
from utils.common_utils import UserError

Command = Callable[..., list[str]]
QUICK = {"eval_samples": 0, "best_metric": "dev_loss", "epochs": 1}


def adapter_of(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "adapter_model.safetensors")


def test_one_command_for_the_first_start_and_every_restart(
    arguments: Command, tmp_path: Path, capsys
) -> None:
    """And a short one goes on: the checkpoint has all knobs, the split of its data among them."""
    words = arguments(**QUICK, dev_path=None, lora_rank=4, resume_from_checkpoint="auto")
    assert train.main(words) == 0
    first = capsys.readouterr().err
    assert first.count("里没有检查点，从头开始训练。") == 1
    assert "的 16 行中分出" in first
    assert (
        train.main(["--save_dir", str(tmp_path / "run"), "--resume-from-checkpoint", "auto", "--epochs", "2"])
        == 0
    )
    second = capsys.readouterr().err
    assert "从头开始" not in second and "沿用检查点的设置" in second
    split = [line[15:] for said in (first, second) for line in said.splitlines() if "作验证集" in line]
    assert len(split) == 2 and split[0] == split[1]
    steps = [record["step"] for record in records(tmp_path / "run", "eval")]
    assert len(steps) == 2
    with pytest.raises(UserError, match=r"以下各项不同：\n  dev_ratio：检查点 0.1，现在 0.3"):
        train.main(
            ["--save_dir", str(tmp_path / "run"), "--resume_from_checkpoint", "auto", "--dev_ratio", "0.3"]
        )


def test_training_goes_on_from_an_adapter(
    arguments: Command, tmp_path: Path, data: dict[str, str], capsys, random_base: Path
) -> None:
    old, new = tmp_path / "run", tmp_path / "new"
    shape = {"lora_rank": 4, "lora_target_modules": "dense"}
    assert train.main(arguments(**QUICK, **shape, learning_rate=5e-2)) == 0
    capsys.readouterr()
    # Other data, and a rate with which nothing is learnt: what is saved is what was begun with.
    words = {**QUICK, "train_path": data["--dev_path"], "init_adapter": old, "learning_rate": 1e-12}
    assert train.main(arguments(**words, save_dir=new)) == 0
    said = capsys.readouterr().err
    assert f"以适配器 {old / 'model_best'} 的权重为起点，用新的数据开始一次新的训练" in said
    before, after = adapter_of(old / "model_best"), adapter_of(new / "model_best")
    assert before.keys() == after.keys()
    assert any(tensor.abs().max() > 1e-3 for name, tensor in before.items() if "lora_B" in name)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=1e-6)
    # It can still say what the old data had taught it.
    schemas = [
        {
            tuple(item.values())
            for item in json.loads((run / "model_best" / "schema.json").read_text())["combinations"]
        }
        for run in (old, new)
    ]
    assert schemas[0] < schemas[1]
    assert [record["step"] for record in records(new, "eval")] == [1]  # a run of its own

    with pytest.raises(UserError, match=r"resume_from_checkpoint 与 init_adapter 只能给一个"):
        train.main(arguments(**words, save_dir=new, resume_from_checkpoint="auto"))
    with pytest.raises(UserError, match=r"lora_rank 给的是 2，适配器是 4"):
        train.main(arguments(**words, save_dir=tmp_path / "third", lora_rank=2))
    model, tokenizer = load_base_model(random_base, load_in_4bit=False, device="cpu")
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    model.half().save_pretrained(tmp_path / "other_base")
    tokenizer.save_pretrained(tmp_path / "other_base")
    with pytest.raises(UserError, match=r"是在另一个基座模型.*上训练的"):
        train.main(arguments(**words, save_dir=tmp_path / "third", pre_model=tmp_path / "other_base"))


def test_data_is_read_before_the_model(
    arguments: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(assembly, "_load_model", never)
    table = tmp_path / "mine.csv"
    table.write_text("sentence,subject,predicate,object\n句子,甲,乙,丙\n", encoding="utf-8")
    with pytest.raises(UserError, match=str(table)):
        train.main(arguments(train_path=table))
    text = tmp_path / "text.jsonl"
    text.write_text('{"context": "你好", "target": "正面"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="没有一个可用的三元组"):
        train.main(arguments(train_path=text))


def test_what_scores_mean_is_saved_with_the_best_adapter(
    arguments: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bases.adapter import load_adapter_meta
    from extraction.calibration import Calibration
    from extraction.evaluation.evaluate import score
    from extraction.evaluation.tuning import Tuning
    from training import evaluation
    from utils.directories import find_damage

    learnt = Tuning(Calibration(0.5, 0.25, -1.0), 0.25, 0.2, 0.1, 0.5, 0.6)
    monkeypatch.setattr(evaluation, "tune", lambda *given: (score(*given), learnt))  # dev is too small
    assert train.main(arguments(epochs=1, learning_rate=5e-2)) == 0
    best = tmp_path / "run" / "model_best"
    report = json.loads((tmp_path / "run" / "eval_report.json").read_text(encoding="utf-8"))
    meta = load_adapter_meta(best)
    level = meta.half_right_score
    assert Calibration.read(meta.calibration) == learnt.calibration and meta.min_score == 0.25
    assert report["tuning"]["calibration"] == meta.calibration and report["tuning"]["f1"] == 0.6
    assert (level is None) == (report["reliability"] is None)
    assert level is None or 0.0 <= level <= 1.0
    assert find_damage(best) is None

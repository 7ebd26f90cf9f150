"""`train.py` and `test_training.py` refuse the same things, with the same sentence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import test_training
import train
from training.checks import FAILED
from utils.common_utils import UserError

BUNDLED = ["--pre_model", "models/chatglm-tiny", "--device", "cpu"]
Prepare = Callable[[Path, pytest.MonkeyPatch], list[str]]


def missing_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["--train_path", str(folder / "none.jsonl")]


def data_without_triplets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    path = folder / "mine.jsonl"
    path.write_text('{"context": "问", "target": "答"}\n' * 20, "utf-8")
    return ["--train_path", str(path)]


def strict_and_a_bad_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    path = folder / "mine.jsonl"
    good = Path("data/mixed_dev_dataset.jsonl").read_text("utf-8").splitlines()[:20]
    path.write_text("\n".join([*good, "{"]), "utf-8")
    return ["--train_path", str(path), "--strict_data"]


def no_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["--pre_model", str(folder / "nowhere")]


def damaged_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    model = Path(shutil.copytree("models/chatglm-tiny", folder / "model"))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return ["--pre_model", str(model)]


def too_few_positions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    model = Path(shutil.copytree("models/chatglm-tiny", folder / "model"))
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"max_sequence_length": 300}), "utf-8")
    return ["--pre_model", str(model)]


def a_device_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["--device", "cuda:77"]


def too_little_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["--vram_budget_gb", "0.01"]


def results_of_another_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "run" / "model_best").mkdir(parents=True)
    return []


def a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000, total=1, used=1))
    return []


def no_checkpoint_of_that_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["--resume_from_checkpoint", str(folder / "checkpoint-7"), "--save_dir", str(folder / "run")]


@pytest.mark.parametrize(
    "prepare",
    [
        missing_data,
        data_without_triplets,
        strict_and_a_bad_line,
        no_model,
        damaged_weights,
        too_few_positions,
        a_device_that_is_not_there,
        too_little_memory,
        results_of_another_run,
        a_full_disk,
        no_checkpoint_of_that_name,
    ],
)
def test_both_refuse_with_the_same_sentence(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prepare: Prepare,
) -> None:
    monkeypatch.chdir(root)
    words = [*BUNDLED, "--save_dir", str(tmp_path / "run"), "--token_cache_dir", ""]
    words += prepare(tmp_path, monkeypatch)
    for module in (train, test_training):
        monkeypatch.setattr(module, "quiet_libraries", lambda: None)  # it lasts
    with pytest.raises(UserError) as refused:
        train.main(words)

    quick = {
        name: test_training.CHECKS[name]
        for name in test_training.CHECKS
        if name not in ("训练一步", "软件包")
    }
    monkeypatch.setattr(test_training, "CHECKS", quick)
    monkeypatch.setattr(sys, "argv", ["test_training.py", *words])
    capsys.readouterr()
    assert test_training.main() == 1
    table = capsys.readouterr().out
    assert FAILED in table
    first = str(refused.value).splitlines()[0]
    assert first in table, f"{first}\n{table}"


def test_neither_refuses_what_is_sound(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(test_training, "quiet_libraries", lambda: None)
    words = [*BUNDLED, "--save_dir", str(tmp_path / "run"), "--token_cache_dir", ""]
    monkeypatch.setattr(sys, "argv", ["test_training.py", *words])
    assert test_training.main() == 0

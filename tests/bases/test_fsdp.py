"""FSDP with 4-bit storage: two processes train as one, save whole adapters, and go on from any checkpoint."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from tests.helpers.runs import process_as_before

KNOBS = {"max_source_seq_len": 96, "max_target_seq_len": 80, "eval_samples": 2, "device": "cpu", "epochs": 1}
KNOBS |= {"lora_dropout": 0, "learning_rate": 5e-3, "logging_steps": 1, "save_freq": 1, "fp16": "false"}
KNOBS |= {"batch_size": 2, "save_total_limit": 9}


def losses(directory: Path) -> list[float]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record["kind"] == "train"]


def run(root: Path, words: list[str]) -> str:
    """Run Python with these words after it, and return what it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def alone(knobs: list[str]) -> None:
    with process_as_before():
        assert train.main(knobs) == 0


def launch(root: Path, knobs: list[str]) -> str:
    command = ["-m", "accelerate.commands.launch", "--config_file", "configs/fsdp_qlora.yaml"]
    command += ["--num_machines", "1", "--main_process_port", "0", "tests/helpers/fsdp_on_cpu.py", *knobs]
    return run(root, command)


@pytest.fixture
def arguments(root: Path, random_base: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Build the command line of a run on sixteen samples in the directory `name`."""
    lines = (root / "data" / "mixed_train_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:16]) + "\n", encoding="utf-8")
    (tmp_path / "dev.jsonl").write_text("\n".join(lines[16:19]) + "\n", encoding="utf-8")  # an odd number
    places: dict[str, object] = {"token_cache_dir": tmp_path / "cache"}
    places |= {f"{kind}_path": tmp_path / f"{kind}.jsonl" for kind in ("train", "dev")}

    def build(name: str, **knobs: object) -> list[str]:
        options = KNOBS | places | {"pre_model": random_base, "save_dir": tmp_path / name} | knobs
        return [word for key, value in options.items() for word in (f"--{key}", str(value))]

    return build


def test_two_processes_train_as_one(root: Path, arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    alone(arguments("one", gradient_accumulation_steps=4))
    output = launch(root, arguments("two", gradient_accumulation_steps=2))
    held = re.findall(r"held (\d+) of (\d+)", output)
    assert len(held) == 2 and all(int(own) * 2 == int(total) for own, total in held)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-3)

    for name in ("checkpoint-1", "checkpoint-2", "model_best"):
        one, two = (load_file(tmp_path / run / name / "adapter_model.safetensors") for run in ("one", "two"))
        assert one.keys() == two.keys()
        for key, tensor in one.items():
            torch.testing.assert_close(two[key], tensor, rtol=1e-2, atol=1e-4)

    # The checkpoint of FSDP goes on in one process, and the other way round.
    expected = losses(tmp_path / "one")[1:]
    resume = {"resume_from_checkpoint": tmp_path / "two" / "checkpoint-1"}
    alone(arguments("back", gradient_accumulation_steps=4, **resume))
    assert losses(tmp_path / "back") == pytest.approx(expected, abs=1e-3)
    resume = {"resume_from_checkpoint": tmp_path / "one" / "checkpoint-1"}
    launch(root, arguments("forth", gradient_accumulation_steps=2, **resume))
    assert losses(tmp_path / "forth") == pytest.approx(expected, abs=1e-3)
    for run in ("back", "forth"):
        one, other = (
            load_file(tmp_path / name / "checkpoint-2" / "adapter_model.safetensors") for name in ("one", run)
        )
        for key, tensor in one.items():
            torch.testing.assert_close(other[key], tensor, rtol=1e-2, atol=1e-4)


@pytest.mark.soak
def test_half_precision(root: Path, arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    """With weights, packed bytes and gathers in bf16, as on a GPU: the same curve but for rounding."""
    alone(arguments("one", gradient_accumulation_steps=4, fp16="true"))
    launch(root, arguments("two", gradient_accumulation_steps=2, fp16="true"))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-2)
    report = json.loads((tmp_path / "two" / "eval_report.json").read_text(encoding="utf-8"))
    assert report["dev_loss"] == pytest.approx(
        json.loads((tmp_path / "one" / "eval_report.json").read_text(encoding="utf-8"))["dev_loss"], rel=1e-2
    )

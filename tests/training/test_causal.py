"""train.py on a causal model in 4-bit: what it leaves, going on bit by bit, and split over processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from bases.linear8bit import Linear8bit
from extraction.loading import ExtractorOptions, load_extractor
from tests.helpers.causal_bases import CHATML, make_base
from tests.helpers.runs import process_as_before, records
from utils.common_utils import UserError

KNOBS = {
    "device": "cpu",
    "fp16": False,
    "epochs": 2,
    "batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_source_seq_len": 320,
    "max_target_seq_len": 200,
    "eval_samples": 1,
    "eval_batch_size": 2,
    "eval_steps": 0,
    "save_freq": 1,
    "save_total_limit": 9,
    "logging_steps": 1,
    "learning_rate": 1e-2,
    "tensorboard": False,
    "token_cache_dir": "",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("qwen3"), "qwen3", hidden_size=64, intermediate_size=128)


@pytest.fixture
def arguments(root: Path, base: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Build the command line of a run on eight samples in the directory `name`."""
    lines = (root / "data" / "mixed_train_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if "```" in line]
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:8]) + "\n", encoding="utf-8")
    (tmp_path / "dev.jsonl").write_text("\n".join(lines[8:10]) + "\n", encoding="utf-8")
    places = {f"{kind}_path": tmp_path / f"{kind}.jsonl" for kind in ("train", "dev")}

    def build(name: str, **knobs: object) -> list[str]:
        options = KNOBS | places | {"pre_model": base, "save_dir": tmp_path / name} | knobs
        return [word for key, value in options.items() for word in (f"--{key}", str(value))]

    return build


def test_a_run_is_gone_on_with_bit_by_bit_and_its_adapter_extracts(
    arguments: Callable[..., list[str]], base: Path, tmp_path: Path
) -> None:
    with process_as_before():
        assert train.main(arguments("whole")) == 0
    whole = tmp_path / "whole"
    losses = [record["loss"] for record in records(whole, "train")]
    assert len(losses) == 4 and losses[-1] < losses[0]
    checkpoint = tmp_path / "moved" / "checkpoint-2"
    shutil.copytree(whole / "checkpoint-2", checkpoint)
    with process_as_before():
        assert train.main(arguments("later", resume_from_checkpoint=checkpoint)) == 0
    ends = [
        load_file(tmp_path / name / "checkpoint-4" / "adapter_model.safetensors")
        for name in ("whole", "later")
    ]
    assert len(ends[0]) == 3 * 7 * 2  # layers, linear layers, A and B
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())

    best = whole / "model_best"
    meta = json.loads((best / "adapter_meta.json").read_text(encoding="utf-8"))
    assert meta["prompt_frame"].startswith("<|im_start|>user\n{context}<|im_end|>")
    saved = json.loads((best / "project_config.json").read_text(encoding="utf-8"))
    assert saved["lora_target_modules"][:2] == ["q_proj", "k_proj"]
    extraction = load_extractor(ExtractorOptions(adapter=best, device="cpu")).extract_one("甲是乙。")
    assert extraction.error is None and extraction.problem is None

    settings = base / "tokenizer_config.json"
    before = settings.read_text(encoding="utf-8")
    settings.write_text(before.replace(json.dumps(CHATML)[1:-1], ""), encoding="utf-8")
    try:
        with pytest.raises(UserError, match="对话格式"):
            load_extractor(ExtractorOptions(adapter=best, device="cpu"))
    finally:
        settings.write_text(before, encoding="utf-8")


def test_in_8_bit(
    arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = {"epochs": 1, "load_in_4bit": False, "load_in_8bit": True}
    with process_as_before():
        assert train.main(arguments("whole", **once)) == 0
    assert "8-bit 整数" in capsys.readouterr().err
    checkpoint = tmp_path / "whole" / "checkpoint-1"
    with process_as_before():
        assert train.main(arguments("later", resume_from_checkpoint=checkpoint, **once)) == 0
    ends = [
        load_file(tmp_path / name / "checkpoint-2" / "adapter_model.safetensors")
        for name in ("whole", "later")
    ]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    with process_as_before(), pytest.raises(UserError, match="load_in_8bit：检查点 True，现在 False"):
        train.main(arguments("other", resume_from_checkpoint=checkpoint, **(once | {"load_in_8bit": False})))

    def is_8bit(**options: bool) -> bool:
        best = tmp_path / "whole" / "model_best"
        model = load_extractor(ExtractorOptions(adapter=best, device="cpu", **options)).model
        return any(isinstance(module, Linear8bit) for module in model.modules())

    assert is_8bit() and not is_8bit(load_in_8bit=False)
    with pytest.raises(UserError, match="load_in_4bit 与 load_in_8bit 不能同时开启"):
        is_8bit(load_in_4bit=True, load_in_8bit=True)


@pytest.mark.soak
@pytest.mark.parametrize("bits", [4, 8])
def test_two_processes_train_as_one(
    root: Path, arguments: Callable[..., list[str]], tmp_path: Path, bits: int
) -> None:
    def run(words: list[str]) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True, timeout=900
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    once = {"epochs": 1, "lora_dropout": 0, "load_in_4bit": bits == 4, "load_in_8bit": bits == 8}
    run(["train.py", *arguments("alone", **once)])
    launch = ["-m", "accelerate.commands.launch", "--config_file", "configs/fsdp_qlora.yaml"]
    launch += ["--num_machines", "1", "--main_process_port", "0", "tests/helpers/fsdp_on_cpu.py"]
    held = run([*launch, *arguments("split", **(once | {"batch_size": 2}))])
    assert "held" in held
    alone, split = ([r["loss"] for r in records(tmp_path / name, "train")] for name in ("alone", "split"))
    assert split == pytest.approx(alone, rel=1e-3)

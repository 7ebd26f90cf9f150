"""train.py: the loop for real, on a small random base, in this process and as a command."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import train
from bases import four_bit
from bases.chatglm import modeling
from glm_config import ProjectConfig
from tests.helpers.runs import records
from training import assembly, evaluation, finish, gradients
from training.gradients import Gradients
from utils.common_utils import UserError
from utils.device import compute_dtype

Command = Callable[..., list[str]]


def run_command(root: Path, words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *words], cwd=root, capture_output=True, text=True, timeout=240, **options
    )


def test_a_run_leaves_what_it_promises(arguments: Command, tmp_path: Path, capsys) -> None:
    knobs = {"epochs": 2, "logging_steps": 1, "learning_rate": 5e-2, "save_freq": 1, "save_total_limit": 2}
    assert train.main(arguments(**knobs)) == 0
    run = tmp_path / "run"
    losses = [record["loss"] for record in records(run, "train")]
    assert len(losses) == 4
    assert sum(losses[2:]) < sum(losses[:2])
    assert [record["step"] for record in records(run, "eval")] == [2, 4]
    (final,) = records(run, "final")
    assert math.isfinite(final["dev_loss"])
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    expected = {"adapter_config.json", "adapter_model.safetensors", "adapter_meta.json"}
    expected |= {"project_config.json", "schema.json", "manifest.json"}
    assert {path.name for path in (run / "model_best").iterdir()} == expected
    saved = json.loads((run / "model_best" / "project_config.json").read_text(encoding="utf-8"))
    assert saved["learning_rate"] == 5e-2
    assert list((run / "tensorboard").glob("events*"))
    report = json.loads((run / "eval_report.json").read_text(encoding="utf-8"))
    assert report["triplets"]["sentences"] + report["classification"]["sentences"] == 4
    answers = [json.loads(line) for line in (run / "eval_results.jsonl").read_text("utf-8").splitlines()]
    assert len(answers) == report["triplets"]["sentences"]
    assert all({"text", "triplets", "gold"} <= set(answer) for answer in answers)
    captured = capsys.readouterr()
    assert captured.out == ""
    for phrase in ("可训练参数", "进程内存", "token/s", "剩余", "评估 步 4", "全部验证集"):
        assert phrase in captured.err


@pytest.mark.usefixtures("two_threads")  # so the eight run in lanes
def test_the_split_into_passes_does_not_matter(arguments: Command, tmp_path: Path) -> None:
    """The same loss curve and the same adapter from batches of 8, and from 8 batches of 1."""
    curves, adapters = [], []
    for batch_size, steps in ((8, 1), (1, 8)):
        directory = tmp_path / f"batch{batch_size}"
        common = {"fp16": False, "lora_dropout": 0, "learning_rate": 5e-3, "logging_steps": 1, "epochs": 2}
        sizes = {"batch_size": batch_size, "gradient_accumulation_steps": steps, "save_dir": directory}
        assert train.main(arguments(**common, **sizes, load_in_4bit=False)) == 0
        curves.append([record["loss"] for record in records(directory, "train")])
        adapters.append(load_file(directory / "checkpoint-4" / "adapter_model.safetensors"))
    assert len(curves[0]) == 4
    assert curves[0] == pytest.approx(curves[1], abs=1e-3)
    assert curves[0][0] != pytest.approx(curves[0][-1], abs=1e-3)
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(tensor, adapters[1][name], rtol=1e-3, atol=1e-5)


def test_lora_gets_its_inputs_in_half_precision_and_a_large_plan_maps_its_memory(
    arguments: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT would hand it fp32 copies; layers that are computed again must see the same."""
    types, mapped = [], []
    accumulate = Gradients.accumulate

    def watched(self: Gradients, *args: Any) -> tuple[float, int]:
        modules = dict(self._model.named_modules())
        inner = [module for name, module in modules.items() if name.endswith(".base_layer")]
        hooks = [
            each.register_forward_pre_hook(lambda _, args: types.append(args[0].dtype)) for each in inner
        ]
        result = accumulate(self, *args)
        for hook in hooks:
            hook.remove()
        assert inner and all(getattr(each, "cast_input_dtype_enabled", True) for each in modules.values())
        return result

    monkeypatch.setattr(Gradients, "accumulate", watched)
    monkeypatch.setattr(assembly, "MAP_ABOVE", 0)
    monkeypatch.setattr(assembly, "map_large_allocations", lambda: mapped.append(True))
    assert train.main(arguments(gradient_checkpointing=True, max_steps=2)) == 0
    assert set(types) == {compute_dtype("cpu")}
    assert mapped == [True]


def test_a_machine_without_4_bit_trains_unquantised_and_says_so(
    arguments: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(four_bit, "why_no_4bit", lambda device: "没有内核")
    assert train.main(arguments(max_steps=1, epochs=1)) == 0
    said = capsys.readouterr().err
    assert "这台机器做不了 4-bit 量化（没有内核），改为不量化加载" in said
    assert "（未量化）" in said


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    root: Path, arguments: Command, tmp_path: Path
) -> None:
    whole = arguments(save_dir=tmp_path / "whole", epochs=3, logging_steps=1)
    assert train.main(whole) == 0
    cut = arguments(save_dir=tmp_path / "cut", epochs=3, logging_steps=1)
    process = subprocess.Popen(
        [sys.executable, "train.py", *cut],
        cwd=root,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " 步 2/" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    assert "收到中断信号" in rest
    assert "--resume_from_checkpoint auto" in rest
    assert train.main([*cut, "--resume_from_checkpoint", "auto"]) == 0
    for kind in ("train", "eval", "final"):
        losses = [
            [r.get("loss", r.get("dev_loss")) for r in records(tmp_path / name, kind)]
            for name in ("whole", "cut")
        ]
        assert losses[0] == losses[1]
    for name in ("model_best", "checkpoint-6"):
        adapters = [
            load_file(tmp_path / run / name / "adapter_model.safetensors") for run in ("whole", "cut")
        ]
        assert all(torch.equal(tensor, adapters[1][key]) for key, tensor in adapters[0].items())


OUT_OF_MEMORY_AT_RANK_1 = """
import torch, train
from training.gradients import Gradients
run_passes = Gradients._run
def fail(self, samples, passes, target_tokens):
    loss = run_passes(self, samples, passes, target_tokens)
    if self._accelerator.process_index == 1 and max(each.tokens for each in passes) > 250:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return loss
Gradients._run = fail
train.command()
"""


STOP_AT_RANK_1 = """
import os, signal, train
from training import evaluation
batches = evaluation.length_sorted_batches
def stop(*args):
    if os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)
    yield from batches(*args)
evaluation.length_sorted_batches = stop
train.command()
"""


def launch_two(
    root: Path, directory: Path, script: str, words: list[str]
) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes on the CPU (tests/bases/test_fsdp.py does so by `accelerate launch`)."""
    (directory / "script.py").write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "tests.helpers.two_ranks", str(directory / "script.py"), *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)


def test_two_processes_train_as_one(root: Path, arguments: Command, tmp_path: Path) -> None:
    """Two CPU processes with half the accumulation: the same loss curve, and one of everything on disk.

    One of them runs out of memory: it halves its passes and does the step again, the other one waits.
    """
    common = {"lora_dropout": 0, "learning_rate": 5e-3, "logging_steps": 1, "epochs": 1, "fp16": False}
    alone = arguments(**common, gradient_accumulation_steps=8, save_dir=tmp_path / "one")
    assert train.main(alone) == 0
    together = arguments(**common, gradient_accumulation_steps=4, save_dir=tmp_path / "two")
    result = launch_two(root, tmp_path, OUT_OF_MEMORY_AT_RANK_1, together)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr.count("开始训练") == 1
    assert "进程 1 显存不足：" in result.stderr
    assert "进程 0 显存不足：" not in result.stderr
    curves = [[r["loss"] for r in records(tmp_path / name, "train")] for name in ("one", "two")]
    assert curves[0] == pytest.approx(curves[1], abs=1e-3)
    finals = [records(tmp_path / name, "final") for name in ("one", "two")]
    assert finals[0][0]["dev_loss"] == pytest.approx(finals[1][0]["dev_loss"], rel=1e-3)


def test_a_stop_of_one_process_ends_an_evaluation_in_all(
    root: Path, arguments: Command, tmp_path: Path
) -> None:
    words = arguments(epochs=1, eval_steps=1, save_freq=0, fp16=False)
    result = launch_two(root, tmp_path, STOP_AT_RANK_1, words)
    assert result.returncode != 0
    assert "已保存第 1 步的检查点" in result.stderr
    assert "accelerate launch" in result.stderr[result.stderr.index("继续训练请运行") :]
    assert (tmp_path / "run" / "checkpoint-1" / "training_state.pt").exists()


def test_early_stopping_and_max_steps(arguments: Command, tmp_path: Path) -> None:
    stopped = arguments(epochs=5, eval_steps=1, learning_rate=1e-12, early_stopping_patience=2,
                        best_metric="dev_loss", eval_samples=0, save_dir=tmp_path / "patience")  # fmt: skip
    assert train.main(stopped) == 0
    assert len(records(tmp_path / "patience", "eval")) < 10
    assert train.main(arguments(epochs=5, max_steps=3, save_dir=tmp_path / "steps")) == 0
    assert [record["step"] for record in records(tmp_path / "steps", "eval")] == [2, 3]


def test_non_finite_steps_are_skipped_and_end_the_run(
    arguments: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    original, calls = modeling.next_token_loss, []

    def sometimes_nan(hidden_states, weight, labels, label_smoothing):
        calls.append(torch.is_grad_enabled())
        broken = calls.count(True) in (1, 2) and torch.is_grad_enabled()
        return original(hidden_states, weight, labels, label_smoothing) * (math.nan if broken else 1.0)

    monkeypatch.setattr(modeling, "next_token_loss", sometimes_nan)
    options = {"batch_size": 8, "gradient_accumulation_steps": 1, "logging_steps": 1, "epochs": 2}
    assert train.main(arguments(**options, save_dir=tmp_path / "skip")) == 0
    assert records(tmp_path / "skip", "train")[-1]["nonfinite_steps"] == 2
    adapter = load_file(tmp_path / "skip" / "model_best" / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in adapter.values())

    calls.clear()
    with pytest.raises(UserError, match=r"连续 2 步的损失或梯度不是有限数.*checkpoint-2"):
        train.main(arguments(**options, max_nonfinite_steps=2, save_dir=tmp_path / "stop"))
    assert (tmp_path / "stop" / "checkpoint-2" / "training_state.pt").exists()
    resumed = arguments(
        **options, max_nonfinite_steps=2, save_dir=tmp_path / "stop", resume_from_checkpoint="auto"
    )
    assert train.main(resumed) == 0  # as the message says, and the losses are finite again


def test_results_are_not_overwritten_unasked(arguments: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main(arguments(epochs=1, eval_samples=0, best_metric="dev_loss")) == 0
    before = (run / "model_best" / "adapter_model.safetensors").read_bytes()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"已有训练结果.*--resume_from_checkpoint auto"):
        train.main(arguments(epochs=1))
    assert (run / "model_best" / "adapter_model.safetensors").read_bytes() == before
    assert train.main(arguments(epochs=1, seed=7, overwrite_output_dir=True)) == 0
    assert (run / "model_best" / "adapter_model.safetensors").read_bytes() != before
    assert (run / "notes.txt").exists()
    assert len(records(run, "final")) == 1


def test_resuming_what_does_not_fit(arguments: Command, tmp_path: Path) -> None:
    quick = {"eval_samples": 0, "best_metric": "dev_loss"}
    assert train.main(arguments(epochs=1, **quick)) == 0
    with pytest.raises(UserError, match=r"以下各项不同：\n  lora_rank：检查点 8，现在 4\n请改回"):
        train.main(arguments(resume_from_checkpoint="auto", lora_rank=4, **quick))
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (checkpoint / "training_state.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"checkpoint-2 不能用（training_state.pt 的大小不对）"):
        train.main(arguments(resume_from_checkpoint=checkpoint))


def test_resuming_in_another_directory(arguments: Command, tmp_path: Path) -> None:
    quick = {"eval_samples": 0, "best_metric": "dev_loss", "save_freq": 1, "learning_rate": 1e-12}
    old, new = tmp_path / "run", tmp_path / "new"
    assert train.main(arguments(epochs=1, **quick)) == 0
    best = (old / "model_best" / "adapter_model.safetensors").read_bytes()
    options = {"epochs": 1, **quick, "resume_from_checkpoint": old / "checkpoint-2"}
    assert train.main(arguments(**options, save_dir=new)) == 0
    assert (new / "model_best" / "adapter_model.safetensors").read_bytes() == best
    with pytest.raises(UserError, match=r"new 里已有训练结果"):  # would be written among them
        train.main(arguments(**options, save_dir=new))
    shutil.rmtree(old / "model_best")
    assert train.main(arguments(**options, save_dir=tmp_path / "third")) == 0  # evaluated again
    assert (tmp_path / "third" / "model_best").exists()
    assert train.main(arguments(**options | {"epochs": 2}, save_dir=tmp_path / "fourth")) == 0
    assert (tmp_path / "fourth" / "model_best").exists()


def test_going_back_keeps_a_later_best_adapter(arguments: Command, tmp_path: Path, capsys) -> None:
    quick = {"eval_samples": 0, "best_metric": "dev_loss", "save_freq": 1, "eval_steps": 1, "epochs": 1}
    run = tmp_path / "run"
    assert train.main(arguments(**quick)) == 0
    best = (run / "model_best" / "adapter_model.safetensors").read_bytes()
    shutil.move(run / "checkpoint-2", tmp_path / "moved away")
    # A rate with which nothing is learnt, so that the adapter of step 2 stays the best.
    assert train.main(arguments(**quick | {"learning_rate": 1e-12}, resume_from_checkpoint="auto")) == 0
    assert "model_best 是第 2 步的，比它更好才会替换" in capsys.readouterr().err
    assert (run / "model_best" / "adapter_model.safetensors").read_bytes() == best


def test_the_only_checkpoint_is_recovered_before_it_is_looked_for(arguments: Command, tmp_path: Path) -> None:
    quick = {"eval_samples": 0, "best_metric": "dev_loss", "epochs": 1}
    run = tmp_path / "run"
    assert train.main(arguments(**quick)) == 0
    shutil.move(run / "checkpoint-2", run / ".checkpoint-2.old")  # killed between the two renames
    assert train.main(arguments(**quick, resume_from_checkpoint="auto")) == 0


def test_weight_decay_may_change_when_resuming(
    arguments: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"eval_samples": 0, "best_metric": "dev_loss"}
    assert train.main(arguments(epochs=1, weight_decay=0.5, **quick)) == 0
    seen = []
    original = gradients.take_step

    def watch(accelerator, optimizer, *figures):
        seen.extend(group["weight_decay"] for group in optimizer.param_groups)
        return original(accelerator, optimizer, *figures)

    monkeypatch.setattr(gradients, "take_step", watch)
    assert train.main(arguments(epochs=2, weight_decay=0.25, **quick, resume_from_checkpoint="auto")) == 0
    assert set(seen) == {0.25}


def test_labels_are_smoothed_in_steps_and_not_on_dev(
    arguments: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = modeling.next_token_loss

    def watch(hidden_states, weight, labels, label_smoothing):
        seen.append((hidden_states.requires_grad, label_smoothing))
        return original(hidden_states, weight, labels, label_smoothing)

    monkeypatch.setattr(modeling, "next_token_loss", watch)
    assert train.main(arguments(max_steps=1, label_smoothing=0.25)) == 0
    assert set(seen) == {(True, 0.25), (False, 0.0)}


def test_what_may_change_when_resuming(arguments: Command, tmp_path: Path, data: dict[str, str]) -> None:
    quick = {"eval_samples": 0, "best_metric": "dev_loss"}
    assert train.main(arguments(epochs=1, **quick)) == 0
    # More epochs, another rate, another split of the same eight samples a step, other logging: all safe.
    safe = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 4, "gradient_accumulation_steps": 2}
    assert train.main(arguments(**safe, **quick, logging_steps=1, resume_from_checkpoint="auto")) == 0
    assert [record["step"] for record in records(tmp_path / "run", "train")] == [3, 4]
    other = tmp_path / "other.jsonl"
    other.write_text(Path(data["--train_path"]).read_text(encoding="utf-8") * 2, encoding="utf-8")
    for changed, name in (
        ({"train_path": other}, "train_path"),
        ({"batch_size": 2}, "每步样本数"),
        ({"seed": 1}, "seed"),
        ({"eval_samples": 3}, "eval_samples"),  # the scores so far mean something else
    ):
        with pytest.raises(UserError, match=f"以下各项不同：\n  {name}[^\n]*\n请改回"):
            train.main(arguments(epochs=3, **quick | changed, resume_from_checkpoint="auto"))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"train_path": "absent.jsonl"}, r"找不到数据文件 absent.jsonl.*train_path"),
        ({"pre_model": "absent/model"}, r"找不到模型“absent/model”.*bases.download.*models/chatglm-tiny"),
        ({"lora_target_modules": "q_proj"}, r"q_proj 不是模型各层的线性层.*query_key_value"),
        ({"device": "cuda:7"}, "指定了 --device cuda:7"),
        ({"train_path": "长" * 300}, r"路径 长+ 不能用（File name too long）"),
        ({"train_path": "\udcca\udcfd.jsonl"}, "train_path"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_mistakes_have_one_sentence(arguments: Command, knobs: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train.main(arguments(**knobs))


def test_a_large_model_without_a_gpu(
    random_base: Path, arguments: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = json.loads((random_base / "config.json").read_text(encoding="utf-8"))
    large = {"num_layers": 28, "hidden_size": 4096, "inner_hidden_size": 16384, "num_attention_heads": 32}
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text(json.dumps(config | large | {"vocab_size": 130528}))
    words = arguments(pre_model=tmp_path / "large")
    position = words.index("--device")
    with pytest.raises(UserError, match=r"没有可用的 CUDA GPU.*6.2B.*--device cpu"):
        train.main(words[:position] + words[position + 2 :])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_gives_advice(
    arguments: Command, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def fail(self, samples):
        raise error

    monkeypatch.setattr(Gradients, "accumulate", fail)
    with pytest.raises(UserError, match=r"显存（内存）不足.*"):
        train.main(arguments())


def test_errors_of_the_command(root: Path, arguments: Command) -> None:
    result = run_command(root, arguments(train_path="absent.jsonl"))
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("错误：找不到数据文件")
    assert "Traceback" not in result.stderr
    assert "Traceback" in run_command(root, [*arguments(train_path="absent.jsonl"), "--debug"]).stderr


def test_under_nohup_there_are_plain_lines(root: Path, arguments: Command, tmp_path: Path) -> None:
    log_file = tmp_path / "training.log"
    with log_file.open("w") as output:
        words = arguments(epochs=1, logging_steps=1, dataloader_num_workers=1)
        command = ["nohup", sys.executable, "train.py", *words]
        subprocess.run(command, cwd=root, stdout=output, stderr=output, check=True, timeout=240)
    text = log_file.read_text(encoding="utf-8")
    assert "步 2/2 | 第 1.00 轮 | loss" in text
    assert not any(character in text for character in "\r\x1b\b")


def test_on_a_terminal_there_is_a_bar(root: Path, arguments: Command) -> None:
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments(epochs=1)], cwd=root, stderr=writer, stdout=subprocess.DEVNULL
    )
    os.close(writer)
    shown = b""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            chunk = os.read(reader, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    assert process.wait(timeout=60) == 0
    text = shown.decode("utf-8", "replace")
    assert "\r" in text
    assert "2/2" in text
    assert "token/s" in text
    assert "| 内存 " in text
    assert "步 2/2 |" not in text


def test_the_resume_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_dir = tmp_path / "my output"
    words = ["train.py", "--epochs", "2", "--overwrite-output-dir", "--save_dir", str(save_dir)]
    monkeypatch.setattr(sys, "argv", [*words, "--resume_from_checkpoint", "old"])
    run = SimpleNamespace(
        config=SimpleNamespace(save_dir=save_dir, init_adapter=None),
        files=SimpleNamespace(save_dir=save_dir),
        accelerator=SimpleNamespace(num_processes=1),
    )
    place = f"--save_dir '{save_dir}'"
    # Without a checkpoint, which has all knobs, they have to be given again.
    assert finish.resume_command(run) == f"python train.py --epochs 2 {place} --resume_from_checkpoint auto"
    run.config.init_adapter = "other"
    assert finish.resume_command(run) == f"python train.py --epochs 2 {place}"
    (save_dir / "checkpoint-3").mkdir(parents=True)
    expected = f"python train.py {place} --resume_from_checkpoint auto"
    assert finish.resume_command(run) == expected
    run.accelerator.num_processes = 2  # one process would have other optimiser steps
    assert finish.resume_command(run) == expected.replace("python", "accelerate launch（同样的选项）")


def test_every_knob_is_used(root: Path) -> None:
    """A knob that no code reads would be an option that does nothing."""
    files = [root / "train.py", *(root / "training").glob("*.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    for name in ProjectConfig().to_dict():
        assert f"config.{name}" in source or f'"{name}"' in source, name


def test_a_stop_during_the_last_evaluation_loses_nothing(
    arguments: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    original = evaluation._answer_dev

    def stop_in_the_last(run, samples):
        if samples is None:
            signal.raise_signal(signal.SIGTERM)
        return original(run, samples)

    words = arguments(epochs=2, learning_rate=5e-2, eval_samples=0, best_metric="dev_loss")
    monkeypatch.setattr(evaluation, "_answer_dev", stop_in_the_last)
    assert train.main(words) == 128 + signal.SIGTERM
    before = (tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors").read_bytes()
    assert "最后的评估没有做完" in capsys.readouterr().err
    monkeypatch.setattr(evaluation, "_answer_dev", original)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train.main([*words, "--resume_from_checkpoint", "auto"]) == 0
    assert len(records(tmp_path / "run", "final")) == 1
    assert (tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors").read_bytes() == before

"""What may go wrong during a run, and what must not be lost by it: disks, signals, memory, workers."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import train
from tests.helpers.killing import train_command
from training import assembly, gradients
from training import state as run_state
from training.gradients import Gradients
from training.run_directory import find_checkpoint
from utils.common_utils import UserError
from utils.directories import find_damage


@pytest.fixture
def words(root: Path, random_base: Path, tmp_path: Path) -> list[str]:
    """The arguments of a run of four steps with a checkpoint after each."""
    return train_command(root, random_base, tmp_path, tmp_path / "run", epochs=2)[2:]


@contextmanager
def limit_files(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def at_step(step: int, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something in the middle of an optimiser step (the steps of this process count from 1)."""
    original, calls = Gradients.accumulate, []

    def accumulate(self, samples):
        calls.append(samples)
        if len(calls) == step:
            action()
        return original(self, samples)

    monkeypatch.setattr(Gradients, "accumulate", accumulate)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU, signal.SIGQUIT]
)
def test_a_signal_ends_the_run_after_its_step(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, capsys
) -> None:
    signal.signal(number, signal.SIG_DFL)  # a shell lets its background jobs ignore some
    at_step(2, lambda: signal.raise_signal(number), monkeypatch)
    assert train.main(words) == 128 + number
    assert find_damage(tmp_path / "run" / "checkpoint-2") is None
    assert not (tmp_path / "run" / "checkpoint-3").exists()
    assert "--resume_from_checkpoint auto" in capsys.readouterr().err


def test_out_of_memory_loses_no_step(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    at_step(3, fail, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with pytest.raises(UserError, match="显存（内存）不足"):
        train.main([*words, "--save_freq", "0"])
    assert find_damage(tmp_path / "run" / "checkpoint-2") is None


@pytest.mark.usefixtures("two_threads")  # so the whole run has lanes
def test_out_of_memory_halves_the_passes_and_does_the_step_again(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pass that runs out of memory leaves gradients behind; the step done again must not count them."""
    words += ["--fp16", "false", "--load_in_4bit", "false", "--lora_dropout", "0", "--learning_rate", "0.01"]
    assert train.main([*words, "--save_dir", str(tmp_path / "whole")]) == 0
    whole = load_file(tmp_path / "whole" / "model_best" / "adapter_model.safetensors")
    AcceleratorState._reset_state(reset_partial_state=True)
    run_passes, sizes = Gradients._run, []
    monkeypatch.setattr(assembly, "lane_count", lambda *args, **kwargs: 1)  # as on a card

    def run(self, samples, passes, target_tokens):
        largest = max(each.tokens for each in passes)
        sizes.append(largest)
        loss = run_passes(self, samples, passes, target_tokens)
        if largest > 400:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    monkeypatch.setattr(Gradients, "_run", run)
    assert train.main(words) == 0
    assert sizes[0] > 400
    assert sizes[-1] <= 400
    assert "重做这一步" in capsys.readouterr().err
    halved = load_file(tmp_path / "run" / "model_best" / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 1e-3 for name, tensor in whole.items() if "lora_B" in name)
    for name, tensor in whole.items():
        torch.testing.assert_close(halved[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_killed_data_worker(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill_workers() -> None:
        children = psutil.Process().children(recursive=True)
        assert children
        for child in children:
            child.kill()

    at_step(1, kill_workers, monkeypatch)
    with pytest.raises(UserError, match=r"数据加载的工作进程被系统终止了.*--dataloader_num_workers 0"):
        train.main([*words, "--dataloader_num_workers", "1"])


def test_a_disk_that_is_too_full_to_begin(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(UserError, match=r"磁盘只剩 0.00 GB.*--save_dir"):
        train.main(words)


def test_a_save_that_fails_is_tried_again(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    original, calls = run_state.save, []

    def save(content, directory):
        calls.append(directory)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        original(content, directory)

    monkeypatch.setattr(run_state, "save", save)
    assert train.main(words) == 0
    said = capsys.readouterr().err
    assert said.count("检查点没有保存成功（No space left on device）") == 1
    assert find_damage(tmp_path / "run" / "checkpoint-4") is None


def test_a_disk_that_is_full_for_a_while(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Too little room for a checkpoint: it is not begun, and the next one is saved again."""
    usage, original = namedtuple("usage", "total used free"), shutil.disk_usage
    at_step(2, lambda: monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 0)), monkeypatch)
    at_step(3, lambda: monkeypatch.setattr(shutil, "disk_usage", original), monkeypatch)
    assert train.main(words) == 0
    assert capsys.readouterr().err.count("检查点没有保存成功（No space left on device）") == 1
    assert [path.name for path in sorted((tmp_path / "run").glob("checkpoint-*"))] == [
        "checkpoint-3",
        "checkpoint-4",
    ]


def test_a_report_that_cannot_be_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "run" / "eval_report.json"
    at_step(3, report.mkdir, monkeypatch)
    assert train.main(words) == 1
    error = capsys.readouterr().err
    assert "错误：训练完成，但最后一次保存失败：评估报告（" in error.splitlines()[-1]
    assert str(report) not in error  # there is none to be read


def test_a_disk_that_fills_up(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a limit on file size that only the adapter fits under: training ends, and says what is missing."""
    with limit_files(30_000):
        assert train.main(words) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "检查点没有保存成功（File too large）" in said
    last = said.splitlines()[-1]
    assert "错误：训练完成，但最后一次保存失败：检查点（File too large）" in last
    assert find_damage(tmp_path / "run" / "model_best") is None
    assert not list((tmp_path / "run").glob("*checkpoint*"))
    (final,) = [
        record
        for record in map(
            json.loads, (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        )
        if record["kind"] == "final"
    ]
    assert final["step"] == 4


def test_a_disk_with_no_room_for_the_adapter(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No save works, whatever type its error has; training goes on to its end and says so."""
    with (
        limit_files(3_000),
        pytest.raises(UserError, match=r"最佳模型一次也没有保存成功（File too large）"),
    ):
        train.main([*words, "--token_cache_dir", ""])
    said = capsys.readouterr().err
    assert said.count("检查点没有保存成功（File too large）") >= 4
    assert "步 3/4" in said
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {".training_run.json", "metrics.jsonl"}


def test_weights_that_are_no_numbers_are_never_saved(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, steps = gradients.take_step, []

    def spoil(accelerator, optimizer, *figures):
        outcome = original(accelerator, optimizer, *figures)
        steps.append(outcome)
        if len(steps) == 4:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].fill_(float("nan"))
        return outcome

    monkeypatch.setattr(gradients, "take_step", spoil)
    assert train.main(words) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "最后一次保存失败：检查点（LoRA 权重里有 NaN 或无穷大）" in last
    newest = find_checkpoint(tmp_path / "run", "auto")
    assert newest is not None and newest.name == "checkpoint-3"
    for directory in (newest, tmp_path / "run" / "model_best"):
        tensors = load_file(directory / "adapter_model.safetensors").values()
        assert all(tensor.isfinite().all() for tensor in tensors)


def test_what_others_have_in_the_directory_is_left_alone(words: list[str], tmp_path: Path) -> None:
    theirs = tmp_path / "run" / "metrics.jsonl"
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    for more in ([], ["--overwrite_output_dir"]):
        with pytest.raises(UserError, match=r"run 里的 metrics.jsonl 不是本项目的训练留下的，不会覆盖"):
            train.main([*words, *more])
    assert theirs.read_text() == "theirs"
    assert [path.name for path in theirs.parent.iterdir()] == ["metrics.jsonl"]


def test_a_launcher_s_environment_that_makes_no_sense(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a process would take itself for one of several, which neither locks nor writes."""
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="RANK=1 而没有 WORLD_SIZE"):
        train.main(words)
    assert not (tmp_path / "run").exists()

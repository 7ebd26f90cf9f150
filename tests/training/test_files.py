"""Saves that fail, leftovers in their way, and directories that are others'."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training import run_directory
from training.files import RunFiles
from training.log import MetricsLog
from training.run_directory import RunLock, lock_directory
from utils.common_utils import UserError
from utils.directories import find_damage, write_file

WEIGHTS = {"lora_A": torch.ones(8, 32), "lora_B": torch.ones(32, 8)}


def write_adapter(directory: Path) -> None:
    save_file(WEIGHTS, directory / "adapter_model.safetensors")
    (directory / "adapter_meta.json").write_text('{"step": 1}\n', encoding="utf-8")


def run_files(save_dir: Path, lock: RunLock | None = None) -> RunFiles:
    save_dir.mkdir(exist_ok=True)
    return RunFiles(save_dir, keep=2, adapter_bytes=0, checkpoint_bytes=0, lock=lock)


@pytest.fixture
def size_limit() -> Callable[[int], None]:
    """Limit the size of files, as a disk that fills up does; undone afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_at_any_byte_costs_the_save_only(
    tmp_path: Path, size_limit: Callable[[int], None], capsys
) -> None:
    files = run_files(tmp_path)
    assert files.save_best(write_adapter)
    state = {"state": {"step": torch.ones(600)}}
    largest = max(path.stat().st_size for path in (tmp_path / "model_best").iterdir())
    assert files.save_checkpoint(1, write_adapter, state)
    largest = max(largest, (tmp_path / "checkpoint-1" / "training_state.pt").stat().st_size)
    for limit in [*range(0, 64, 7), *range(64, largest, 211), largest - 1]:
        size_limit(limit)
        saved = files.save_checkpoint(limit + 2, write_adapter, state), files.save_best(write_adapter)
        size_limit(resource.RLIM_INFINITY)
        assert not saved[0]
        assert files.unsaved["检查点"] == "File too large"
        assert find_damage(tmp_path / "model_best") is None
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "model_best"]
    assert files.save_best(write_adapter) and files.save_checkpoint(99999, write_adapter, state)
    assert not files.unsaved
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("leftover", ["file", "link", "dangling link", "directory"])
def test_leftovers_are_no_obstacle(tmp_path: Path, leftover: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "theirs").touch()
    run = tmp_path / "run"
    run.mkdir()
    for name in ("model_best", ".model_best.new", ".model_best.old", ".checkpoint-1.trash"):
        if leftover == "file":
            (run / name).write_text("left")
        elif leftover == "directory":
            (run / name / "deep").mkdir(parents=True)
        else:
            (run / name).symlink_to(elsewhere if leftover == "link" else tmp_path / "nowhere")
    files = run_files(run)
    for _ in range(2):
        assert files.save_best(write_adapter)
        assert find_damage(run / "model_best") is None and not (run / "model_best").is_symlink()
    (run / "checkpoint-1").symlink_to(elsewhere)
    for step in (2, 3):
        assert files.save_checkpoint(step, write_adapter, {})
    names = sorted(path.name for path in run.iterdir())
    assert names == ["checkpoint-2", "checkpoint-3", "model_best"]
    assert (elsewhere / "theirs").exists()  # a link is removed, never what it leads to


def test_saved_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert run_files(tmp_path).save_best(write_adapter)
        write_file(tmp_path / "report.json", "{}")
    finally:
        os.umask(before)
    paths = [*(tmp_path / "model_best").iterdir(), tmp_path / "report.json"]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o640}


def test_too_little_room_for_the_best_adapter(tmp_path: Path) -> None:
    files = RunFiles(tmp_path, 1, adapter_bytes=2**60, checkpoint_bytes=0, lock=None)
    assert not files.save_best(write_adapter)
    assert files.unsaved == {"最佳模型": "No space left on device"}


def test_a_directory_that_is_no_longer_the_one_locked(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    with lock_directory(run) as lock:
        files = run_files(run, lock)
        (run / ".lock").unlink(missing_ok=True)  # nothing to be rid of the lock by
        with pytest.raises(UserError, match="另一个训练正在使用"), lock_directory(run):
            pass
        assert files.save_best(write_adapter)
        shutil.rmtree(run)
        run.mkdir()
        assert not files.save_best(write_adapter)
        assert "被删除或换掉了" in capsys.readouterr().err
        assert not list(run.iterdir())


def test_a_report_does_not_follow_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    run = tmp_path / "run"
    files = run_files(run)
    (run / "eval_report.json").symlink_to(victim)
    (run / ".metrics.jsonl.new").symlink_to(victim)
    (run / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    assert files.save_report("{}\n")
    MetricsLog(run, tensorboard=False, after_step=1).close()
    assert victim.read_text() == "theirs"
    assert not (run / "eval_report.json").is_symlink()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_metrics_go_to_a_plain_file_only(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "metrics.jsonl"
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(UserError, match=r"metrics.jsonl 不是普通文件"):
        MetricsLog(tmp_path, tensorboard=False)


def test_enormous_metrics_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    os.truncate(tmp_path / "metrics.jsonl", 60 * 2**30)
    with pytest.raises(UserError, match=r"metrics.jsonl 有 60.0 GB，不像是训练的记录"):
        MetricsLog(tmp_path, tensorboard=False)


def test_what_belongs_to_others(tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "eval_report.json"):
        (tmp_path / name).write_text("theirs")
    (tmp_path / "tensorboard").mkdir()
    assert run_directory.foreign_files(tmp_path) == ["tensorboard", "metrics.jsonl", "eval_report.json"]
    run_directory.write_marker(tmp_path, finished=False)
    assert run_directory.foreign_files(tmp_path) == []
    (tmp_path / run_directory.MARKER_FILE).unlink()
    run_files(tmp_path).save_best(write_adapter)  # of a version that left no marker
    assert run_directory.foreign_files(tmp_path) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"finished": ' + "[" * 100_000, '{"finished": "no"}'])
def test_a_damaged_marker(tmp_path: Path, content: str) -> None:
    (tmp_path / run_directory.MARKER_FILE).write_text(content)
    assert not run_directory.is_unfinished(tmp_path)


def test_damaged_manifests(tmp_path: Path) -> None:
    files = run_files(tmp_path)
    for step in (1, 2):
        assert files.save_checkpoint(step, write_adapter, {})
    manifest = tmp_path / "checkpoint-2" / "manifest.json"
    entry = json.loads(manifest.read_text())["files"]["adapter_meta.json"]
    for content in ('{"files": {}}', json.dumps({"files": {"adapter_meta.json": entry}}), "[" * 10**5):
        manifest.write_text(content)
        assert run_directory.find_checkpoint(tmp_path, "auto") == tmp_path / "checkpoint-1"

"""The directory of a run: its lock, what a kill leaves, checkpoints found and rotated."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from training import run_directory
from training.run_directory import lock_directory
from utils import directories
from utils.common_utils import UserError


@pytest.mark.parametrize("moment", ["before the first rename", "between the two", "after the second"])
def test_a_kill_while_replacing(tmp_path: Path, moment: str) -> None:
    """What a kill leaves is put right: the old directory or the new one, whole, and nothing else."""
    target = tmp_path / "model_best"
    for name in ("old", "new"):
        directories.write_directory(target, lambda new, name=name: (new / "file").write_text(name))
        if name == "old":
            shutil.copytree(target, tmp_path / "kept")
    if moment == "after the second":
        shutil.move(tmp_path / "kept", tmp_path / ".model_best.old")
    else:
        shutil.move(target, tmp_path / ".model_best.new")
        shutil.move(
            tmp_path / "kept", tmp_path / (".model_best.old" if "between" in moment else "model_best")
        )
    (tmp_path / ".checkpoint-3.trash").mkdir()
    run_directory.recover_directories(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model_best"]
    assert directories.find_damage(target) is None
    assert (target / "file").read_text() == ("new" if moment == "after the second" else "old")


def make_checkpoint(save_dir: Path, step: int) -> Path:
    path = run_directory.checkpoint_path(save_dir, step)
    state = {"state": {"global_step": step}}
    directories.write_directory(path, lambda new: torch.save(state, new / run_directory.STATE_FILE))
    return path


def damage_by_truncation(path: Path) -> None:
    file = path / run_directory.STATE_FILE
    file.write_bytes(file.read_bytes()[:-7])


def damage_by_a_flipped_bit(path: Path) -> None:
    file = path / run_directory.STATE_FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGES = {
    "training_state.pt 的大小不对": damage_by_truncation,
    "training_state.pt 的内容与校验和不符": damage_by_a_flipped_bit,
    "缺少 training_state.pt": lambda path: (path / run_directory.STATE_FILE).unlink(),
    "manifest.json 读不出来": lambda path: [file.unlink() for file in path.iterdir()],  # an empty directory
    "manifest.json 已损坏": lambda path: (path / directories.MANIFEST_FILE).write_text('{"files": 3}'),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path, reason: str, capsys) -> None:
    for step in (10, 20):
        make_checkpoint(tmp_path, step)
    DAMAGES[reason](tmp_path / "checkpoint-20")
    assert directories.find_damage(tmp_path / "checkpoint-20") == reason
    assert run_directory.find_checkpoint(tmp_path, "auto").name == "checkpoint-10"
    assert f"checkpoint-20 已损坏（{reason}）" in capsys.readouterr().err
    with pytest.raises(UserError, match=re.escape(f"不能用（{reason}）")):
        run_directory.find_checkpoint(tmp_path, str(tmp_path / "checkpoint-20"))
    # The damaged one does not stand in the way of an explicit choice of the one before.
    assert run_directory.find_checkpoint(tmp_path, str(tmp_path / "checkpoint-10")).name == "checkpoint-10"


def test_checkpoints_are_found_and_rotated(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-x").mkdir()
    names = [path.name for path in run_directory.list_checkpoints(tmp_path)]
    assert names == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]
    assert run_directory.find_checkpoint(tmp_path, "auto").name == "checkpoint-100"
    with pytest.raises(UserError, match=r"比 checkpoint-9 更新的检查点（checkpoint-100）"):
        run_directory.find_checkpoint(tmp_path, str(tmp_path / "checkpoint-9"))
    with pytest.raises(UserError, match="checkpoint-500 不能用（目录不存在）"):
        run_directory.find_checkpoint(tmp_path, str(tmp_path / "checkpoint-500"))
    run_directory.remove_old_checkpoints(tmp_path / "checkpoint-100", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-100",
        "checkpoint-20",
        "checkpoint-x",
    ]
    run_directory.remove_old_checkpoints(tmp_path / "checkpoint-100", 0)
    assert [path.name for path in run_directory.list_checkpoints(tmp_path)] == ["checkpoint-100"]
    assert run_directory.find_checkpoint(tmp_path / "absent", "auto") is None  # the run begins
    (tmp_path / "checkpoint-100" / "manifest.json").write_text('{"files": {}}')
    with pytest.raises(UserError, match="没有可继续的完整检查点"):
        run_directory.find_checkpoint(tmp_path, "auto")


@pytest.mark.parametrize(
    ("keep", "left"), [(1, ["250"]), (2, ["200", "250"]), (4, ["100", "200", "250", "300"])]
)
def test_rotation_keeps_what_was_just_saved(tmp_path: Path, keep: int, left: list[str]) -> None:
    """After going on from step 200 because checkpoint-300 is damaged."""
    for step in (100, 200, 300, 250):
        make_checkpoint(tmp_path, step)
    run_directory.remove_old_checkpoints(tmp_path / "checkpoint-250", keep)
    names = [path.name for path in run_directory.list_checkpoints(tmp_path)]
    assert names == [f"checkpoint-{step}" for step in left]


def test_recovery_and_clearing_touch_nothing_else(tmp_path: Path) -> None:
    theirs = [".config.new", ".cache.trash", ".venv.old", "checkpoint-300.bak", "checkpoint-notes.txt"]
    for name in theirs:
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "events").touch()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    make_checkpoint(tmp_path, 3)
    run_directory.recover_directories(tmp_path)
    run_directory.clear_results(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*theirs, "elsewhere"])
    assert (tmp_path / "elsewhere" / "events").exists()


def test_two_runs_in_one_directory(root: Path, tmp_path: Path) -> None:
    """The second is refused while the first lives; a kill leaves no lock behind."""
    code = (
        "import sys, time; from pathlib import Path; from training.run_directory import lock_directory\n"
        "with lock_directory(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(UserError, match="另一个训练正在使用"), lock_directory(tmp_path):
        pass
    process.kill()
    process.wait()
    with lock_directory(tmp_path):
        pass
    with lock_directory(tmp_path):
        pass


def test_a_data_worker_that_outlives_a_killed_run_holds_no_lock(tmp_path: Path) -> None:
    with lock_directory(tmp_path) as lock:
        fork = multiprocessing.get_context("fork")
        started = fork.Event()
        worker = fork.Process(target=lambda: (started.set(), time.sleep(60)), daemon=True)
        worker.start()
        assert started.wait(30)
        with pytest.raises(UserError, match="另一个训练正在使用"), lock_directory(tmp_path):
            pass
        lock._close()  # as a kill does
        with lock_directory(tmp_path):
            pass
        worker.kill()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="不可写"), lock_directory(tmp_path / "file" / "run"):
        pass

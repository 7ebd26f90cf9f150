"""Directories that are whole or absent, checkpoints found and rotated."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import pytest
import torch

from training import run_directory
from training import state as run_state
from utils import directories as checkpoint
from utils.common_utils import UserError, set_seed


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model_best"
    for content in ("old", "new"):
        checkpoint.write_directory(target, lambda new, content=content: (new / content).write_text(content))
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "new"]
    assert checkpoint.find_damage(target) is None
    assert [path.name for path in tmp_path.iterdir()] == ["model_best"]


def test_a_failure_leaves_the_old_directory(tmp_path: Path) -> None:
    target = tmp_path / "model_best"
    checkpoint.write_directory(target, lambda new: (new / "old").write_text("old"))

    def fail(new: Path) -> None:
        (new / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_directory(target, fail)
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "old"]
    assert [path.name for path in tmp_path.iterdir()] == ["model_best"]


def test_a_failure_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model_best"
    checkpoint.write_directory(target, lambda new: (new / "old").write_text("old"))
    original = Path.rename

    def rename(self: Path, destination: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError("no")
        return original(self, destination)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="no"):
        checkpoint.write_directory(target, lambda new: (new / "new").write_text("new"))
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "old"]


@pytest.mark.parametrize("moment", ["before the first rename", "between the two", "after the second"])
def test_a_kill_while_replacing(tmp_path: Path, moment: str) -> None:
    """What a kill leaves is put right: the old directory or the new one, whole, and nothing else."""
    target = tmp_path / "model_best"
    for name in ("old", "new"):
        checkpoint.write_directory(target, lambda new, name=name: (new / "file").write_text(name))
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
    assert checkpoint.find_damage(target) is None
    assert (target / "file").read_text() == ("new" if moment == "after the second" else "old")


def make_checkpoint(save_dir: Path, step: int) -> Path:
    path = run_directory.checkpoint_path(save_dir, step)
    state = {"state": {"global_step": step}}
    checkpoint.write_directory(path, lambda new: torch.save(state, new / run_directory.STATE_FILE))
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
    "manifest.json 已损坏": lambda path: (path / checkpoint.MANIFEST_FILE).write_text('{"files": 3}'),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path, reason: str, capsys) -> None:
    for step in (10, 20):
        make_checkpoint(tmp_path, step)
    DAMAGES[reason](tmp_path / "checkpoint-20")
    assert checkpoint.find_damage(tmp_path / "checkpoint-20") == reason
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


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("owned",))


def test_a_state_that_executes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Payload(), tmp_path / run_directory.STATE_FILE)
    with pytest.raises(UserError, match="已损坏"):
        run_state.load_state(tmp_path)
    assert not Path("owned").exists()


def test_random_generators_go_back(tmp_path: Path) -> None:
    import numpy as np

    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.standard_normal(), torch.rand(1).item()  # noqa: NPY002

    set_seed(3)
    draw()  # leaves numpy with a second normal number in store
    torch.save(run_state.random_state(), tmp_path / "state.pt")
    expected = draw()
    run_state.restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected

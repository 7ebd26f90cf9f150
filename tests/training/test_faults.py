"""File operations of a run that fail, one in each run: nothing but that save is lost (all in tests/soak)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import train
from tests.helpers.faults import Injector
from tests.helpers.killing import train_command
from training.run_directory import list_checkpoints
from utils.common_utils import UserError
from utils.directories import find_damage

SHORT = 3


@pytest.fixture(scope="module")
def injector() -> Injector:
    return Injector()


def last_weights(save_dir: Path) -> dict[str, bytes]:
    tensors = load_file(list_checkpoints(save_dir)[-1] / "adapter_model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def run(words: list[str]) -> int:
    try:
        return train.main(words)
    except UserError:
        return 2
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def survive(injector: Injector, words: list[str], save_dir: Path, fail_at: int) -> None:
    """Run with one operation that fails, then once more: the second run ends as one without faults does."""
    words = [*words, "--save_dir", str(save_dir), "--resume_from_checkpoint", "auto"]
    with injector.below(save_dir, fail_at):
        code = run(words)
    assert code in (0, 1, 2), injector.failed
    for path in (*list_checkpoints(save_dir), save_dir / "model_best"):
        assert not path.exists() or find_damage(path) is None, (injector.failed, path)
    assert run(words) == 0, injector.failed


def test_faults(root: Path, random_base: Path, tmp_path: Path, injector: Injector) -> None:
    words = train_command(root, random_base, tmp_path, tmp_path / "whole", epochs=1)[2:]
    with injector.below(tmp_path / "whole", 0):
        assert run(words) == 0
    expected, operations = last_weights(tmp_path / "whole"), injector.count
    assert operations > 50
    for fail_at in random.Random(0).sample(range(1, operations + 1), SHORT):
        survive(injector, words, tmp_path / f"run{fail_at}", fail_at)
        assert last_weights(tmp_path / f"run{fail_at}") == expected, injector.failed


@pytest.mark.soak
def test_every_fault(
    root: Path, random_base: Path, tmp_path: Path, injector: Injector, tally: dict[str, tuple[int, int]]
) -> None:
    words = train_command(root, random_base, tmp_path, tmp_path / "whole", epochs=1)[2:]
    with injector.below(tmp_path / "whole", 0):
        assert run(words) == 0
    expected, operations = last_weights(tmp_path / "whole"), injector.count
    for fail_at in range(1, operations + 1):
        survive(injector, words, tmp_path / f"run{fail_at}", fail_at)
        assert last_weights(tmp_path / f"run{fail_at}") == expected, injector.failed
        tally["faults of a training survived"] = fail_at, operations

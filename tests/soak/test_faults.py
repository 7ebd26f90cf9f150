"""Every file operation of a training fails once, one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.faults import Injector, last_weights, run, survive
from tests.helpers.killing import train_command

pytestmark = pytest.mark.soak


def test_every_fault(
    root: Path, random_base: Path, tmp_path: Path, tally: dict[str, tuple[int, int]]
) -> None:
    words, injector = train_command(root, random_base, tmp_path, tmp_path / "whole", epochs=1)[2:], Injector()
    with injector.below(tmp_path / "whole", 0):
        assert run(words) == 0
    expected, operations = last_weights(tmp_path / "whole"), injector.count
    for fail_at in range(1, operations + 1):
        save_dir = tmp_path / f"run{fail_at}"
        survive(injector, words, save_dir, fail_at)
        assert last_weights(save_dir) == expected, injector.failed
        tally["faults of a training survived"] = fail_at, operations
        shutil.rmtree(save_dir)

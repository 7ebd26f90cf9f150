"""File operations of a run that fail, one in each run: nothing but that save is lost (all in tests/soak)."""

from __future__ import annotations

import random
from pathlib import Path

from tests.helpers.faults import Injector, last_weights, run, survive
from tests.helpers.killing import train_command

SHORT = 3  # of some two hundred operations


def test_faults(root: Path, random_base: Path, tmp_path: Path) -> None:
    words, injector = train_command(root, random_base, tmp_path, tmp_path / "whole", epochs=1)[2:], Injector()
    with injector.below(tmp_path / "whole", 0):
        assert run(words) == 0
    expected, operations = last_weights(tmp_path / "whole"), injector.count
    assert operations > 50
    for fail_at in random.Random(0).sample(range(1, operations + 1), SHORT):
        survive(injector, words, tmp_path / f"run{fail_at}", fail_at)
        assert last_weights(tmp_path / f"run{fail_at}") == expected, injector.failed

"""A killed and resumed run ends as if it had never been killed (the long version is in tests/soak)."""

from __future__ import annotations

import random
from pathlib import Path

import train
from tests.helpers.killing import outcome, run_with_kills, train_command


def test_a_killed_run_ends_like_one_that_never_was(root: Path, random_base: Path, tmp_path: Path) -> None:
    whole = train_command(root, random_base, tmp_path, tmp_path / "whole", epochs=6)
    assert train.main(whole[2:]) == 0
    cut = train_command(root, random_base, tmp_path, tmp_path / "cut", epochs=6)
    hits = run_with_kills(root, cut, tmp_path / "cut", kills=2, rng=random.Random(1), window=1.5)
    assert hits >= 1
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")

"""Mutated files of models and adapters are refused in a sentence, or sound (thousands of them: make soak)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.hostile_models import FILES, try_all


@pytest.mark.parametrize("kind", FILES)
def test_a_few_of_each_kind(root: Path, tmp_path: Path, kind: str) -> None:
    counts = try_all(root, tmp_path, kind, count=6, seed=0)
    assert sum(counts.values()) == 6 and counts["refused"]

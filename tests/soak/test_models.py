"""Files of models and adapters mutated by the thousand, each kind in a child with a limit of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.hostile_models import FILES

pytestmark = pytest.mark.soak

TRIED, SECONDS = 2000, 1500  # of each kind


@pytest.mark.parametrize("kind", FILES)
def test_mutated_files(root: Path, tmp_path: Path, tally: dict[str, tuple[int, int]], kind: str) -> None:
    words = ["-m", "tests.helpers.hostile_models", str(tmp_path), kind, str(TRIED), "1"]
    result = subprocess.run(
        [sys.executable, *words], cwd=root, capture_output=True, text=True, timeout=SECONDS
    )
    assert result.returncode == 0, result.stderr[-3000:]
    counts = json.loads(result.stdout.splitlines()[-1])
    tally[f"mutated {kind}"] = sum(counts.values()), TRIED
    assert counts["refused"] > TRIED / 4

"""Training states mutated by bytes and by structure: each is refused in a sentence, or sound."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytestmark = pytest.mark.soak

TRIED, MEMORY, SECONDS = 4000, 4 * 2**30, 900


def mutate(value: Any, rng: Random) -> None:
    """Put something else in one place of a structure."""
    import torch

    strange = [
        None,
        -1,
        2**70,
        math.nan,
        math.inf,
        "x",
        [],
        {},
        (1,),
        torch.ones(3),
        True,
        10.0**300,
        [1] * 5,
    ]
    strange += [torch.ones(2).expand(2), torch.ones(1).expand(10**9), torch.zeros(0)]
    while isinstance(value, (dict, list)) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if rng.random() < 0.4 or not isinstance(value[key], (dict, list)):
            value[key] = rng.choice(strange)
            return
        value = value[key]


def mutate_bytes(good: bytes, rng: Random) -> bytes:
    """Flip bits, and put other bytes in the place of some."""
    content = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content))
        if rng.random() < 0.7:
            content[place] ^= 1 << rng.randrange(8)
        else:
            content[place : place + rng.randrange(50)] = rng.randbytes(rng.randrange(50))
    return bytes(content)


def try_all(directory: Path) -> dict[str, int]:
    """Load mutated states in this process; return how often what came of it."""
    from tests.training.test_state import ACCELERATOR, content, optimizer_after_a_step
    from training import state as run_state
    from training.run_directory import STATE_FILE
    from utils.common_utils import UserError

    rng, counts = Random(0), {"refused": 0, "sound": 0}
    run_state.save(content(), directory)
    good = (directory / STATE_FILE).read_bytes()
    for number in range(TRIED):
        if number % 2:
            (directory / STATE_FILE).write_bytes(mutate_bytes(good, rng))
        else:
            changed = content()
            mutate(changed, rng)
            run_state.save(changed, directory)
        try:
            saved = run_state.read(directory, {"seed": "42"})
            run_state.restore(ACCELERATOR, optimizer_after_a_step(), saved, directory)
            counts["sound"] += 1
        except UserError:
            counts["refused"] += 1
    return counts


def test_mutated_states(root: Path, tmp_path: Path, tally: dict[str, tuple[int, int]]) -> None:
    code = f"""
import json, pathlib, resource
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
from tests.soak.test_states import try_all
print(json.dumps(try_all(pathlib.Path({str(tmp_path)!r}))))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=SECONDS
    )
    assert result.returncode == 0, result.stderr[-3000:]
    counts = json.loads(result.stdout.splitlines()[-1])
    tally["mutated training states"] = sum(counts.values()), TRIED
    assert sum(counts.values()) == TRIED and counts["refused"] > TRIED / 4

"""Hostile files made by a generator: each is read for what it is, or refused with a sentence."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.soak.hostile import Kind, Materials, Verdict, cases, make, minimised, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
FILES = int(os.environ.get("HOSTILE_FILES", "20000"))  # of the long run
# Found by the generator and mended since: (kind, seed).
FOUND = [
    ("adapter", 6), ("bin", 6), ("bin", 22), ("bin", 26), ("index", 19), ("index", 28), ("tokenizer", 11),
    ("adapter", 900014), ("schema", 56), ("adapter", 368),
]  # fmt: skip


@pytest.fixture(scope="module")
def kinds(root: Path, random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return Materials(root, random_base, tmp_path_factory.mktemp("hostile")).kinds()


def bad_ones(
    kinds: dict[str, Kind], count: int, first_seed: int, scratch: Path, tally: Counter[str]
) -> list[str]:
    """Run so many cases; return what is bad, each with what to run to see it again."""
    bad = []
    for name, seed in cases(kinds, count, first_seed):
        verdict = run(kinds[name], *make(kinds[name], name, seed, scratch))
        tally[verdict.outcome] += 1
        if verdict.bad:
            least = minimised(kinds[name], name, seed, scratch)
            bad.append(f"{name} {seed}: {least.outcome}: {least.did}\n{least.detail[-600:]}")
    return bad


def test_a_few_of_each_kind(kinds: dict[str, Kind], tmp_path: Path) -> None:
    tally: Counter[str] = Counter()
    assert bad_ones(kinds, 3 * len(kinds), 1_000_000, tmp_path, tally) == []
    assert tally["accepted"] and tally["refused"]  # neither everything nor nothing


@pytest.mark.parametrize(("name", "seed"), FOUND)
def test_found_before(kinds: dict[str, Kind], name: str, seed: int, tmp_path: Path) -> None:
    verdict = run(kinds[name], *make(kinds[name], name, seed, tmp_path))
    assert not verdict.bad, verdict


def test_the_verdict_sees_what_is_bad(kinds: dict[str, Kind], tmp_path: Path) -> None:
    def verdict_of(read: object) -> Verdict:
        kind = kinds["schema"]._replace(read=read)
        return run(kind, *make(kind, "schema", 0, tmp_path))

    def take_memory(path: Path) -> None:
        bytearray(1500 * 2**20)[::4096] = b"x" * (1500 * 2**20 // 4096)

    def lie(path: Path) -> None:
        raise AssertionError("a lie")

    assert verdict_of(lambda path: os.abort()).outcome == "crash"
    assert verdict_of(lambda path: {}["nothing"]).outcome == "traceback"
    assert verdict_of(take_memory).outcome == "memory"
    assert verdict_of(lie).outcome == "lie accepted"


@pytest.mark.soak
def test_generated_files(kinds: dict[str, Kind], tmp_path: Path, tally: dict[str, tuple[int, int]]) -> None:
    counts: Counter[str] = Counter()
    bad = bad_ones(kinds, FILES, 0, tmp_path, counts)
    tally[f"hostile files ({dict(counts)})"] = FILES - len(bad), FILES
    assert bad == []

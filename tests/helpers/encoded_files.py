"""Helpers of the tests of encoded files and their cache."""

from __future__ import annotations

from pathlib import Path

from data_handle.encoded_file import EncodedFile

LIMITS = {"max_source_seq_len": 128, "max_target_seq_len": 96}


def caches(directory: Path) -> list[Path]:
    """The caches in a directory."""
    return sorted(directory.glob("tokens-*"))


def assert_same(left: EncodedFile, right: EncodedFile) -> None:
    """Compare all that loading a file gives."""
    assert list(left.dataset.features) == list(right.dataset.features)
    assert left.dataset.lengths.tolist() == right.dataset.lengths.tolist()
    assert left.dataset.lengths.dtype == right.dataset.lengths.dtype
    assert list(left.examples) == list(right.examples)
    assert (left.bad_lines, left.summary, left.combinations) == (
        right.bad_lines,
        right.summary,
        right.combinations,
    )
    assert left.report() == right.report()

"""Digests remembered by size and time, and taken anew when either changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from utils import digest_cache


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(digest_cache, "REMEMBERED_BYTES", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "large.bin").write_bytes(b"x" * 100)
    return tmp_path / "large.bin"


def test_a_large_file_is_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashlib.sha256(b"x" * 100).hexdigest()
    assert digest_cache.remembered_digest(large) == expected
    with monkeypatch.context() as patch:
        patch.setattr(digest_cache, "file_digest", lambda path: "read again")
        assert digest_cache.remembered_digest(large) == expected
        os.utime(large, ns=(1, 1))
        assert digest_cache.remembered_digest(large) == "read again"
    large.write_bytes(b"y" * 100)
    assert digest_cache.remembered_digest(large) == hashlib.sha256(b"y" * 100).hexdigest()


@pytest.mark.parametrize("content", ["{", "[]", '{"x": 3}', None])
def test_a_cache_that_is_none_costs_the_time_only(large: Path, content: str | None) -> None:
    cache = digest_cache.cache_file()
    if content is None:
        cache.parent.parent.write_text("no folder")
    else:
        cache.parent.mkdir(parents=True)
        cache.write_text(content)
    assert digest_cache.remembered_digest(large) == hashlib.sha256(b"x" * 100).hexdigest()


def test_small_files_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "small").write_bytes(b"x")
    assert digest_cache.remembered_digest(tmp_path / "small") == hashlib.sha256(b"x").hexdigest()
    assert not (tmp_path / "cache").exists()

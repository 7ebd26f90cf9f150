"""Fixtures of the tests of data_handle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_handle.converting import Runner


@pytest.fixture
def runner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Converts files in an empty folder."""
    return Runner(tmp_path, capsys)

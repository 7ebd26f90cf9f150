"""The summary table of a soak run."""

from __future__ import annotations

import time

import pytest

TALLY = pytest.StashKey[dict[str, tuple[int, int]]]()
STARTED = time.monotonic()


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> dict[str, tuple[int, int]]:
    """Where each test enters (survived, tried) under what it tried."""
    return request.config.stash.setdefault(TALLY, {})


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    rows = config.stash.get(TALLY, {})
    if not rows:
        return
    terminalreporter.section("soak")
    for name, (survived, tried) in rows.items():
        terminalreporter.write_line(f"{name:<42} {survived:>6} / {tried:<6} {survived / tried:8.2%}")
    terminalreporter.write_line(f"{time.monotonic() - STARTED:.0f} s")

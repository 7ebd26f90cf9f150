"""Signals as wishes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training import stop as interrupt


def test_signals_that_are_ignored_stay_so(root: Path) -> None:
    """nohup ignores SIGHUP; a closed terminal must then not stop the run."""
    code = (
        "import signal; from training.stop import StopRequest\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); stop = StopRequest(None)\n"
        "signal.raise_signal(signal.SIGHUP); print(stop.signal)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); stop = StopRequest(None)\n"
        "signal.raise_signal(signal.SIGHUP); print(int(stop.signal))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["None", str(int(signal.SIGHUP))]


def test_the_first_signal_is_a_wish_the_second_an_order(capsys) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets its background jobs ignore it
    try:
        stop = interrupt.StopRequest("马上停。")
        assert stop.signal is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        assert stop.exit_code == 143
        assert "马上停。" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)

"""Signals that ask a long-running loop to end, as wishes that it can honour at a safe moment."""

from __future__ import annotations

import signal
from types import FrameType

from utils.common_utils import log

# Ctrl-C, kill, a closed terminal, Ctrl-\ and what clusters send before they kill. (Windows has two of them.)
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGXCPU")

_REPEATED = ("SIGUSR1", "SIGXCPU")  # machines send these again and again: not an order to stop at once


class StopRequest:
    """Remembers the first of `STOP_SIGNALS`; a second one interrupts at once.

    Signals that are ignored (SIGHUP under nohup) stay so.

    Args:
        promise: what the loop will do about it, said to the user at once. None says nothing.
    """

    def __init__(self, promise: str | None) -> None:
        self.signal: int | None = None
        self._promise = promise
        for name in STOP_SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if signal.Signals(number).name in _REPEATED:
                return
            raise KeyboardInterrupt
        self.signal = number
        if self._promise:
            log(f"\n{self._promise}")

    @property
    def exit_code(self) -> int:
        """The exit code by which shells know a process that ended on this signal.

        SIGTERM's where no signal came: then another process of the run was asked.
        """
        return 128 + (signal.SIGTERM if self.signal is None else self.signal)

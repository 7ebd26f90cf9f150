"""Ctrl-C, SIGTERM and a closed terminal as wishes that a long-running loop can honour at a safe moment."""

from __future__ import annotations

import signal
from types import FrameType

from utils.common_utils import log


class StopRequest:
    """Remembers the first SIGINT, SIGTERM or SIGHUP; a second one interrupts at once.

    Signals that are ignored (SIGHUP under nohup) stay so.

    Args:
        promise: what the loop will do about it, said to the user at once. None says nothing.
    """

    def __init__(self, promise: str | None) -> None:
        self.signal: int | None = None
        self._promise = promise
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if self._promise:
            log(f"\n{self._promise}")

    @property
    def exit_code(self) -> int:
        """The exit code by which shells know a process that ended on this signal."""
        return 128 + (self.signal or 0)

"""How far a job is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from utils.common_utils import log
from utils.table import display_width, shorten

MIN_BAR, MAX_BAR = 6, 30  # columns
MIN_STATUS = 8  # columns; a status with less room says nothing


def show_duration(seconds: float) -> str:
    """Return a time as h:mm:ss."""
    whole = int(max(seconds, 0))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Progress:
    """How far a job is: a tqdm bar on a terminal; elsewhere a plain line every `INTERVAL` seconds at most.

    A terminal that is closed meanwhile costs the bar only.

    Args:
        total: how much there is to do; None if that is not known.
        unit: what is counted, in Chinese.
        done: how much was done before (a resumed run); it does not count for the speed.
        enabled: False keeps silent (every process but the main one).
        leave: the last state stays when the job is over.
    """

    INTERVAL = 10.0  # seconds between lines

    def __init__(
        self,
        total: int | None = None,
        unit: str = "句",
        done: int = 0,
        enabled: bool = True,
        leave: bool = True,
    ) -> None:
        self._total, self._unit, self._leave = total, unit, leave
        self._done = done
        self._worked = 0  # of what is done: in this run
        self._enabled = enabled
        self._status = ""
        self._start = self._last_line = time.monotonic()
        self._said = False  # the present state stands in a line already
        self._bar: _Bar | None = None
        if enabled and sys.stderr.isatty():
            self._bar = _Bar(self, total=total, initial=done, leave=leave, file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, count: int = 1, status: str | None = None) -> None:
        """Count what was done just now; `status`, if given, stands behind the figures from now on."""
        self._worked += count
        self._count(count, status)

    def skip(self, count: int) -> None:
        """Count what needed no work (it was done in an earlier run, say): it tells nothing of the speed."""
        self._count(count, None)

    def step_line(self, line: str) -> None:
        """Write a line of the job's own, with figures that a bar shows already: where no bar does."""
        if self._enabled and self._bar is None:
            self._line(line)

    def message(self, line: str) -> None:
        """Write a line that must be seen in either case; a bar stays below it."""
        if not self._enabled:
            return
        if self._bar is None:
            self._line(line)
            return
        try:
            with tqdm.external_write_mode(file=sys.stderr):
                log(line)
        except (OSError, ValueError):
            self._drop_bar()

    def close(self) -> None:
        """Leave the last state standing."""
        if self._bar is not None:
            try:
                self._bar.close()
            except (OSError, ValueError):
                self._drop_bar()
            self._bar, self._said = None, True
        elif self._enabled and self._leave and not self._said:
            self._line(self.describe())

    def describe(self) -> str:
        """Return the present state as a plain line."""
        parts = [f"已完成 {self._done}{'' if self._total is None else f'/{self._total}'} {self._unit}"]
        parts.append(self._speed())
        if left := self._time_left():
            parts.append(f"剩余 {left}")
        return "，".join(parts) + (f" | {self._status}" if self._status else "")

    def render(self, columns: int, ascii_only: bool = False) -> str:
        """Return the present state as a bar for a terminal of so many columns.

        Bar, share and count come first, then the time left, the status (shortened) and the speed, as far as
        there is room.
        """
        if self._total is None:
            parts = [f"{self._done} {self._unit}"]
            room = columns - display_width(parts[0])
        else:
            share = min(self._done / self._total, 1.0) if self._total else 1.0
            parts = [f"{int(share * 100):3d}%", f"{self._done}/{self._total}"]
            room = columns - sum(map(display_width, parts)) - len("|| ") - MIN_BAR
        speed, left = self._speed(), self._time_left() or "?"
        wanted = min(display_width(self._status), MIN_STATUS * 4) + 1 if self._status else 0
        if room - len(left) - 4 >= wanted:
            left = f"剩 {left}"
        extras = [speed] if self._total is None else [left, speed]
        for extra in extras:
            width = display_width(extra) + 1
            if width <= (room - wanted if extra is speed else room):
                parts.append(extra)
                room -= width
        if self._status and room > MIN_STATUS:
            parts.append(shorten(self._status, room - 1))
            room -= display_width(parts[-1]) + 1
        if self._total is None:
            return shorten(" ".join(parts), columns)
        width = min(MIN_BAR + max(room, 0), MAX_BAR)
        full = int(share * width)
        bar = ("#" * full).ljust(width, "-") if ascii_only else ("█" * full).ljust(width)
        return shorten(f"{parts[0]}|{bar}| " + " ".join(parts[1:]), columns)

    def _count(self, count: int, status: str | None) -> None:
        self._done += count
        self._status = self._status if status is None else status
        self._said = False
        if self._bar is not None:
            try:
                self._bar.update(count)
            except (OSError, ValueError):
                self._drop_bar()
        elif self._enabled and time.monotonic() - self._last_line >= self.INTERVAL:
            self._line(self.describe())

    def _line(self, line: str) -> None:
        log(line)
        self._last_line, self._said = time.monotonic(), True

    def _drop_bar(self) -> None:
        """Go on without a bar: its terminal was closed."""
        if self._bar is not None:
            self._bar.disable = True  # so that it writes nothing when it is collected
        self._bar = None

    def _rate(self) -> float:
        return self._worked / max(time.monotonic() - self._start, 1e-9)

    def _speed(self) -> str:
        return f"{self._rate():.2f} {self._unit}/秒"

    def _time_left(self) -> str:
        if self._total is None or not self._worked:
            return ""
        return show_duration((self._total - self._done) / self._rate())


class _Bar(tqdm):
    """tqdm's care for refreshing and for the terminal, with the look of `Progress.render`."""

    monitor_interval = 0  # no thread: data workers are forked beside it

    def __init__(self, progress: Progress, **options: Any) -> None:
        self._progress = progress
        super().__init__(miniters=1, dynamic_ncols=True, **options)

    def __str__(self) -> str:
        figures = self.format_dict
        columns = (figures["ncols"] or 80) - 1  # a full line would wrap on some terminals
        return self._progress.render(columns, ascii_only=bool(figures["ascii"]))

"""Progress: a bar that fits its terminal, lines elsewhere, and nothing lost with a closed terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest

from utils import progress as module
from utils.progress import Progress, show_duration
from utils.table import display_width


class Terminal(io.StringIO):
    """A terminal; `closed_by_user` makes writing fail as it does once the window is gone."""

    encoding = "utf-8"
    closed_by_user = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if self.closed_by_user:
            raise OSError(5, "Input/output error")
        return super().write(text)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time in seconds, to be set by the test."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal where messages go. (No fixture: pytest's own capturing begins after those.)"""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_lines_come_every_ten_seconds_at_most(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total=40) as progress:
        for now in (1.0, 11.0, 12.0):
            clock[0] = now
            progress.advance(10)
        clock[0] = 20.0
    assert capsys.readouterr().err.splitlines() == [
        "已完成 20/40 句，1.82 句/秒，剩余 0:00:11",
        "已完成 30/40 句，1.50 句/秒，剩余 0:00:06",
    ]


def test_what_was_done_before_tells_nothing_of_the_speed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(total=100, unit="步", done=50)
    progress.skip(20)
    clock[0] = 10.0
    progress.advance(10, "loss 0.5")
    assert capsys.readouterr().err == "已完成 80/100 步，1.00 步/秒，剩余 0:00:20 | loss 0.5\n"


def test_a_line_of_the_job_itself_counts_as_one(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(total=9)
    clock[0] = 9.0
    progress.step_line("步 1")
    clock[0] = 12.0
    progress.advance()
    progress.message("已保存")
    progress.close()
    assert capsys.readouterr().err.splitlines() == ["步 1", "已保存"]


def test_unknown_length_and_silence(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().close()
    assert capsys.readouterr().err.startswith("已完成 0 句，")
    silent = Progress(enabled=False)
    silent.advance()
    silent.message("什么")
    silent.step_line("什么")
    silent.close()
    Progress(leave=False).close()
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal_and_a_message_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with Progress(total=4) as progress:
        progress.advance(3)
        progress.step_line("只给日志文件")
        progress.message("已保存 \x1b[2J")
        progress.advance(1)
    shown = terminal.getvalue()
    assert "4/4" in shown and "█" in shown and "\r" in shown
    assert "只给日志文件" not in shown
    assert "已保存 \\x1b[2J\n" in shown


STATUS = "loss 0.1234 | lr 1.00e-04 | 梯度 0.50 | 1234 token/s | 显存 12.3 GB"


@pytest.mark.parametrize("columns", [12, 20, 30, 39, 60, 79, 119, 300])
@pytest.mark.parametrize(("total", "done"), [(240, 7), (1_000_000, 999_999), (None, 12345)])
def test_a_line_never_exceeds_its_terminal(
    clock: list[float], total: int | None, done: int, columns: int
) -> None:
    progress = Progress(total=total, unit="步", enabled=False)
    clock[0] = 100.0
    progress.advance(done, STATUS)
    assert display_width(progress.render(columns)) <= columns


def test_a_narrow_terminal_keeps_bar_and_figures_and_shortens_the_status(clock: list[float]) -> None:
    progress = Progress(total=240, unit="步", enabled=False)
    clock[0] = 60.0
    progress.advance(60, STATUS)
    assert progress.render(39) == " 25%|█     | 60/240 0:03:00 loss 0.123…"
    assert progress.render(23) == " 25%|██        | 60/240"
    wide = progress.render(119)
    assert STATUS in wide and "剩 0:03:00" in wide and "1.00 步/秒" in wide
    assert progress.render(39, ascii_only=True).startswith(" 25%|#-----|")


def test_a_closed_terminal_costs_the_bar_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    progress = Progress(total=4)
    terminal.closed_by_user = True
    for _ in range(2):
        progress.advance(1)
        progress.message("已保存")
    progress.close()
    del progress


def test_a_terminal_closed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    progress = Progress(total=4)
    terminal.closed_by_user = True
    progress.close()


def test_durations() -> None:
    assert [show_duration(seconds) for seconds in (0, 61.9, 36_000, -1)] == [
        "0:00:00",
        "0:01:01",
        "10:00:00",
        "0:00:00",
    ]

"""The console: sentences typed."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from extraction import console
from extraction.console import read_sentences


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("word", ["exit", "QUIT", " 退出 "])
def test_piped_sentences(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"　甲\n\n  \n乙 \n{word}\n丙\n"))
    assert list(read_sentences()) == ["　甲", "乙"]  # an indent counts for the offsets


def test_piped_sentences_end_with_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("甲\n乙"))
    assert list(read_sentences()) == ["甲", "乙"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028"])
def test_pasted_lines_are_sentences_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    script = [
        end.join(["甲。", "", " 乙。", "help", "丙。"]) + "\n",
        end.join(["丁。", "exit", "戊。"]) + "\n",
    ]
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(console, "_terminal_reader", lambda: scripted(list(script)))
    assert list(read_sentences()) == ["甲。", " 乙。", "丙。", "丁。"]
    assert "粘贴多行时一行一句" in capsys.readouterr().err


def scripted(answers: list[str | BaseException]) -> object:
    def read() -> str:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return read


def test_interrupts_at_the_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt = KeyboardInterrupt()
    script: list[str | BaseException] = [interrupt, "甲\n", interrupt, "乙\n", interrupt, interrupt, "丙\n"]
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(console, "_terminal_reader", lambda: scripted(script))
    assert list(read_sentences()) == ["甲", "乙"]
    assert script == ["丙\n"]
    assert capsys.readouterr().err.count("再按一次 Ctrl-C 退出") == 3


def test_an_interrupt_of_piped_input_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.StringIO()
    monkeypatch.setattr(stdin, "readline", scripted([KeyboardInterrupt()]))
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(KeyboardInterrupt):
        list(read_sentences())


def test_lines_pasted_into_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    with create_pipe_input() as keys, create_app_session(input=keys):
        keys.send_text("\x1b[200~甲。\n乙。\x1b[201~\r丙。\r\x04")
        assert list(read_sentences()) == ["甲。", "乙。", "丙。"]


def test_terminal_line_editing_and_history(monkeypatch: pytest.MonkeyPatch) -> None:
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input

    up, left, backspace, control_d = "\x1b[A", "\x1b[D", "\x7f", "\x04"
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    with create_pipe_input() as keys, create_app_session(input=keys):
        sentences = read_sentences()
        keys.send_text(f"今夭{backspace}天\r甲丙{left}乙\r")
        assert [next(sentences), next(sentences)] == ["今天", "甲乙丙"]
        # The history is loaded in the background once the prompt stands.
        threading.Timer(0.5, keys.send_text, [f"{up}{up}\r{control_d}"]).start()
        assert list(sentences) == ["今天"]

"""The console: complaints about the command line, sentences typed by a user, and progress shown."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from utils.common_utils import UserError, log

EXIT_WORDS = ("exit", "quit", "退出")
# argparse's complaints that a user can provoke, and how they read in Chinese.
_COMPLAINTS = (
    (r"unrecognized arguments: (.*)", r"不认识的参数 \1"),
    (r"argument (\S+): expected one argument", r"\1 后面缺少取值"),
    (r"argument (\S+): not allowed with argument (\S+)", r"\1 不能与 \2 同时使用"),
    (r"argument (\S+): ignored explicit argument (.*)", r"\1 不带取值，却写了 \2"),
    (r"argument (\S+): (.*)", r"\1 \2"),
)


class ChineseArgumentParser(argparse.ArgumentParser):
    """A parser whose complaints are `UserError`s in Chinese."""

    def error(self, message: str) -> NoReturn:
        for pattern, replacement in _COMPLAINTS:
            if match := re.fullmatch(pattern, message, re.DOTALL):
                message = match.expand(replacement)
                break
        raise UserError(f"命令行参数有误：{message}（--help 查看用法）。")


def positive_int(word: str) -> int:
    """Read a positive integer for argparse."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", word):
        raise argparse.ArgumentTypeError(f"应为正整数，现在是 {word!r}")
    return int(word)


def probability(word: str) -> float:
    """Read a number between 0 and 1 for argparse."""
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"应为 0 到 1 之间的数，现在是 {word!r}")
    return value


def read_sentences() -> Iterator[str]:
    """Yield what is typed, line by line without blank ones, until an exit word or the end of the input.

    Ctrl-D ends; Ctrl-C clears the line, pressed again right after it ends. The prompt goes to stderr.
    """
    read = _terminal_reader() if sys.stdin.isatty() else sys.stdin.readline
    interrupted = False
    while True:
        try:
            line = read()
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            if interrupted:
                return
            interrupted = True
            log("（再按一次 Ctrl-C 退出）")
            continue
        interrupted = False
        if not line or line.strip().lower() in EXIT_WORDS:
            return
        if line.strip():
            yield line.rstrip()  # an indent counts for the offsets


def _terminal_reader() -> Callable[[], str]:
    """Return a function that asks for a line and returns it with its end, or "" at Ctrl-D."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import create_output

    session: PromptSession[str] = PromptSession("句子> ", output=create_output(stdout=sys.stderr))

    def read() -> str:
        try:
            return session.prompt() + "\n"
        except EOFError:
            return ""

    return read

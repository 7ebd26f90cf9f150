"""The console: sentences typed by a user."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from utils.common_utils import log

EXIT_WORDS = ("exit", "quit", "退出")


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

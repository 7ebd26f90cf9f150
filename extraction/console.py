"""The console: sentences that a user types or pastes, one a line, and the words that mean something else."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator

from prompt_toolkit import PromptSession
from prompt_toolkit.output import create_output

from utils.common_utils import log

EXIT_WORDS = ("exit", "quit", "退出")
HELP_WORDS = ("help", "帮助")
HELP = """每行一个句子，回车后抽取；粘贴多行时一行一句。
  help、帮助              显示这份说明
  exit、quit、退出、Ctrl-D  结束
  Ctrl-C                  停止当前的生成
每个三元组一行：主语 —关系→ 宾语  置信度。
启动时加 --format table 或 json 换一种写法，加 --min_score 0.5 略去置信度低的。"""
_LINE_BREAK = re.compile(r"\r\n|[\r\n\u2028\u2029]")


def read_sentences() -> Iterator[str]:
    """Yield what is typed, line by line without blank ones, until an exit word or the end of the input.

    Ctrl-D ends; Ctrl-C clears the line, pressed again right after it ends. The prompt goes to stderr, and so
    does the help that is asked for.
    """
    read = _terminal_reader() if sys.stdin.isatty() else sys.stdin.readline
    interrupted = False
    while True:
        try:
            entry = read()
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            if interrupted:
                return
            interrupted = True
            log("（再按一次 Ctrl-C 退出）")
            continue
        interrupted = False
        if not entry:
            return
        for line in _LINE_BREAK.split(entry):  # several, if they were pasted
            word = line.strip().lower()
            if word in EXIT_WORDS:
                return
            if word in HELP_WORDS:
                log(HELP)
            elif word:
                yield line.rstrip()  # an indent counts for the offsets


def _terminal_reader() -> Callable[[], str]:
    """Return a function that asks for a line and returns it with its end, or "" at Ctrl-D."""
    session: PromptSession[str] = PromptSession("句子> ", output=create_output(stdout=sys.stderr))

    def read() -> str:
        try:
            return session.prompt() + "\n"
        except EOFError:
            return ""

    return read

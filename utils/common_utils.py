"""What every command needs: talking to the user, ending with the right exit code, seeding."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import random
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

PROJECT = Path(__file__).resolve().parent.parent
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what a full disk says

# What a system says of a path that can't be used; where it is met depends on the command.
_BAD_PATH = {
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
}


# What moves the cursor, rings, or turns the reading direction of what stands around it: C0 and C1 control
# characters, separators of lines, and the marks of bidirectional text.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class UserError(ValueError):
    """A mistake the user can mend; its message is one Chinese sentence naming the thing and the remedy."""


def visible(text: str, keep: str = "\n\t") -> str:
    """Show characters that would act on a terminal as escapes (`\\x1b`, say), but for those of `keep`."""

    def escape(match: re.Match[str]) -> str:
        character = match[0]
        return character if character in keep else character.encode("unicode_escape").decode()

    return _INVISIBLE.sub(escape, text)


_stamped = False
_last_line = time.monotonic()


def visible_json(text: str) -> str:
    """Escape the same characters in JSON in its own way, so that it means what it did before."""
    return _INVISIBLE.sub(lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1], text)


def log(message: str) -> None:
    """Write one line of talk to stderr (stdout is for results only).

    What it quotes may come from strangers' files: control characters are shown escaped. A stderr that is gone
    (a closed terminal, a full disk) must not end a run, so it costs the line only.
    """
    global _last_line
    _last_line = time.monotonic()
    if _stamped:
        text = message.lstrip("\n")
        message = message[: len(message) - len(text)] + time.strftime("%m-%d %H:%M:%S ") + text
    with contextlib.suppress(OSError):
        print(visible(message), file=sys.stderr, flush=True)


def with_short_lines(text: str, limit: int = 1500) -> str:
    """Cut the middle out of lines that quote something endless (a name of a megabyte, say)."""
    half = limit // 2
    lines = text.split("\n")
    return "\n".join(line if len(line) <= limit else f"{line[:half]} … {line[-half:]}" for line in lines)


def seconds_since_last_line() -> float:
    """Return for how long `log` has said nothing."""
    return time.monotonic() - _last_line


@contextlib.contextmanager
def time_stamps() -> Iterator[None]:
    """Let each message of `log` begin with date and time, for long runs whose log is read later."""
    global _stamped
    before, _stamped = _stamped, True
    try:
        yield
    finally:
        _stamped = before


def is_there(path: str | Path) -> bool:
    """Tell whether the system knows something at a path; not so if the path itself can't be."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long a name, a folder closed to the user, a NUL
        return False


def find_bundled(path: str) -> str:
    """Return the place in the project's folder of what comes with it, `data/…` or `models/…`.

    So the commands run from any folder. A path that is there already, seen from the current folder, is left
    alone, and so are all that name nothing in the project.
    """
    if not path.startswith(("data/", "models/")) or is_there(path) or not is_there(PROJECT / path):
        return path
    return str(PROJECT / path)


def is_encodable(text: str) -> bool:
    """Tell whether a text can be written as UTF-8: half a surrogate pair can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_json(value: Any, **options: Any) -> str:
    """Return `json.dumps(value, ensure_ascii=False, **options)`, or all ASCII if that is not encodable."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return text if is_encodable(text) else json.dumps(value, **options)


def run_main(main: Callable[[], int | None], user_errors: tuple[type[Exception], ...] = ()) -> NoReturn:
    """Run a command's main function and leave the process with an honest exit code.

    Args:
        main: the command; returns its exit code, None meaning 0.
        user_errors: exception types that count as the user's mistakes beside `UserError`.

    Exit codes: what `main` returned; 2 for a user's mistake, such as a path that can't be used (one line on
    stderr, a traceback only when `--debug` is among the arguments); 130 for Ctrl-C; 1 when the reader of
    stdout went away.
    """
    mistakes: tuple[type[Exception], ...] = (UserError, *user_errors)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character ends nothing
    try:
        code = main() or 0
        sys.stdout.flush()
    except mistakes as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        log(f"错误：{with_short_lines(str(error))}")
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        log("\n已中断。")
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        _give_up_stdout()
        code = 1
    except OSError as error:
        if error.filename is not None and error.errno in _BAD_PATH and "--debug" not in sys.argv:
            log(f"错误：路径 {str(error.filename)[:200]} 不能用（{error.strerror}），请检查拼写和权限。")
            sys.exit(EXIT_USER_ERROR)
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        log(f"错误：结果写不出去（{error.strerror}），请检查标准输出和正在写的文件所在的磁盘。")
        _give_up_stdout()
        code = 1
    sys.exit(code)


def _give_up_stdout() -> None:
    """Give the interpreter a stdout that it can still flush at exit: nobody reads the one it had."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (every CUDA device included)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries draw from the global generator)
    torch.manual_seed(seed)


def quiet_libraries() -> None:
    """Keep the libraries' own notes and progress bars off the user's terminal; errors still show."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.filterwarnings(
            "ignore", category=category, module=r"(transformers|peft|accelerate|torch|bitsand).*"
        )
    for name in ("transformers", "peft", "accelerate", "bitsandbytes", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)

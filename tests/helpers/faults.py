"""File operations that fail, one after the other: through Python's audit events, so none is forgotten."""

from __future__ import annotations

import builtins
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import train
from tests.helpers.runs import process_as_before
from training.run_directory import list_checkpoints
from utils.common_utils import UserError
from utils.directories import find_damage

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.listdir"}
EVENTS |= {"os.scandir", "shutil.rmtree", "shutil.copyfile"}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


class _Metered(io.FileIO):
    """A file that tells of its reads and writes."""

    meet: Callable[[str], None]

    def readinto(self, buffer: Any) -> int:
        self.meet("read")
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.meet("read")
        return super().readall()

    def write(self, content: Any) -> int:
        self.meet("write")
        return super().write(content)


class Injector:
    """Lets the `fail_at`-th file operation below a directory fail (0: none), and counts them."""

    def __init__(self) -> None:
        self.directory: str | None = None
        self.fail_at = self.count = 0
        self.failed = ""
        sys.addaudithook(self._hook)  # for the life of the process; it does nothing without a directory

    @contextmanager
    def below(self, directory: Path, fail_at: int, reads_and_writes: bool = False) -> Iterator[None]:
        """Inject into operations on what is below a directory.

        Args:
            directory: the directory.
            fail_at: which of them fails.
            reads_and_writes: each read and write of Python's own files is one, too.
        """
        self.fail_at, self.count, self.failed = fail_at, 0, ""
        self.directory = str(directory)
        fsync, opener = os.fsync, io.open
        os.fsync = lambda descriptor: (self._meet("fsync", ""), fsync(descriptor))[1]
        if reads_and_writes:
            builtins.open = io.open = self._open_metered(opener)
        try:
            yield
        finally:
            os.fsync, self.directory = fsync, None
            builtins.open = io.open = opener

    def _open_metered(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Return an `open` whose files, below the directory, tell of their reads and writes."""

        def metered(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> Any:
            path = os.fspath(file) if isinstance(file, (str, os.PathLike)) else ""
            if self.directory is None or not str(path).startswith(self.directory):
                return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = _Metered(file, mode.replace("t", "").replace("b", ""), closefd, opener)
            raw.meet = lambda event: self._meet(event, str(path))
            if buffering == 0:
                return raw
            kind = io.BufferedReader if raw.readable() else io.BufferedWriter
            content = (io.BufferedRandom if "+" in mode else kind)(raw)
            return content if "b" in mode else io.TextIOWrapper(content, encoding, errors, newline)

        return metered

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.directory is None or event not in EVENTS:
            return
        path = args[0] if args else None
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.directory):
            self._meet(event, os.fspath(path))

    def _meet(self, event: str, path: str) -> None:
        if self.directory is None:
            return
        self.count += 1
        if self.count == self.fail_at:
            number = ERRORS[self.fail_at % len(ERRORS)]
            self.failed = f"{event} {path} {errno.errorcode[number]}"
            raise OSError(number, os.strerror(number), path)


def last_weights(save_dir: Path) -> dict[str, bytes]:
    """Return the weights of the newest checkpoint."""
    tensors = load_file(list_checkpoints(save_dir)[-1] / "adapter_model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def run(words: list[str]) -> int:
    """Train in this process; return the exit code."""
    with process_as_before():
        try:
            return train.main(words)
        except UserError:
            return 2


def survive(injector: Injector, words: list[str], save_dir: Path, fail_at: int) -> None:
    """Run with one operation that fails, then once more: the second run ends as one without faults does."""
    words = [*words, "--save_dir", str(save_dir), "--resume_from_checkpoint", "auto"]
    with injector.below(save_dir, fail_at):
        code = run(words)
    assert code in (0, 1, 2), injector.failed
    for path in (*list_checkpoints(save_dir), save_dir / "model_best"):
        assert not path.exists() or find_damage(path) is None, (injector.failed, path)
    assert run(words) == 0, injector.failed

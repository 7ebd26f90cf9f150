"""One run at a time in a directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.common_utils import UserError


@contextmanager
def lock_directory(save_dir: Path) -> Iterator[None]:
    """Hold a directory for this process; should it be killed, the system drops the lock.

    Raises:
        UserError: another run has it, or files can't be written there.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(save_dir / ".lock")
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"另一个训练正在使用 {save_dir}，请等它结束，或用 --save_dir 换一个目录。") from error
    except OSError as error:
        raise UserError(
            f"输出目录 {save_dir} 不可写（{error.strerror}），请检查权限或换一个 --save_dir。"
        ) from error
    try:
        yield
    finally:
        lock.release()

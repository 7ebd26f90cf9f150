"""Which process of a job this is, as launchers of several (torchrun, accelerate launch) say it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import NamedTuple

from utils.common_utils import UserError

# That a process waits for the slowest, such as the first one while it answers the whole of dev: the default
# of NCCL is 10 minutes.
PATIENCE = timedelta(days=30)


class Launcher(NamedTuple):
    """This process's number, from 0, and how many there are: in all, and on this machine."""

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """The first process: it writes and talks."""
        return self.rank == 0


def read_launcher(environment: Mapping[str, str] | None = None) -> Launcher:
    """Read what a launcher has set; without one this is the only process.

    Args:
        environment: the process's own when None.

    Raises:
        UserError: the variables are no numbers, contradict each other, or some are missing.
    """
    environment = os.environ if environment is None else environment
    numbers: dict[str, int] = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        if (word := environment.get(name)) is not None:
            if not re.fullmatch(r"[0-9]{1,6}", word):
                raise _refusal(f"{name}={word!r} 不是非负整数")
            numbers[name] = int(word)
    if "WORLD_SIZE" not in numbers:
        _refuse_mpi(environment)
    rank, world_size = numbers.get("RANK", 0), numbers.get("WORLD_SIZE", 1)
    if rank >= world_size:
        said = f"WORLD_SIZE={world_size}" if "WORLD_SIZE" in numbers else "没有 WORLD_SIZE"
        raise _refusal(f"RANK={rank} 而{said}，两者矛盾" if "RANK" in numbers else f"{said} 没有意义")
    if world_size > 1 and (missing := [name for name in ("RANK", "LOCAL_RANK") if name not in numbers]):
        raise _refusal(f"WORLD_SIZE={world_size} 而没有 {'、'.join(missing)}")
    if not (local := numbers.get("LOCAL_WORLD_SIZE", 1)):
        raise _refusal("LOCAL_WORLD_SIZE=0 没有意义")
    return Launcher(rank, world_size, local)


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Let a process of several leave without tearing down native code, however what it does here ends.

    Threads of gloo that still run then abort the process ("terminate called without an active exception"), or
    wait for the interpreter's lock while it waits for them, for ever (seen with torch 2.13); a launcher would
    take a run that went well for a failure, or never end. So the group of processes isn't destroyed either.
    """
    try:
        yield
    except BaseException as error:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        code = (error.code or 0) if isinstance(error, SystemExit) else 1
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(code if isinstance(code, int) else 1)


def check_meeting_point(launcher: Launcher, environment: Mapping[str, str] | None = None) -> None:
    """Make sure that the processes of a training know where they meet.

    Raises:
        UserError: a launcher would have said it.
    """
    environment = os.environ if environment is None else environment
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    # LOCAL_RANK alone is enough for accelerate to look for the others.
    said = "LOCAL_RANK" if "LOCAL_RANK" in environment else f"WORLD_SIZE={launcher.world_size}"
    if missing and (launcher.world_size > 1 or said == "LOCAL_RANK"):
        raise _refusal(f"{said} 而没有 {'、'.join(missing)}")


def _refuse_mpi(environment: Mapping[str, str]) -> None:
    """Refuse to be one of several processes that `mpirun` has started: accelerate goes by its variables, too.

    Raises:
        UserError: this is one.
    """
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        if (word := environment.get(name)) is not None and word != "1":
            raise _refusal(f"{name}={word!r} 而没有 WORLD_SIZE，像是 mpirun 启动的")


def _refusal(what: str) -> UserError:
    return UserError(
        f"环境变量 {what}：多个进程请用 accelerate launch 或 torchrun 启动；只用一个进程请先 unset RANK "
        "WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE。"
    )

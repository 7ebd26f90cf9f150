"""A function over many chunks in worker processes, in their order.

Imports no torch, because every worker imports this module.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

_MAX_WORKERS = 8  # they keep one process busy with reading and writing
_CHUNKS_PER_WORKER = 3  # read ahead

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


def worker_count() -> int:
    """Return how many processes a large job is worth: one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MAX_WORKERS)


def map_in_workers(
    function: Callable[[Chunk], Result], chunks: Iterable[Chunk], workers: int
) -> Generator[Result, None, None]:
    """Yield `function` of each chunk, computed in other processes; to be closed by who leaves off early.

    Args:
        function: picklable; sent to each worker once.
        chunks: picklable; a few are read ahead.
        workers: processes.

    Raises:
        BrokenProcessPool: a worker was killed.
    """
    # Forking a process in which torch has started its threads is not safe.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (function,))
    try:
        pending: deque[Future[Result]] = deque()
        for chunk in chunks:
            with _interrupts_held():  # submitting starts workers
                pending.append(pool.submit(_call_in_worker, chunk))
            if len(pending) > workers * _CHUNKS_PER_WORKER:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block; processes started in it never get it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ------------------------------------------------------------------------------------------------- workers

_function: Callable[[Any], Any]  # set in each worker when it starts


def _start_worker(function: Callable[[Any], Any]) -> None:
    """Prepare a worker: Ctrl-C is its parent's business, and it goes when its parent is gone."""
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for Windows, see `_interrupts_held`
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _function = function


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call_in_worker(chunk: Any) -> Any:
    return _function(chunk)

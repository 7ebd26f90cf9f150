"""Encoding a data file chunk by chunk, on all cores if it is large: a chunk is all that is held in memory.

Imports no torch, because every worker imports this module.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_handle.data_preprocess import IGNORE_INDEX, EncodingSummary, Tokenizer, encode_each
from data_handle.reader import Example, iter_examples
from task.triplets import Combination, combinations_in
from utils.common_utils import log
from utils.jsonl import BadLine

CHUNK_CHARACTERS = 1 << 18
SERIAL_BYTES = 8 << 20  # encoding less than this takes no longer than starting workers
_MAX_WORKERS = 8  # they keep one process busy with reading and writing
_CHUNKS_PER_WORKER = 3  # read ahead


@dataclass(frozen=True)
class EncodedChunk:
    """Consecutive lines of a file, encoded.

    Attributes:
        examples: the good lines.
        bad_lines: the others.
        input_ids: int32, of all samples (good lines that can be learnt from) one after the other.
        lengths: int64 [samples, 2]: tokens of each sample, and how many of them are its context.
        summary: what the length limits cost these lines.
        combinations: of the answers.
    """

    examples: list[Example]
    bad_lines: list[BadLine]
    input_ids: np.ndarray
    lengths: np.ndarray
    summary: EncodingSummary
    combinations: frozenset[Combination]


def worker_count() -> int:
    """Return how many processes encode a large file: one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MAX_WORKERS)


def encode_file(
    path: Path, tokenizer: Tokenizer, limits: tuple[int, int], workers: int
) -> Generator[EncodedChunk, None, None]:
    """Encode the lines of a file with `encode_example`, in their order; to be closed by who leaves off early.

    Args:
        path: the data file.
        tokenizer: a `ChatGLMTokenizer`; with several workers it has to be picklable.
        limits: `max_source_seq_len` and `max_target_seq_len`.
        workers: processes; with 1 this one does it itself.

    Raises:
        UserError: the file is missing, no plain file, or unreadable.
        BrokenProcessPool: a worker was killed.
    """
    chunks = _read_chunks(path)
    if workers == 1:
        yield from (_encode_chunk(tokenizer, limits, chunk) for chunk in chunks)
        return
    log(f"正在用 {workers} 个进程为 {path} 分词，结果存入缓存，下次直接读取。")
    # Forking a process in which torch has started its threads is not safe.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (tokenizer, limits))
    try:
        pending: deque[Future[EncodedChunk]] = deque()
        for chunk in chunks:
            with _interrupts_held():  # submitting starts workers
                pending.append(pool.submit(_encode_in_worker, chunk))
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


def _read_chunks(path: Path) -> Iterator[list[Example | BadLine]]:
    """Yield the lines of a file in lists of about `CHUNK_CHARACTERS`."""
    chunk: list[Example | BadLine] = []
    characters = 0
    for item in iter_examples(path):
        chunk.append(item)
        characters += 100 if isinstance(item, BadLine) else len(item.context) + len(item.target)
        if characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encode_chunk(
    tokenizer: Tokenizer, limits: tuple[int, int], chunk: list[Example | BadLine]
) -> EncodedChunk:
    examples = [item for item in chunk if isinstance(item, Example)]
    summary = EncodingSummary(*limits)
    features = list(encode_each(tokenizer, examples, summary))
    lengths = [(len(item.input_ids), item.labels.count(IGNORE_INDEX)) for item in features]
    return EncodedChunk(
        examples,
        [item for item in chunk if isinstance(item, BadLine)],
        np.fromiter(itertools.chain.from_iterable(item.input_ids for item in features), np.int32),
        np.array(lengths, np.int64).reshape(-1, 2),
        summary,
        combinations_in(example.target for example in examples),
    )


# ------------------------------------------------------------------------------------------------- workers

_encode: Callable[[list[Example | BadLine]], EncodedChunk]  # set in each worker when it starts


def _start_worker(tokenizer: Tokenizer, limits: tuple[int, int]) -> None:
    """Prepare a worker: Ctrl-C is its parent's business, and it goes when its parent is gone."""
    global _encode
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for Windows, see `_interrupts_held`
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _encode = partial(_encode_chunk, tokenizer, limits)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_in_worker(chunk: list[Example | BadLine]) -> EncodedChunk:
    return _encode(chunk)

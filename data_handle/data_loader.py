"""Features to batches: dataset, left padding, length-grouped order that can be resumed."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data_handle.data_preprocess import IGNORE_INDEX, EncodingSummary, Features, Tokenizer, encode_examples
from data_handle.reader import BadLine, Example, check_lines, describe_bad_lines, read_jsonl
from data_handle.token_cache import read_through_cache
from task.triplets import Combination, combinations_in
from utils.common_utils import log

# Examples are sorted by length within a chunk of this many windows: short enough for a good shuffle.
_WINDOWS_PER_CHUNK = 50


class TripletDataset(Dataset[Features]):
    """A sequence of features that knows the length of each (in tokens)."""

    def __init__(self, features: Sequence[Features]) -> None:
        self.features = features
        self.lengths = _lengths(features)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Features:
        return self.features[index]


@dataclass(frozen=True)
class LoadedData:
    """A data file ready for use.

    Attributes:
        path: the file.
        dataset: the samples: good lines that fit the limits.
        examples: all good lines.
        bad_lines: the others.
        summary: what the limits cost.
        combinations: of the answers of `examples`; what a `Schema` is made of.
    """

    path: str
    dataset: TripletDataset
    examples: Sequence[Example]
    bad_lines: list[BadLine]
    summary: EncodingSummary
    combinations: frozenset[Combination]

    def report(self) -> list[str]:
        """Return the lines for the log, in Chinese: bad lines first, then what the limits cost."""
        return [*describe_bad_lines(self.bad_lines), f"{self.path}：{self.summary.report()}"]


def load_data(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    max_source_seq_len: int,
    max_target_seq_len: int,
    strict: bool = False,
    cache_dir: str | Path | None = None,
) -> LoadedData:
    """Read and encode a data file, or read it from the cache if it was encoded before.

    Args:
        path: the data file.
        tokenizer: a `ChatGLMTokenizer`.
        max_source_seq_len, max_target_seq_len: see `encode_example`.
        strict: refuse the file if any line of it is bad.
        cache_dir: where encoded files are kept, see `read_through_cache`; if it can't be used (or is None),
            the file is encoded in memory.

    Raises:
        UserError: nothing usable is in it, or a line is bad and `strict` is set.
    """
    limits = max_source_seq_len, max_target_seq_len
    if cache_dir is not None and Path(path).is_file():  # not a pipe, which can be read only once
        try:
            cached = read_through_cache(Path(path), tokenizer, limits, Path(cache_dir))
        except (OSError, NotImplementedError) as error:  # the latter where a disk knows no locks
            reason = getattr(error, "strerror", None) or error
            log(f"分词缓存 {cache_dir} 不能用（{reason}），这次在内存中分词。")
        else:
            check_lines(path, len(cached.examples), cached.bad_lines, strict)
            dataset = TripletDataset(cached.features)
            return LoadedData(
                str(path), dataset, cached.examples, cached.bad_lines, cached.summary, cached.combinations
            )
    examples, bad_lines = read_jsonl(path, strict)
    features, summary = encode_examples(tokenizer, examples, *limits, str(path))
    combinations = combinations_in(example.target for example in examples)
    return LoadedData(str(path), TripletDataset(features), examples, bad_lines, summary, combinations)


def collate(features: Sequence[Features], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad on the left to the longest of the batch.

    Returns:
        `input_ids`, `attention_mask` (1 for tokens, 0 for padding) and `labels` (-100 where nothing is
        learnt), each an int64 tensor [batch, longest].
    """
    longest = max(len(item.input_ids) for item in features)
    shape = (len(features), longest)
    input_ids = torch.full(shape, pad_token_id)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORE_INDEX)
    for row, item in enumerate(features):
        start = longest - len(item.input_ids)
        input_ids[row, start:] = torch.tensor(item.input_ids)
        attention_mask[row, start:] = 1
        labels[row, start:] = torch.tensor(item.labels)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


class LengthGroupedSampler(Sampler[list[int]]):
    """Batches of examples of similar length, in an order that is a function of (seed, epoch) alone.

    The order is made in windows, the examples of one optimiser step: batch 8 x 1 and batch 1 x 8 see the
    same windows in the same order, and so do two processes that take turns at the batches (which is how
    accelerate shards a batch sampler). The window with the longest example comes first, so that a run that
    can't fit into memory fails at once; what fills no window comes last.

    The epoch is set with `start_epoch`. There is no `set_epoch` on purpose: accelerate calls it by itself
    with its own count of epochs, and only when there is a single process.

    Args:
        lengths: tokens of each example.
        batch_size: examples of a batch of one process; only the last batch of an epoch may have fewer.
        seed: seed of the order.
        gradient_accumulation_steps: batches of one process in an optimiser step.
        num_processes: processes that take turns at the batches. With several, the epoch ends with repeated
            examples from its start where that is needed for all to get equally many full batches.
    """

    drop_last = False  # read by accelerate

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        *,
        gradient_accumulation_steps: int = 1,
        num_processes: int = 1,
    ) -> None:
        if min(batch_size, gradient_accumulation_steps, num_processes) < 1:
            raise ValueError("batch_size、gradient_accumulation_steps 和 num_processes 都应当至少是 1。")
        self.batch_size = batch_size
        self._lengths = torch.tensor(lengths, dtype=torch.int64)
        self._window = batch_size * gradient_accumulation_steps * num_processes
        self._round = batch_size * num_processes if num_processes > 1 else 1
        self._seed = seed
        self._epoch = 0
        self._skip_batches = 0

    def start_epoch(self, epoch: int, skip_batches: int = 0) -> None:
        """Choose the epoch (from 0) that the next iterations run over, and how many of its batches are done.

        Args:
            epoch: number of the epoch.
            skip_batches: batches to pass over, counted over all processes together.
        """
        self._epoch = epoch
        self._skip_batches = skip_batches

    def __len__(self) -> int:
        examples = math.ceil(len(self._lengths) / self._round) * self._round
        return max(0, math.ceil(examples / self.batch_size) - self._skip_batches)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._epoch_order()
        missing = -len(order) % self._round
        order += list(itertools.islice(itertools.cycle(order), missing))
        for start in range(self._skip_batches * self.batch_size, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _epoch_order(self) -> list[int]:
        if not len(self._lengths):
            return []
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
        order = torch.randperm(len(self._lengths), generator=generator)
        longest = int(torch.argmax(self._lengths[order]))
        order[[0, longest]] = order[[longest, 0]]

        whole = len(order) - len(order) % self._window
        chunks = order[:whole].split(self._window * _WINDOWS_PER_CHUNK)
        windows = [window for chunk in chunks for window in self._longest_first(chunk).split(self._window)]
        if windows:
            later = torch.randperm(len(windows) - 1, generator=generator) + 1
            windows = [windows[0], *(windows[i] for i in later.tolist())]
        return torch.cat([*windows, self._longest_first(order[whole:])]).tolist()

    def _longest_first(self, indices: torch.Tensor) -> torch.Tensor:
        return indices[torch.argsort(self._lengths[indices], descending=True, stable=True)]


def build_dataloader(
    dataset: TripletDataset,
    batch_size: int,
    *,
    seed: int = 0,
    gradient_accumulation_steps: int = 1,
    num_processes: int = 1,
    num_workers: int = 0,
) -> tuple[DataLoader[Features], LengthGroupedSampler]:
    """Build a loader of batches (lists of features) and the sampler that steers it (`start_epoch`), see both.

    The loader holds the batches of all processes; `accelerator.prepare` gives each its share. It draws
    nothing from torch's global generator, so evaluating or restarting leaves dropout's random numbers as
    they were.
    """
    sampler = LengthGroupedSampler(
        dataset.lengths,
        batch_size,
        seed,
        gradient_accumulation_steps=gradient_accumulation_steps,
        num_processes=num_processes,
    )
    loader: DataLoader[Features] = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=list,
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_the_trainer,
        persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(seed % 2**63),
    )
    return loader, sampler


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Let a data worker outlive a Ctrl-C or a closed terminal, which reach it too: the last step needs it."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def length_sorted_batches(
    features: Sequence[Features], batch_size: int, pad_token_id: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield padded batches of examples of like length, shortest first (for evaluation)."""
    order = np.argsort(_lengths(features), kind="stable")
    for start in range(0, len(order), batch_size):
        yield collate([features[index] for index in order[start : start + batch_size]], pad_token_id)


def _lengths(features: Sequence[Features]) -> np.ndarray:
    """Return the tokens of each, int64; of features that know their lengths without making them."""
    known = getattr(features, "lengths", None)
    if known is not None:
        return known
    return np.array([len(item.input_ids) for item in features], np.int64)

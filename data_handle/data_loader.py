"""Features to batches: a data file loaded, its dataset, its loader, left padding."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data_handle.data_preprocess import IGNORE_INDEX, Features, Tokenizer
from data_handle.encoded_file import EncodedFile, TripletDataset, encode_in_memory, lengths_of
from data_handle.relation_prompts import RelationPrompts
from data_handle.sampler import LengthGroupedSampler
from data_handle.token_cache import read_through_cache
from utils.common_utils import log


def load_data(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    max_source_seq_len: int,
    max_target_seq_len: int,
    strict: bool = False,
    cache_dir: str | Path | None = None,
    prompts: RelationPrompts | None = None,
) -> EncodedFile:
    """Read and encode a data file, or read it from the cache if it was encoded before.

    Args:
        path: the data file.
        tokenizer: a `ChatGLMTokenizer`.
        max_source_seq_len, max_target_seq_len: see `encode_example`.
        strict: refuse the file if any line of it is bad.
        cache_dir: where encoded files are kept, see `read_through_cache`; if it can't be used (or is None),
            the file is encoded in memory.
        prompts: draws the prompts of lines that are asked for some relations at a time.

    Raises:
        UserError: nothing usable is in it, or a line is bad and `strict` is set.
    """
    limits = max_source_seq_len, max_target_seq_len
    encoded: EncodedFile | None = None
    if cache_dir is not None and Path(path).is_file():  # not a pipe, which can be read only once
        try:
            encoded = read_through_cache(Path(path), tokenizer, limits, Path(cache_dir), prompts)
        except (OSError, NotImplementedError) as error:  # the latter where a disk knows no locks
            reason = getattr(error, "strerror", None) or error
            log(f"分词缓存 {cache_dir} 不能用（{reason}），这次在内存中分词。")
    if encoded is None:
        encoded = encode_in_memory(Path(path), tokenizer, limits, prompts)
    encoded.check(strict)
    return encoded


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
        cast("Dataset[Features]", dataset),  # which is all that a loader asks for
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
    order = np.argsort(lengths_of(features), kind="stable")
    for start in range(0, len(order), batch_size):
        yield collate([features[index] for index in order[start : start + batch_size]], pad_token_id)

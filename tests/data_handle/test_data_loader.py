"""Batches: left padding by hand, resuming in the middle of an epoch, sharing among processes."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import prepare_data_loader

from data_handle.data_loader import (
    TripletDataset,
    build_dataloader,
    collate,
    length_sorted_batches,
    load_data,
)
from data_handle.data_preprocess import Features
from tests.helpers.data_samples import CharacterTokenizer, director, make_line, write_jsonl
from utils.common_utils import UserError


def random_lengths(count: int, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [generator.randint(20, 384) for _ in range(count)]


def make_dataset(lengths: list[int]) -> TripletDataset:
    """Every id of the example with index i is i + 1, so that batches tell which examples they hold."""
    return TripletDataset([Features([i + 1] * n, [-100] * (n - 1) + [i + 1]) for i, n in enumerate(lengths)])


def indices_of(batch: list[Features]) -> list[int]:
    return [item.input_ids[-1] - 1 for item in batch]


def test_collate_pads_on_the_left() -> None:
    batch = collate([Features([7, 8], [-100, 8]), Features([4, 5, 6, 9], [-100, -100, 6, 9])], pad_token_id=3)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[3, 3, 7, 8], [4, 5, 6, 9]],
        "attention_mask": [[0, 0, 1, 1], [1, 1, 1, 1]],
        "labels": [[-100, -100, -100, 8], [-100, -100, 6, 9]],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_evaluation_takes_the_shortest_first() -> None:
    dataset = make_dataset([5, 9, 7, 9, 1])
    batches = list(length_sorted_batches(dataset.features, 2, pad_token_id=0))
    rows = [[int(row[-1]) - 1 for row in batch["input_ids"]] for batch in batches]
    assert rows == [[4, 0], [2, 1], [3]]
    assert batches[0]["attention_mask"].tolist() == [[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]


def test_sampling_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    loader, _ = build_dataloader(make_dataset(random_lengths(20)), 4, seed=1)
    list(loader)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_in_the_middle_of_an_epoch(workers: int) -> None:
    dataset = make_dataset(random_lengths(42))
    loader, sampler = build_dataloader(dataset, 4, seed=3, num_workers=workers)
    sampler.start_epoch(2)
    whole = [indices_of(batch) for batch in loader]
    sampler.start_epoch(2, skip_batches=4)
    assert len(loader) == len(whole) - 4
    assert [indices_of(batch) for batch in loader] == whole[4:]
    sampler.start_epoch(3)
    assert len(loader) == len(whole)
    assert [indices_of(batch) for batch in loader] != whole
    sampler.start_epoch(2, skip_batches=100)
    assert len(loader) == 0
    assert list(loader) == []


def shards(
    lengths: list[int], processes: int, accumulation: int, epoch: int, skip: int
) -> list[list[list[int]]]:
    """Return the batches of each process, as accelerate shares them out."""
    result = []
    for process in range(processes):
        loader, sampler = build_dataloader(
            make_dataset(lengths),
            2,
            seed=5,
            gradient_accumulation_steps=accumulation,
            num_processes=processes,
        )
        prepared = prepare_data_loader(loader, num_processes=processes, process_index=process)
        sampler.start_epoch(epoch, skip)
        result.append([indices_of(batch) for batch in prepared])
        assert len(prepared) == len(result[-1])
    return result


@pytest.mark.parametrize("count", [64, 61, 3, 1])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_epoch_evenly(count: int, processes: int) -> None:
    batches = shards(random_lengths(count), processes, accumulation=2, epoch=4, skip=0)
    assert len({len(of_process) for of_process in batches}) == 1
    assert all(len(batch) == 2 for of_process in batches for batch in of_process)
    seen = [index for of_process in batches for batch in of_process for index in batch]
    assert set(seen) == set(range(count))
    assert len(seen) < count + 2 * processes


def test_two_processes_see_the_windows_of_one() -> None:
    lengths = random_lengths(64)
    (alone,) = shards(lengths, 1, accumulation=4, epoch=1, skip=0)
    pair = shards(lengths, 2, accumulation=2, epoch=1, skip=0)
    for step in range(8):
        expected = sorted(itertools.chain(*alone[4 * step : 4 * step + 4]))
        assert sorted(itertools.chain(*(i for p in pair for i in p[2 * step : 2 * step + 2]))) == expected


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_neither_changes_the_epoch_nor_the_resumed_order(processes: int) -> None:
    lengths = random_lengths(61)
    whole = shards(lengths, processes, accumulation=1, epoch=3, skip=0)
    resumed = shards(lengths, processes, accumulation=1, epoch=3, skip=4 * processes)
    assert resumed == [of_process[4:] for of_process in whole]
    assert whole != shards(lengths, processes, accumulation=1, epoch=0, skip=0)


def test_workers_are_seeded() -> None:
    loader, _ = build_dataloader(make_dataset([3, 2]), 1, seed=9)
    again, _ = build_dataloader(make_dataset([3, 2]), 1, seed=9)
    other, _ = build_dataloader(make_dataset([3, 2]), 1, seed=10)
    seeds = [iter(each)._base_seed for each in (loader, again, other)]
    assert seeds[0] == seeds[1] != seeds[2]
    assert loader.pin_memory == torch.cuda.is_available()


def test_load_data_reads_encodes_and_reports(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", [make_line("甲", director("甲", "乙")), make_line("乙")])
    with path.open("a", encoding="utf-8") as file:
        file.write("坏\n")

    loaded = load_data(path, CharacterTokenizer(), max_source_seq_len=256, max_target_seq_len=128)

    assert [example.line_number for example in loaded.examples] == [1, 2]
    assert loaded.dataset.lengths.tolist() == [len(item.input_ids) for item in loaded.dataset.features]
    assert loaded.dataset[1] == loaded.dataset.features[1]
    assert loaded.report() == [
        f"{path} 有 1 行坏数据，已跳过：",
        f"  {path}:3: 不是合法的 JSON，第 1 个字符处出错",
        f"{path}：2 条样本，共 {sum(loaded.dataset.lengths)} 个 token；全部在长度限制以内。",
    ]
    with pytest.raises(UserError, match="strict_data"):
        load_data(path, CharacterTokenizer(), max_source_seq_len=256, max_target_seq_len=128, strict=True)

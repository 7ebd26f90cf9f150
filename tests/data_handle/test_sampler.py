"""The order of an epoch: fixed by (seed, epoch), each example once, windows of similar lengths."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from data_handle.sampler import LengthGroupedSampler


def random_lengths(count: int, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [generator.randint(20, 384) for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "batch", "accumulation"), [(100, 1, 8), (103, 4, 2), (7, 8, 1), (1, 2, 1), (0, 4, 1)]
)
def test_every_example_comes_once_an_epoch(count: int, batch: int, accumulation: int) -> None:
    sampler = LengthGroupedSampler(
        random_lengths(count), batch, seed=1, gradient_accumulation_steps=accumulation
    )
    batches = list(sampler)
    assert sorted(itertools.chain(*batches)) == list(range(count))
    assert len(batches) == len(sampler)
    assert all(len(indices) == batch for indices in batches[:-1])


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = LengthGroupedSampler(random_lengths(200), 4, seed)
        sampler.start_epoch(epoch)
        return list(sampler)

    torch.manual_seed(1)
    first = order(7, 0)
    torch.manual_seed(2)
    assert order(7, 0) == first
    distinct = [order(7, 0), order(7, 1), order(8, 0), order(-1, 0), order(2**40, 3)]
    assert all(a != b for a, b in itertools.combinations(distinct, 2))


def test_windows_are_the_same_however_they_are_split() -> None:
    lengths = random_lengths(203)
    orders = [
        LengthGroupedSampler(lengths, batch, 3, gradient_accumulation_steps=accumulation)
        for batch, accumulation in ((8, 1), (4, 2), (1, 8))
    ]
    flat = [list(itertools.chain(*sampler)) for sampler in orders]
    assert flat[0] == flat[1] == flat[2]


def test_batches_hold_similar_lengths_and_the_longest_comes_first() -> None:
    lengths = random_lengths(4000)
    for epoch in range(3):
        sampler = LengthGroupedSampler(lengths, 8, seed=epoch)
        sampler.start_epoch(epoch)
        batches = list(sampler)
        assert max(lengths) == lengths[batches[0][0]]
        padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
        assert padded < 1.05 * sum(lengths)  # unsorted batches of 8 would pad to about 1.7 times
        longest = [max(lengths[i] for i in batch) for batch in batches]
        rises = sum(a < b for a, b in itertools.pairwise(longest))
        assert 0.4 < rises / len(longest) < 0.6  # short and long batches alternate at random


def test_sampler_refuses_sizes_below_one() -> None:
    with pytest.raises(ValueError, match="至少是 1"):
        LengthGroupedSampler([1], 0, 0)

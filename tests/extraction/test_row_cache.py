"""The cache: room as it is needed, rows that move, tokens of unequal rows one after the other."""

from __future__ import annotations

import torch

from extraction.decoding.row_cache import CHUNK, RowCache

HEADS, WIDTH = 2, 4


def states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def test_it_grows_and_keeps_what_it_has() -> None:
    cache = RowCache()
    cache.prepare(0, torch.arange(5).expand(2, 5), 5)
    keys, values = states(2, HEADS, 5, WIDTH), states(2, HEADS, 5, WIDTH)
    assert torch.equal(cache.update(keys, values, 0)[0], keys)
    assert cache.tokens == 2 * CHUNK
    more = torch.full((3, 1), 2 * CHUNK)  # a row more, and a place far behind
    cache.prepare(0, more, 2 * CHUNK + 1)
    new_keys = states(3, HEADS, 1, WIDTH)
    found_keys, found_values = cache.update(new_keys, new_keys, 0)
    assert found_keys.shape == (3, HEADS, 2 * CHUNK + 1, WIDTH)
    assert torch.equal(found_keys[:2, :, :5], keys)
    assert torch.equal(found_values[:2, :, :5], values)
    assert torch.equal(found_keys[:, :, -1:], new_keys)
    assert not found_keys[2, :, :-1].any()


def test_rows_move_together() -> None:
    cache = RowCache()
    cache.prepare(0, torch.arange(3).expand(4, 3), 3)
    keys = states(4, HEADS, 3, WIDTH)
    for layer in range(2):
        cache.update(keys, keys, layer)
    cache.move([3, 2], [0, 1])
    cache.prepare(0, torch.full((2, 1), 3), 4)
    for layer in range(2):
        found, _ = cache.update(states(2, HEADS, 1, WIDTH), states(2, HEADS, 1, WIDTH), layer)
        assert torch.equal(found[:, :, :3], keys[[3, 2]])


def test_a_flat_pass_is_the_padded_one_without_padding() -> None:
    counts, start = [3, 1], 2
    slots = start + torch.arange(3).expand(2, 3)
    places = torch.tensor([0, 1, 2, 3])  # of [2 * 3]: three tokens of the first row, one of the second
    padded = torch.tensor([0, 1, 2, 3, 0, 0])  # and two that are none
    cache = RowCache()
    cache.prepare(0, slots, 5, 6, places, padded)
    flat = states(1, HEADS, 6, WIDTH)
    keys, _ = cache.update(flat, flat, 0)
    assert torch.equal(keys[0, :, 2:5], flat[0, :, :3])
    assert torch.equal(keys[1, :, 2:3], flat[0, :, 3:4])
    assert not keys[1, :, 3:].any()
    queries = cache.spread(flat)  # [2, N, 3, D]
    assert torch.equal(queries[0], flat[0, :, :3])
    assert torch.equal(queries[1, :, :1], flat[0, :, 3:4])
    assert torch.equal(cache.collect(queries)[:, :, : sum(counts)], flat[:, :, :4])

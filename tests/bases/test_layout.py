"""One rule for mask and positions: whole sequences, packed rows and later tokens get the same of it."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from bases.chatglm import layout

IDS = SimpleNamespace(pad_token_id=3, bos_token_id=5, gmask_token_id=6, mask_token_id=7)


def sample(rng: random.Random, answer: int) -> list[int]:
    context = [rng.randrange(10, 99) for _ in range(rng.randint(0, 9))]
    return [*context, IDS.gmask_token_id, IDS.bos_token_id, *(rng.randrange(10, 99) for _ in range(answer))]


def whole(ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [2, K] and mask [K, K] of a sequence alone."""
    batch = torch.tensor([ids])
    return layout.get_position_ids(batch, IDS)[0], layout.get_prefix_lm_mask(batch, IDS)[0, 0]


def test_by_hand() -> None:
    positions, mask = whole([11, 12, IDS.gmask_token_id, IDS.bos_token_id, 21])
    assert positions.tolist() == [[0, 1, 2, 2, 2], [0, 0, 0, 1, 2]]
    assert mask.int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("padding", [1, 4])
def test_left_padding_shifts_nothing(padding: int) -> None:
    ids = sample(random.Random(1), 3)
    positions, mask = whole(ids)
    padded = torch.tensor([[IDS.pad_token_id] * padding + ids])
    seen = (torch.arange(padded.shape[1]) >= padding).long()[None]
    assert torch.equal(layout.get_position_ids(padded, IDS, seen)[0, :, padding:], positions)
    assert not layout.get_position_ids(padded, IDS, seen)[0, :, :padding].any()
    padded_mask = layout.get_prefix_lm_mask(padded, IDS, seen)[0, 0]
    assert torch.equal(padded_mask[padding:, padding:], mask)
    assert not padded_mask[padding:, :padding].any()
    assert torch.equal(padded_mask[:padding, :padding], torch.eye(padding, dtype=torch.bool))


def test_packed_samples_get_what_they_get_alone() -> None:
    rng = random.Random(2)
    rows = [[sample(rng, rng.randint(1, 5)) for _ in range(3)] for _ in range(2)]
    packed = [[SimpleNamespace(input_ids=ids, labels=ids) for ids in row] for row in rows]
    batch = layout.pack(packed, 64, IDS)
    for index, row in enumerate(rows):
        start = 0
        for ids in row:
            place = slice(start, start + len(ids))
            positions, mask = whole(ids)
            assert batch["input_ids"][index, place].tolist() == ids
            assert torch.equal(batch["position_ids"][index, :, place], positions)
            assert torch.equal(batch["attention_mask"][index, 0, place, place], mask)
            assert batch["attention_mask"][index, 0, place].sum() == mask.sum()  # nothing beyond
            start += len(ids)


def test_later_tokens_get_what_they_have_in_the_whole() -> None:
    """Rows of unequal length, each going on from a place of its own; the first pass is the prompt itself."""
    rng = random.Random(3)
    sequences = [sample(rng, 9) for _ in range(4)]
    prompts = [ids.index(IDS.bos_token_id) + 1 for ids in sequences]
    for done, count in ((None, None), (0, 1), (2, 5)):
        starts = [0 if done is None else prompt + done for prompt in prompts]
        counts = prompts if count is None else [count - row % 2 for row in range(4)]
        rows = [ids[start : start + n] for ids, start, n in zip(sequences, starts, counts, strict=True)]
        rows = [row or [99] for row in rows]
        slots = torch.tensor(starts)[:, None] + torch.arange(max(map(len, rows)))
        inputs = layout.next_inputs(slots, torch.tensor(prompts), int(slots.max()) + 1)
        for index, (ids, start, row) in enumerate(zip(sequences, starts, rows, strict=True)):
            positions, mask = whole(ids)
            length, end = len(row), start + len(row)
            assert torch.equal(inputs["position_ids"][index, :, :length], positions[:, start:end])
            visible = inputs["attention_mask"][index, 0, :length]
            known = min(visible.shape[1], len(ids))
            assert torch.equal(visible[:, :known], mask[start:end, :known])
            assert not visible[:, known:].any()


def test_the_mask_of_generate_s_later_calls() -> None:
    ids = sample(random.Random(4), 6)
    _, mask = whole(ids)
    past = len(ids) - 3
    later = layout.get_continued_mask(past, 3, None, torch.device("cpu"))
    assert torch.equal(later[0, 0], mask[past:])
    assert layout.get_continued_mask(past, 1, None, torch.device("cpu")) is None
    padded = torch.tensor([[0, *[1] * (len(ids) - 1)]])
    assert not layout.get_continued_mask(past, 3, padded, torch.device("cpu"))[..., 0].any()


def test_sequences_without_structure_are_refused() -> None:
    for ids in ([11, IDS.bos_token_id], [IDS.gmask_token_id, 11]):
        with pytest.raises(ValueError, match="必须含有"):
            layout.get_position_ids(torch.tensor([ids]), IDS)
    with pytest.raises(ValueError, match="补齐必须在左侧"):
        layout.get_position_ids(torch.tensor([[6, 5, 3]]), IDS, torch.tensor([[1, 1, 0]]))

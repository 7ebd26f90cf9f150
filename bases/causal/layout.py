"""Causal masks and positions: of whole sequences, of several in one row, of tokens that come later.

Dimensions in comments: B rows, S query length, K key length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bases.interface import IGNORE_INDEX, Sample

PADDING_ID = 0  # any: nobody sees it


def pack(rows: Sequence[Sequence[Sample]], row_length: int) -> dict[str, torch.Tensor]:
    """Lay samples out in rows, with padding on the right; see `bases.interface.Family.pack`.

    Returns:
        `input_ids`, `labels` and `position_ids` [B, S] int64; `attention_mask` [B, 1, S, S] bool, block by
        block causal. Padding sees itself only.
    """
    shape = (len(rows), row_length)
    input_ids = torch.full(shape, PADDING_ID)
    labels = torch.full(shape, IGNORE_INDEX)
    sample_number = torch.zeros(shape, dtype=torch.int64)  # from 1; 0 is padding
    position_ids = torch.zeros_like(input_ids)
    for row, samples in enumerate(rows):
        start = 0
        for number, sample in enumerate(samples, start=1):
            place = slice(start, start + len(sample.input_ids))
            input_ids[row, place] = torch.tensor(sample.input_ids)
            labels[row, place] = torch.tensor(sample.labels)
            sample_number[row, place] = number
            position_ids[row, place] = torch.arange(len(sample.input_ids))
            start = place.stop
    same = sample_number[:, :, None] == sample_number[:, None, :]
    visible = same & (sample_number > 0)[:, None, :] & _not_after(row_length)
    return {
        "input_ids": input_ids,
        "labels": labels,
        "position_ids": position_ids,
        "attention_mask": _with_itself(visible),
    }


def pack_flat(rows: Sequence[Sequence[Sample]], multiple: int) -> dict[str, torch.Tensor]:
    """Lay all samples out in one row, as `pack` does, but for the mask: `attention_mask` is their lengths.

    Args:
        rows: the samples.
        multiple: of tokens that the row is padded to; padding counts as a sample.

    Returns:
        See `pack`; `attention_mask` is [1, 1, 1, N] int64.
    """
    samples = [sample for row in rows for sample in row]
    lengths = [len(sample.input_ids) for sample in samples]
    if padding := -sum(lengths) % multiple:
        lengths.append(padding)
    return {
        "input_ids": _joined([sample.input_ids for sample in samples], padding, PADDING_ID),
        "labels": _joined([sample.labels for sample in samples], padding, IGNORE_INDEX),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "attention_mask": torch.tensor(lengths)[None, None, None],
    }


def _joined(parts: Sequence[list[int]], padding: int, filler: int) -> torch.Tensor:
    return torch.tensor([[number for part in parts for number in part] + [filler] * padding])


def _not_after(length: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def _with_itself(visible: torch.Tensor) -> torch.Tensor:
    """Let every query of a mask [B, S, S] see itself at least (of nothing there is no mean); [B, 1, S, S]."""
    return (visible | torch.eye(visible.shape[-1], dtype=torch.bool, device=visible.device))[:, None]


def padded(attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mask [B, 1, S, S] and positions [B, S] of padded sequences; [B, S], 0 on padding."""
    is_token = attention_mask.bool()
    visible = is_token[:, None, :] & _not_after(is_token.shape[1]).to(is_token.device)
    return _with_itself(visible), (is_token.long().cumsum(-1) - 1).clamp(min=0)


def next_inputs(slots: torch.Tensor, keys: int) -> dict[str, torch.Tensor]:
    """Lay out a decoding pass over rows of unequal length; see `bases.interface.Family.next_inputs`."""
    key = torch.arange(keys, device=slots.device)
    return {
        "position_ids": slots,
        "attention_mask": (key <= slots[..., None])[:, None],  # [B, 1, S, K]
    }


def within_window(visible: torch.Tensor, position_ids: torch.Tensor, window: int) -> torch.Tensor:
    """Hide from each query what is `window` tokens back or more.

    Args:
        visible: [B, 1, S, K] bool.
        position_ids: [B, S] of the queries. Keys are the same tokens if K = S, else those from 0 on.
        window: tokens, that of the query included.
    """
    keys = visible.shape[-1]
    if keys == position_ids.shape[-1]:
        key_positions = position_ids[:, None, :]
    else:
        key_positions = torch.arange(keys, device=visible.device)
    return visible & (position_ids[:, :, None] - key_positions < window)[:, None]

"""Several samples in one row: which go together, and the mask and positions that keep them apart.

A packed row gives each sample what it would have got alone: its own 2-D positions from 0, and a prefix-LM
mask that ends at its borders. So loss and gradient are those of the samples one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from data_handle.data_preprocess import IGNORE_INDEX, Features

# Rows have a multiple of so many tokens: few shapes for the kernels, and aligned masks for the attention.
ROW_MULTIPLE = 16


class SpecialIds(Protocol):
    """What packing needs of a `ChatGLMConfig`."""

    pad_token_id: int
    bos_token_id: int
    gmask_token_id: int
    mask_token_id: int


class Pass(NamedTuple):
    """The samples of one forward and backward pass, by index, row by row."""

    rows: list[list[int]]
    row_length: int

    @property
    def tokens(self) -> int:
        """Tokens of the pass, padding included."""
        return len(self.rows) * self.row_length


def plan_passes(
    lengths: Sequence[int], tokens_per_pass: int, hidden_size: int, at_least: int = 1
) -> list[Pass]:
    """Split samples into the fewest passes within a number of tokens, each laid out to cost least.

    Args:
        lengths: tokens of each sample.
        tokens_per_pass: the most tokens of a pass; or those of the longest sample, if they are more.
        hidden_size: of the model; attention weighs more in a narrow one.
        at_least: passes, if there are as many samples.

    Returns:
        The passes; no sample is in two, none is left out.
    """
    if not lengths:
        return []
    limit = max(tokens_per_pass, _whole_row(max(lengths)))
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    fewest = min(max(at_least, math.ceil(sum(lengths) / limit)), len(lengths))
    for count in range(fewest, len(lengths) + 1):
        groups: list[list[int]] = [[] for _ in range(count)]
        sizes = [0] * count
        for index in order:  # the longest that is left to the pass that has least
            smallest = sizes.index(min(sizes))
            groups[smallest].append(index)
            sizes[smallest] += lengths[index]
        passes = [_lay_out(group, lengths, limit, hidden_size) for group in groups]
        if all(each.tokens <= limit for each in passes):
            break
    return passes


def _whole_row(tokens: int) -> int:
    return math.ceil(tokens / ROW_MULTIPLE) * ROW_MULTIPLE


def _lay_out(group: list[int], lengths: Sequence[int], limit: int, hidden_size: int) -> Pass:
    """Choose the length of rows: long ones leave little padding, short ones attend to little in vain."""
    own = [lengths[index] for index in group]
    # A token costs 24 H^2 operations in the linear layers of a block and 4 H S in attention over S tokens;
    # a row's length is worth trying where it holds one more sample than the one before.
    best: tuple[bool, float, Pass] | None = None
    for count in range(1, len(own) + 1):
        row_length = _whole_row(sum(own[:count]))
        rows = [[group[index] for index in row] for row in assign_rows(own, row_length)]
        candidate = Pass(rows, row_length)
        cost = candidate.tokens * (1 + row_length / (6 * hidden_size))
        key = (candidate.tokens > limit, cost)
        if best is None or key < best[:2]:
            best = (*key, candidate)
    assert best is not None  # a group has samples
    return best[2]


def assign_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Put samples into as few rows as first-fit decreasing finds, longest first.

    Args:
        lengths: tokens of each sample, none more than `row_length`.
        row_length: tokens that a row holds.

    Returns:
        The indices of the samples of each row.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if length > row_length:
            raise ValueError(f"长 {length} 的样本放不进长 {row_length} 的行。")
        row = next((row for row, space in enumerate(free) if space >= length), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(row_length)
        rows[row].append(index)
        free[row] -= length
    return rows


def pack(rows: Sequence[Sequence[Features]], row_length: int, config: SpecialIds) -> dict[str, torch.Tensor]:
    """Lay samples out in rows, with padding on the right.

    Args:
        rows: the samples of each row; each holds a mask token and `<sop>`, and begins with an unlabelled
            token (the label of a sample's first token would be predicted by the sample before).
        row_length: tokens of a row, no fewer than any row's samples have together.
        config: of the model, for the special ids.

    Returns:
        `input_ids` and `labels` [B, S] int64; `position_ids` [B, 2, S] int64; `attention_mask`
        [B, 1, S, S] bool, True where a query (dim 2) sees a key (dim 3). Padding sees itself only.
    """
    shape = (len(rows), row_length)
    input_ids = torch.full(shape, config.pad_token_id)
    labels = torch.full(shape, IGNORE_INDEX)
    position_ids = torch.zeros((len(rows), 2, row_length), dtype=torch.int64)
    sample_number = torch.zeros(shape, dtype=torch.int64)  # from 1; 0 is padding
    in_context = torch.zeros(shape, dtype=torch.bool)
    for row, samples in enumerate(rows):
        start = 0
        for number, sample in enumerate(samples, start=1):
            ids = sample.input_ids
            context = ids.index(config.bos_token_id)
            blank = config.gmask_token_id if config.gmask_token_id in ids else config.mask_token_id
            end = start + len(ids)
            input_ids[row, start:end] = torch.tensor(ids)
            labels[row, start:end] = torch.tensor(sample.labels)
            sample_number[row, start:end] = number
            in_context[row, start : start + context] = True
            position_ids[row, 0, start : start + context] = torch.arange(context)
            position_ids[row, 0, start + context : end] = ids.index(blank)
            position_ids[row, 1, start + context : end] = torch.arange(1, len(ids) - context + 1)
            start = end
    index = torch.arange(row_length)
    causal = index[:, None] >= index[None, :]  # [S, S]
    same = (sample_number[:, :, None] == sample_number[:, None, :]) & (sample_number > 0)[:, :, None]
    visible = same & (causal | in_context[:, None, :]) | torch.eye(row_length, dtype=torch.bool)
    return {
        "input_ids": input_ids,
        "labels": labels,
        "position_ids": position_ids,
        "attention_mask": visible[:, None],
    }

"""Several samples in one row: which go together, so that few passes with little padding do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bases import family_of
from bases.interface import ROW_MULTIPLE, Sample

if TYPE_CHECKING:
    import torch


class MicroBatch(NamedTuple):
    """The samples of one forward and backward pass, by index, row by row."""

    rows: list[list[int]]
    row_length: int

    @property
    def tokens(self) -> int:
        """Tokens of the pass, padding included."""
        return len(self.rows) * self.row_length


def plan_micro_batches(
    lengths: Sequence[int], tokens_per_pass: int, hidden_size: int, at_least: int = 1
) -> list[MicroBatch]:
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


def _lay_out(group: list[int], lengths: Sequence[int], limit: int, hidden_size: int) -> MicroBatch:
    """Choose the length of rows: long ones leave little padding, short ones attend to little in vain."""
    own = [lengths[index] for index in group]
    # A token costs 24 H^2 operations in the linear layers of a block and 4 H S in attention over S tokens;
    # a row's length is worth trying where it holds one more sample than the one before.
    best: tuple[bool, float, MicroBatch] | None = None
    for count in range(1, len(own) + 1):
        row_length = _whole_row(sum(own[:count]))
        rows = [[group[index] for index in row] for row in assign_rows(own, row_length)]
        candidate = MicroBatch(rows, row_length)
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


def pack(
    rows: Sequence[Sequence[Sample]], row_length: int, config: Any, device: torch.device | None = None
) -> dict[str, torch.Tensor]:
    """Lay samples out in rows, kept apart there by what the model's family knows; see `Family.pack`.

    Args:
        rows, row_length, config: see there.
        device: where the tensors shall live; the CPU when None.
    """
    family = family_of(config)
    if device is None:
        return family.pack(rows, row_length, config)
    return family.pack_on(device, rows, row_length, config)

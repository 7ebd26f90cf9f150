"""A key-value cache whose rows have lengths of their own: each sentence advances by what it accepted."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from extraction.decoding.transfer import send

CHUNK = 64  # tokens; room is made in steps of it


class RowCache:
    """Keys and values of sentences; `update` is what the model's layers call.

    It has room for as many rows and tokens as passes have asked for, and makes more when they do: what a row
    takes follows what it has, not what it could have at most.
    """

    def __init__(self) -> None:
        self._rows, self._capacity = 0, 0
        self._buffers: list[torch.Tensor] = []  # keys and values of a layer, [2, rows, N, capacity, D]
        self._high = 0  # places that have been written to
        self._pass = slice(0, 0)
        self._end = 0
        self._shape = torch.Size()
        self._index: tuple[torch.Tensor, torch.Tensor]
        self._places: torch.Tensor | None = None
        self._padded: torch.Tensor | None = None
        self._source: torch.Tensor

    @property
    def tokens(self) -> int:
        """How many tokens there is room for, in all rows together."""
        return self._rows * self._capacity

    def prepare(
        self,
        first: int,
        slots: torch.Tensor,
        end: int,
        tokens: int = 0,
        places: torch.Tensor | None = None,
        padded: torch.Tensor | None = None,
    ) -> None:
        """Say where the tokens of the next pass belong.

        Args:
            first: the row of the first sentence of the pass; the others' are those behind it.
            slots: [B, S] int64, the place of each token in its row.
            end: places to attend to, K; larger than any slot.
            tokens: of a flat pass, padding included, T; 0 for one of shape [B, S].
            places: [up to T] int64, where each token of a flat pass stands in [B * S].
            padded: [T] int64, the same, with 0 for padding.
        """
        count = len(slots)
        if first + count > self._rows or end > self._capacity:
            self._grow(first + count, end)
        self._pass = slice(first, first + count)
        self._end, self._high = end, max(end, self._high)
        rows = torch.arange(first, first + count, device=slots.device)[:, None].expand_as(slots)
        self._places, self._padded, self._shape = places, padded, slots.shape
        if places is None:
            self._index = rows, slots
        else:
            self._index = rows.flatten()[places], slots.flatten()[places]
            # Which token stands in each place of [B, S]; any, where none does: nothing is done with it.
            self._source = torch.zeros(slots.numel(), dtype=torch.int64, device=slots.device)
            self._source[places] = torch.arange(len(places), device=slots.device)

    def _grow(self, rows: int, capacity: int) -> None:
        if capacity > self._capacity:
            self._capacity = -(-max(capacity, self._capacity * 5 // 4) // CHUNK) * CHUNK
        self._rows = max(rows, self._rows)
        for layer, old in enumerate(self._buffers):
            new = self._new(old, old.shape[2], old.shape[4])
            new[:, : old.shape[1], :, : old.shape[3]] = old
            self._buffers[layer] = new

    def _new(self, like: torch.Tensor, heads: int, width: int) -> torch.Tensor:
        # Zeros: what lies behind a row's end is masked, but must be a number.
        return like.new_zeros(2, self._rows, heads, self._capacity, width)

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the pass's keys and values; return all of its rows'.

        Args:
            key, value: [B, N, S, D], or [1, N, T, D] in a flat pass.
            layer: of the model, from 0.

        Returns:
            Keys and values, [B, N, K, D].
        """
        while len(self._buffers) <= layer:
            self._buffers.append(self._new(key, key.shape[1], key.shape[3]))
        for buffer, states in zip(self._buffers[layer], (key, value), strict=True):
            tokens = states.transpose(1, 2)  # [B, S, N, D]
            if self._places is not None:
                tokens = tokens[0, : len(self._places)]
            buffer[self._index[0], :, self._index[1]] = tokens
        keys, values = (buffer[self._pass, :, : self._end] for buffer in self._buffers[layer])
        return keys, values

    def spread(self, query: torch.Tensor) -> torch.Tensor:
        """Give each row of a flat pass its own queries: [1, N, T, D] to [B, N, S, D]."""
        if self._places is None:
            return query
        own = query[0].transpose(0, 1).index_select(0, self._source)  # [B * S, N, D]
        return own.view(*self._shape, *own.shape[1:]).transpose(1, 2)

    def collect(self, context: torch.Tensor) -> torch.Tensor:
        """Put what attention gives back one after the other: [B, N, S, D] to [1, N, T, D]."""
        if self._padded is None:
            return context
        own = context.transpose(1, 2).flatten(0, 1).index_select(0, self._padded)  # [T, N, D]
        return own.transpose(0, 1)[None]

    def get_seq_length(self) -> int:
        """Return 0: positions and mask are given with each pass, none are derived from a length."""
        return 0

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy rows over others; none is in both lists."""
        if not sources or not self._buffers:
            return
        device = self._buffers[0].device
        if device.type == "cpu":
            for buffer in self._buffers:
                for source, target in zip(sources, targets, strict=True):
                    buffer[:, target, :, : self._high] = buffer[:, source, :, : self._high]
            return
        # On a card each operation costs a launch: all rows of a layer together.
        there, here = send(torch.tensor([list(sources), list(targets)]), device)
        for buffer in self._buffers:
            buffer[:, here, :, : self._high] = buffer[:, there, :, : self._high]

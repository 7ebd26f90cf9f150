"""A key-value cache whose rows have lengths of their own: each sentence advances by what it accepted."""

from __future__ import annotations

import torch

CHUNK = 64  # tokens; room is made in steps of it


class RowCache:
    """Keys and values of sentences; `update` is what the model's layers call.

    It has room for as many rows and tokens as passes have asked for, and makes more when they do: what a row
    takes follows what it has, not what it could have at most.
    """

    def __init__(self) -> None:
        self._rows, self._capacity = 0, 0
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._places = self._slots = torch.empty(0, dtype=torch.int64)
        self._first = self._count = self._end = 0

    def prepare(self, places: list[int], slots: torch.Tensor, end: int) -> None:
        """Say where the tokens of the next pass belong.

        Args:
            places: the row of each sentence in the pass, one after the other.
            slots: [B, S] int64, the place of each token in its row.
            end: places to attend to, K; larger than any slot.
        """
        self._first, self._count, self._end = places[0], len(places), end
        if self._first + self._count > self._rows or end > self._capacity:
            self._grow(self._first + self._count, end)
        self._places = torch.arange(self._first, self._first + self._count, device=slots.device)[:, None]
        self._slots = slots

    def _grow(self, rows: int, capacity: int) -> None:
        if capacity > self._capacity:
            self._capacity = -(-max(capacity, self._capacity * 5 // 4) // CHUNK) * CHUNK
        self._rows = max(rows, self._rows)
        for layer, old in enumerate(self._buffers):
            self._buffers[layer] = (self._enlarged(old[0]), self._enlarged(old[1]))

    def _enlarged(self, old: torch.Tensor) -> torch.Tensor:
        new = self._new(old, old.shape[1], old.shape[3])
        new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def _new(self, like: torch.Tensor, heads: int, width: int) -> torch.Tensor:
        # Zeros: what lies behind a row's end is masked, but must be a number.
        return like.new_zeros(self._rows, heads, self._capacity, width)

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the pass's keys and values, [B, N, S, D]; return all of these rows, [B, N, K, D]."""
        while len(self._buffers) <= layer:
            self._buffers.append(
                (
                    self._new(key, key.shape[1], key.shape[3]),
                    self._new(value, value.shape[1], value.shape[3]),
                )
            )
        for buffer, states in zip(self._buffers[layer], (key, value), strict=True):
            buffer[self._places, :, self._slots] = states.transpose(1, 2)
        rows = slice(self._first, self._first + self._count)
        keys, values = (buffer[rows, :, : self._end] for buffer in self._buffers[layer])
        return keys, values

    def get_seq_length(self) -> int:
        """Return 0: positions and mask are given with each pass, none are derived from a length."""
        return 0

    def move(self, source: int, target: int) -> None:
        """Copy a row over another."""
        for buffers in self._buffers:
            for buffer in buffers:
                buffer[target] = buffer[source]

"""A key-value cache whose rows have lengths of their own: each sentence advances by what it accepted."""

from __future__ import annotations

import torch


class RowCache:
    """Keys and values of up to `rows` sentences, allocated once; `update` is what the model's layers call.

    Args:
        rows: sentences at most.
        capacity: tokens of a sentence, rejected drafts and padding included; grows if more come.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self._shape = rows, capacity
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._rows = self._slots = torch.empty(0, dtype=torch.int64)
        self._whole = True
        self._end = 0

    def prepare(self, rows: list[int], slots: torch.Tensor, end: int) -> None:
        """Say where the tokens of the next pass belong.

        Args:
            rows: the row of each sentence in the pass.
            slots: [B, S] int64, the place of each token in its row.
            end: places to attend to, K; larger than any slot.
        """
        if end > self._shape[1]:
            self._grow(end + self._shape[1] // 2)
        self._whole = rows == list(range(len(rows)))
        self._rows = torch.tensor(rows, device=slots.device)[:, None]
        self._slots = slots
        self._end = end

    def _grow(self, capacity: int) -> None:
        more = capacity - self._shape[1]
        self._shape = self._shape[0], capacity
        for layer, buffers in enumerate(self._buffers):
            key, value = (torch.nn.functional.pad(buffer, (0, 0, 0, more)) for buffer in buffers)
            self._buffers[layer] = key, value

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the pass's keys and values, [B, N, S, D]; return all of these rows, [B, N, K, D]."""
        while len(self._buffers) <= layer:
            rows, capacity = self._shape
            # Zeros: what lies behind a row's end is masked, but must be a number.
            new = key.new_zeros(2, rows, key.shape[1], capacity, key.shape[3])
            self._buffers.append((new[0], new[1]))
        for buffer, states in zip(self._buffers[layer], (key, value), strict=True):
            buffer[self._rows, :, self._slots] = states.transpose(1, 2)
        keys, values = (
            buffer[: len(self._rows), :, : self._end]
            if self._whole
            else buffer[self._rows[:, 0], :, : self._end]
            for buffer in self._buffers[layer]
        )
        return keys, values

    def get_seq_length(self) -> int:
        """Return 0: positions and mask are given with each pass, none are derived from a length."""
        return 0

    def move(self, source: int, target: int) -> None:
        """Copy a row over another."""
        for buffers in self._buffers:
            for buffer in buffers:
                buffer[target] = buffer[source]

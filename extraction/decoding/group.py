"""Rows whose passes are computed together."""

from __future__ import annotations

from typing import NamedTuple

import torch

from extraction.decoding.row import Row
from extraction.decoding.row_cache import RowCache
from extraction.decoding.transfer import Fetched


class Flight(NamedTuple):
    """A pass that has been asked for: its rows, their logits [T, V], and the likeliest tokens [T] of them."""

    rows: list[Row]
    logits: torch.Tensor
    likeliest: Fetched


class Group:
    """Rows with a cache.

    Args:
        size: rows at most.

    Attributes:
        rows: their places in the list are those in the cache.
        passing: those of the pass that is being computed, or put together.
        flight: that pass, once it has been asked for.
        is_filling: free rows are being filled, over more than one pass.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows: list[Row] = []
        self.cache = RowCache()
        self.passing: list[Row] = []
        self.flight: Flight | None = None
        self.is_filling = False

    def remove(self, places: list[int]) -> None:
        """Free rows, given in order; the last ones take their places."""
        origin = list(range(len(self.rows)))  # where what stands in each place has stood
        for place in reversed(places):
            last = origin.pop()
            if place < len(origin):
                origin[place] = last
        moved = [place for place, source in enumerate(origin) if place != source]
        self.cache.move([origin[place] for place in moved], moved)
        self.rows = [self.rows[source] for source in origin]

"""Samples and examples of a data file, kept compactly in arrays or files and made when asked for.

Imports no torch, because workers import this module.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, overload

import numpy as np

from bases.interface import IGNORE_INDEX
from data_handle.data_preprocess import Features
from data_handle.reader import Example

T = TypeVar("T")
Rows = range | np.ndarray


class Items(Sequence[T]):
    """Items made when asked for from two arrays, or two files; a slice or selection is a view.

    Args:
        index: int64 [items, columns]; the first column is where the item starts in `data`.
        data: 1-D, what the items are made of, one after the other.
        rows: which of them this view has, all by default.
        directory: of the files, if that is where the arrays are; pickling then keeps the place only.
    """

    index_file: ClassVar[str]
    columns: ClassVar[int]
    sizes: ClassVar[slice]  # the columns that tell how long an item is
    data_file: ClassVar[str]
    data_type: ClassVar[type[np.generic]]

    def __init__(
        self, index: np.ndarray, data: np.ndarray, rows: Rows | None = None, directory: Path | None = None
    ) -> None:
        self._index, self._data = index, data
        self._rows: Rows = range(len(index)) if rows is None else rows
        self._directory = directory

    @classmethod
    def open(cls, directory: Path, rows: Rows | None = None) -> Self:
        """Map the files of a directory.

        Raises:
            OSError, ValueError: they are missing, or no such files.
        """
        index, data = (
            # A plain view: memmap's own slices are slow. (An empty file can't be mapped.)
            np.asarray(np.memmap(path, kind, "r")) if path.stat().st_size else np.empty(0, kind)
            for path, kind in (
                (directory / cls.index_file, np.int64),
                (directory / cls.data_file, cls.data_type),
            )
        )
        return cls(index.reshape(-1, cls.columns), data, rows, directory)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Put whole sequences in memory one after the other."""
        starts = itertools.accumulate((len(part._data) for part in parts), initial=0)
        indices = [part.index_from(start) for part, start in zip(parts, starts, strict=False)]
        return cls(
            np.concatenate([np.empty((0, cls.columns), np.int64), *indices]),
            np.concatenate([np.empty(0, cls.data_type), *(part._data for part in parts)]),
        )

    @property
    def data(self) -> np.ndarray:
        """What all items are made of."""
        return self._data

    def index_from(self, start: int) -> np.ndarray:
        """Return the index for items whose data stands from `start` on in something larger."""
        index = self._index.copy()
        index[:, 0] += start
        return index

    def column(self, number: int) -> np.ndarray:
        """Return one column of the index for the items of this view, int64."""
        if isinstance(self._rows, range) and self._rows == range(len(self._index)):
            return self._index[:, number]
        return self._index[np.asarray(self._rows, np.int64), number]

    def select(self, indices: np.ndarray) -> Self:
        """Return a view of the items with these indices, in their order."""
        return type(self)(self._index, self._data, np.asarray(self._rows, np.int64)[indices], self._directory)

    def find_damage(self) -> str | None:
        """Say in Chinese what in the index can't be true of the data; None if nothing."""
        if len(self._index) and (self._index.min() < 0 or self._index.max() >= 1 << 48):
            return f"{self.index_file} 里有不可能的数"
        if np.any(self._index[:, 0] + self._index[:, self.sizes].sum(axis=1) > len(self._data)):
            return f"{self.index_file} 指到了 {self.data_file} 之外"
        return None

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return type(self)(self._index, self._data, self._rows[index], self._directory)
        return self._make(*self._index[self._rows[index]].tolist())

    def __reduce__(self) -> tuple[Any, ...]:
        if self._directory is not None:
            return type(self).open, (self._directory, self._rows)
        return type(self), (self._index, self._data, self._rows)

    def _make(self, *row: int) -> T:
        raise NotImplementedError


class EncodedFeatures(Items[Features]):
    """The samples of a file; `lengths` and `line_numbers` tell of each without making it."""

    index_file, columns, sizes = "samples.bin", 4, slice(1, 2)
    data_file, data_type = "input_ids.bin", np.int32

    @classmethod
    def pack(cls, samples: Sequence[Features], line_numbers: Sequence[int]) -> EncodedFeatures:
        """Keep samples in arrays, with the line that each was made of."""
        lengths = [(len(item.input_ids), item.labels.count(IGNORE_INDEX)) for item in samples]
        sizes = np.array(lengths, np.int64).reshape(-1, 2)
        starts = np.cumsum(sizes[:, 0]) - sizes[:, 0]
        input_ids = itertools.chain.from_iterable(item.input_ids for item in samples)
        numbers = np.array(line_numbers, np.int64)
        return cls(np.column_stack([starts, sizes, numbers]), np.fromiter(input_ids, np.int32))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each, int64."""
        return self.column(1)

    @property
    def line_numbers(self) -> np.ndarray:
        """Line number of each, int64."""
        return self.column(3)

    def _make(self, *row: int) -> Features:
        start, tokens, context, _ = row
        input_ids = self._data[start : start + tokens].tolist()
        return Features(input_ids, [IGNORE_INDEX] * context + input_ids[context:])


class EncodedExamples(Items[Example]):
    """The examples of a file; `line_numbers` tells where each stands without making it."""

    index_file, columns, sizes = "examples.bin", 4, slice(1, 3)
    data_file, data_type = "text.bin", np.uint8

    @classmethod
    def pack(cls, examples: Sequence[Example]) -> EncodedExamples:
        """Keep examples in arrays."""
        parts = [text.encode() for example in examples for text in (example.context, example.target)]
        sizes = np.array([len(part) for part in parts], np.int64).reshape(-1, 2)
        starts = np.cumsum(sizes.sum(axis=1)) - sizes.sum(axis=1)
        numbers = np.array([example.line_number for example in examples], np.int64)
        return cls(np.column_stack([starts, sizes, numbers]), np.frombuffer(b"".join(parts), np.uint8))

    @property
    def line_numbers(self) -> np.ndarray:
        """Line number of each, int64."""
        return self.column(3)

    def _make(self, *row: int) -> Example:
        start, context, target, line_number = row
        middle, end = start + context, start + context + target
        return Example(self._text(start, middle), self._text(middle, end), line_number)

    def _text(self, start: int, end: int) -> str:
        return self._data[start:end].tobytes().decode("utf-8", "replace")

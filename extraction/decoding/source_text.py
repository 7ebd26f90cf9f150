"""A sentence as the tokenizer sees it (NFKC, blanks folded), and the way back to its characters as typed."""

from __future__ import annotations

import json
import re
from functools import cached_property
from itertools import accumulate

from bases.interface import UNKNOWN_CHARACTER, BaseTokenizer
from extraction.result import Span
from task.triplets import is_value

# What a value begins with, escaped as in JSON: no blank, and no escaped one.
NO_BLANK = re.compile(r'[^ \\]|\\["\\bu]')
_encode = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` would make an encoder for each text


class SourceText:
    """The values that a sentence offers, in the notation of an answer.

    Args:
        sentence: as typed.
        tokenizer: of the model; characters that it can't write count as one and the same.
    """

    def __init__(self, sentence: str, tokenizer: BaseTokenizer) -> None:
        self.sentence = sentence
        units = [
            unit if tokenizer.can_write(unit.text) else unit._replace(text=UNKNOWN_CHARACTER)
            for unit in tokenizer.normalised_units(sentence)
        ]
        self._units = units
        self.chunks = [escape(unit.text) for unit in units]
        self.escaped = "".join(self.chunks)
        self._starts: dict[int, int] = {}  # offset in `text` -> unit
        self._ends: dict[int, int] = {}
        position = 0
        for index, unit in enumerate(units):
            self._starts[position] = index
            position += len(unit.text)
            self._ends[position] = index
        self.text = "".join(unit.text for unit in units)
        # Letters, digits and ideographs, as the answer writes them; every value holds one.
        self.solid = {
            character
            for unit in units
            for character in unit.text
            if character.isalnum()
            or (character == UNKNOWN_CHARACTER and is_value(sentence[unit.start : unit.end]))
        }

    @property
    def has_values(self) -> bool:
        """Whether there is anything in the sentence that can be a value."""
        begun = False
        for unit, chunk in zip(self._units, self.chunks, strict=True):
            begun = begun or NO_BLANK.match(chunk) is not None
            if begun and not self.solid.isdisjoint(unit.text):
                return True
        return False

    def can_end_or_go_on(self, value: str) -> bool:
        """Tell whether a value can be whole, and can have more to it; False if that isn't sure.

        Args:
            value: the beginning of a value under the constraint, as it stands in an answer.
        """
        if "\\" in value or self.solid.isdisjoint(value):
            return False
        position = self.escaped.find(value)
        return position in self._boundaries and position + len(value) in self._boundaries

    @cached_property
    def _boundaries(self) -> set[int]:
        """Where in `escaped` chunks begin."""
        return {
            end - len(chunk)
            for chunk, end in zip(self.chunks, accumulate(map(len, self.chunks)), strict=True)
        }

    def find(self, value: str, after: int = 0) -> Span | None:
        """Return where a value, a run of whole units, stands first in the sentence; None if nowhere.

        Args:
            value: normalised text.
            after: offset in `text` to search from.
        """
        position = self.text.find(value, after)
        while position >= 0:
            first, last = self._starts.get(position), self._ends.get(position + len(value))
            if first is not None and last is not None:
                return Span(self._units[first].start, self._units[last].end)
            position = self.text.find(value, position + 1)
        return None


def escape(text: str) -> str:
    """Write text as it stands inside a JSON string of an answer."""
    return _encode(text)[1:-1]


def normalise(text: str, tokenizer: BaseTokenizer) -> str:
    """Return a text (of a schema) as the tokenizer sees it."""
    return "".join(unit.text for unit in tokenizer.normalised_units(text))

"""A sentence as the tokenizer sees it (NFKC, blanks folded), and the way back to its characters as typed."""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import Any, NamedTuple

from extraction.decoding.vocabulary import UNKNOWN_CHARACTER, Vocabulary

# What the tokenizer writes instead of white space, and what of it the user's sentence can hold literally.
_WHITE_SPACE = re.compile(r"\n|\t| {2,80}")
_PIECES = {"<n>": "\n", "<|tab|>": "\t"}
_BLANK_PIECE = re.compile(r"<\|blank_([1-9][0-9]?)\|>")


class Span(NamedTuple):
    """A part of the sentence as typed: `sentence[start:end]`."""

    start: int
    end: int


class _Unit(NamedTuple):
    """The smallest part that can be pointed at: what some typed characters have become together."""

    text: str
    start: int
    end: int


# What a value begins with, escaped as in JSON: no blank, and no escaped one.
NO_BLANK = re.compile(r'[^ \\]|\\["\\bu]')


class SourceText:
    """The values that a sentence offers, in the notation of an answer.

    Args:
        sentence: as typed.
        vocabulary: of the model; characters that it can't write count as one and the same.
    """

    def __init__(self, sentence: str, vocabulary: Vocabulary, tokenizer: Any) -> None:
        self.sentence = sentence
        units = list(_units(sentence, tokenizer))
        if not vocabulary.has_byte_pieces:
            units = [
                unit if all(map(vocabulary.can_write, unit.text)) else unit._replace(text=UNKNOWN_CHARACTER)
                for unit in units
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

    @property
    def has_values(self) -> bool:
        """Whether there is anything in the sentence that a value can begin with."""
        return any(NO_BLANK.match(chunk) for chunk in self.chunks)

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
    return json.dumps(text, ensure_ascii=False)[1:-1]


def normalise(text: str, tokenizer: Any) -> str:
    """Return a text (of a schema) as the tokenizer sees it."""
    return "".join(unit.text for unit in _units(text, tokenizer))


def _units(sentence: str, tokenizer: Any) -> list[_Unit]:
    """Split a sentence into what the tokenizer makes of each of its characters, or of several together."""
    prepared, origins = _prepare(sentence, tokenizer)
    normalised, offsets = tokenizer.sp_model.normalize(prepared, with_offsets=True)
    between = tokenizer.sp_model.normalize("甲甲")
    if normalised and between.startswith("▁"):
        normalised, offsets = normalised[1:], offsets[1:]  # put there by SentencePiece
    units = []
    for offset, group in groupby(range(len(normalised)), key=lambda index: offsets[index]):
        indices = list(group)
        text = normalised[indices[0] : indices[-1] + 1].replace("▁", " ")
        if blank := _BLANK_PIECE.fullmatch(text):
            text = " " * int(blank[1])
        end = offsets[indices[-1] + 1]
        while end - offset > 1 and tokenizer.sp_model.normalize(f"甲{prepared[end - 1]}甲") == between:
            end -= 1  # a character that the tokenizer drops, such as a vertical tab, is part of none
        units.append(_Unit(_PIECES.get(text, text), origins[offset], origins[end]))
    return units


def _prepare(sentence: str, tokenizer: Any) -> tuple[str, list[int]]:
    """Write white space as the tokenizer does; return the text and, for each offset in it, the typed one."""
    sentence = sentence.encode("utf-8", "replace").decode("utf-8")
    parts: list[str] = []
    origins: list[int] = []
    position = 0

    def take(end: int) -> None:
        parts.append(sentence[position:end])
        origins.extend(range(position, end))

    for match in _WHITE_SPACE.finditer(sentence):
        take(match.start())
        piece = {"\n": "<n>", "\t": "<|tab|>"}.get(match[0]) or f"<|blank_{len(match[0])}|>"
        parts.append(piece)
        origins.extend([match.start()] * len(piece))
        position = match.end()
    take(len(sentence))
    return "".join(parts), [*origins, len(sentence)]

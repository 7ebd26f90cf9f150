"""Answers to triplets: strict JSON first, then repair; incomplete triplets are dropped, none is invented."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import json_repair

from task.triplets import KEYS, Triplet, is_value

_LIST_START = re.compile(r"\[\s*[{\]]")
# A lone surrogate can't be written out; a quoted field name is JSON that a missing quote let into a value.
_UNFIT = re.compile('[\ud800-\udfff]|"(?:' + "|".join(KEYS) + ')"')


class AnswerStatus(StrEnum):
    """How an answer was read."""

    OK = "ok"  # valid JSON in triplet notation
    REPAIRED = "repaired"  # broken JSON of which at least one complete triplet was saved
    INVALID = "invalid"  # no triplet can be read from it; its empty list of triplets is not a result


class ParsedAnswer(NamedTuple):
    """Triplets of an answer, in its order and without duplicates, and how they were read."""

    triplets: list[Triplet]
    status: AnswerStatus


def parse_answer(raw: str) -> ParsedAnswer:
    """Read a model's answer, fenced or not, with or without text around the list.

    An object counts as a triplet if it has the five fields, all non-empty strings. A cut-off answer ends for
    us with its last object in valid JSON: a cut value would be an invented one.
    """
    triplets = _parse_strictly(raw)
    if triplets is not None:
        return ParsedAnswer(_unique(triplets), AnswerStatus.OK)
    triplets = _unique(_repair(raw))
    return ParsedAnswer(triplets, AnswerStatus.REPAIRED if triplets else AnswerStatus.INVALID)


def _unique(triplets: list[Triplet]) -> list[Triplet]:
    """Leave out repetitions, and triplets with a value of punctuation or blanks only."""
    return [t for t in dict.fromkeys(triplets) if is_value(t.object) and is_value(t.subject)]


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("duplicate key")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_object_without_duplicates)


def _decode(text: str, start: int) -> tuple[Any, int] | None:
    """Decode the JSON value that starts at `start`; return it and its end, or None if it is not valid."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None


def _as_triplet(item: object) -> Triplet | None:
    """Return the triplet of a decoded object if its five fields are there and fit to be values, else None."""
    if not isinstance(item, dict) or not set(KEYS) <= set(item):
        return None
    values = [item[key] for key in KEYS]
    fit = all(isinstance(value, str) and value.strip() and not _UNFIT.search(value) for value in values)
    return Triplet(*values) if fit else None


def _parse_strictly(raw: str) -> list[Triplet] | None:
    """Return the triplets of the answer's list (or lists) if all of it is flawless, else None."""
    triplets: list[Triplet] = []
    end = 0
    while start := _LIST_START.search(raw, end):
        decoded = _decode(raw, start.start())
        if decoded is None:
            return None
        items, end = decoded
        for item in items:
            triplet = _as_triplet(item)
            if triplet is None or len(item) != len(KEYS):
                return None
            triplets.append(triplet)
    return triplets if end and "{" not in raw[end:] else None


def _repair(raw: str) -> list[Triplet]:
    """Return the complete triplets of a broken answer: flawless ones as they are, the rest by json_repair."""
    triplets: list[Triplet] = []
    end = 0
    for triplet, start, stop in _flawless_objects(raw):
        triplets += [*_repair_piece(raw[end:start]), triplet]
        end = stop
    # Of an answer that was cut off, the end may be a part of a value, which the repair would close.
    if raw[raw.rfind("}") + 1 :].lstrip().startswith("]"):
        triplets += _repair_piece(raw[end:])
    return triplets


def _flawless_objects(raw: str) -> Iterator[tuple[Triplet, int, int]]:
    """Yield each triplet that stands in the answer as valid JSON, with its start and end."""
    for brace in re.finditer(r"\{", raw):
        decoded = _decode(raw, brace.start())
        triplet = _as_triplet(decoded[0]) if decoded else None
        if decoded and triplet:
            yield triplet, brace.start(), decoded[1]


def _repair_piece(piece: str) -> list[Triplet]:
    """Return the complete triplets that json_repair finds in a piece of an answer."""
    if "{" not in piece:
        return []
    items = "[" + piece[piece.index("{") :]
    try:
        tree, actions = json_repair.repair_json(items, skip_json_loads=True, logging=True)
    except (ValueError, RecursionError):
        return []
    if any("overwrite" in action["text"] for action in actions):
        return []  # objects ran into one: its fields belong to different facts
    return [triplet for item in _objects(tree) if (triplet := _as_triplet(item))]


def _objects(tree: object) -> Iterator[dict[str, Any]]:
    """Yield the objects of nested lists in their order."""
    if isinstance(tree, dict):
        yield tree
    elif isinstance(tree, list):
        for branch in tree:
            yield from _objects(branch)

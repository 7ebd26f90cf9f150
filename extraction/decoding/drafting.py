"""Guesses of how an answer goes on, from the sentence and the answer so far; the model verifies them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from extraction.decoding.source_text import escape
from task.triplets import Triplet

# A value being written, or about to be: its text so far is the group (None before its opening quote).
_OPEN_VALUE = re.compile(r'"(object|subject)":(?: "((?:[^"\\]|\\.)*))?')
_AFTER_OBJECT = '", "subject": "'
_AFTER_SUBJECT = '"}, {"predicate": "'
# Where a name in running text tends to end.
_BOUNDARY = re.compile(r"[\s，。！？；：、,!?;:《》〈〉「」『』“”‘’（）()\[\]{}【】<>\"\\]")
_TITLE = re.compile(r"[《「“]([^《》「」“”]+)[》」”]")
MAX_CHARACTERS = 48


def draft(item: str, escaped_sentence: str, earlier: Sequence[Triplet]) -> str:
    """Guess the text that follows.

    Args:
        item: the answer behind its last whole triplet.
        escaped_sentence: the sentence as it stands in JSON strings.
        earlier: the triplets before.

    Returns:
        Up to the next choice that nothing is known about; "" for no guess.
    """
    if item.endswith("\n"):
        return '[{"predicate": "'
    if not item:
        return ', {"predicate": "'
    if not (match := _open_value(item)):
        return ""
    name, written = match[1], match[2]
    opening = ' "' if written is None else ""
    rest = _rest_of_value(name, written or "", escaped_sentence, earlier)
    if rest is None:
        return opening
    if name == "object":
        rest += _AFTER_OBJECT
        subject = _rest_of_value("subject", "", escaped_sentence, earlier)
        rest += subject + _AFTER_SUBJECT if subject else ""
    else:
        rest += _AFTER_SUBJECT
    return (opening + rest)[:MAX_CHARACTERS]


def _open_value(item: str) -> re.Match[str] | None:
    start = item.rfind('"subject":')
    if start < 0:
        start = item.rfind('"object":')
    return _OPEN_VALUE.fullmatch(item, start) if start >= 0 else None


def _rest_of_value(name: str, written: str, sentence: str, earlier: Sequence[Triplet]) -> str | None:
    """Guess how a value goes on up to its end; None without a guess."""
    known = [escape(getattr(triplet, name)) for triplet in reversed(earlier)]
    if not written:
        if name == "subject":
            return known[0] if known else (title[1] if (title := _TITLE.search(sentence)) else None)
        return _next_in_list(known[0], sentence) if known else None
    for value in known:
        if value.startswith(written):
            return value[len(written) :]
    position = sentence.find(written)
    if position < 0:
        return None
    rest = sentence[position + len(written) :]
    boundary = _BOUNDARY.search(rest)
    return rest[: boundary.start()] if boundary else rest


def _next_in_list(value: str, sentence: str) -> str | None:
    """Return what follows a value after a mark of enumeration."""
    position = sentence.find(value)
    rest = sentence[position + len(value) :] if position >= 0 else ""
    if not rest.startswith(("、", "和", "与")):
        return None
    boundary = _BOUNDARY.search(rest, 1)
    return rest[1 : boundary.start()] if boundary else rest[1:]

"""Prompts for constrained decoding: which ask for triplets, how a long sentence or schema becomes several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from extraction.decoding.grammar import Constraint
from task.prompt import encode_prompt, split_context, with_relations
from task.schema import Schema
from task.triplets import Combination

# Where a sentence that is too long may be cut, the best places first.
_ENDS = (re.compile(r"[。！？!?…\n]+[”’」』）)\"']*"), re.compile(r"[；;]"), re.compile(r"[，,、\s]"))
_CHARACTERS_PER_TOKEN = 16  # to begin the search with; most have one or two


def asks_for_triplets(context: str) -> bool:
    """Tell a prompt that wants triplets from a classification prompt, by its instruction."""
    instruction = split_context(context)[0] or context
    return "三元组" in instruction or "json" in instruction.lower()


def questions(prompt: str, constraint: Constraint, relations_per_prompt: int) -> list[tuple[str, Constraint]]:
    """Return the prompts that ask a model for all that a constraint allows, each with its own constraint.

    Args:
        prompt: the whole context, without relations.
        constraint: of the answer.
        relations_per_prompt: how many a prompt names at most; 0 for models whose prompts name none.
    """
    if not relations_per_prompt or constraint.schema is None or not split_context(prompt)[0]:
        return [(prompt, constraint)]
    return [
        (with_relations(prompt, names), part)
        for names, part in _split_schema(constraint, relations_per_prompt)
    ]


def questions_for_each(
    prompt: str, constraint: Constraint, relations: Iterable[Combination], relations_per_prompt: int
) -> list[tuple[str, Constraint]]:
    """Return the prompts that ask for each of some relations of a constraint alone; see `questions`."""
    asked = []
    for each in sorted(relations):
        schema = constraint.schema.restricted([each]) if constraint.schema else Schema(frozenset({each}))
        asked += questions(prompt, Constraint(schema, constraint.free_values), relations_per_prompt)
    return asked


@lru_cache(maxsize=64)  # the same for sentence after sentence
def _split_schema(constraint: Constraint, size: int) -> list[tuple[list[str], Constraint]]:
    assert constraint.schema is not None
    return [
        (part.names(), Constraint(part, constraint.free_values)) for part in constraint.schema.split(size)
    ]


def split_sentence(
    tokenizer: Any, context: str, max_source_seq_len: int
) -> Iterator[tuple[int, str, list[int]]]:
    """Split the sentence of a context into pieces that fit, at sentence ends where there are any.

    Args:
        tokenizer: a `ChatGLMTokenizer`.
        context: the whole prompt.
        max_source_seq_len: the most ids of a prompt.

    Yields:
        Each piece's offset in the sentence, its text, and the ids of its prompt.

    Raises:
        UserError: the instruction alone does not fit.
    """
    head, sentence, tail = split_context(context)
    start = 0
    while True:
        end = _fitting_end(tokenizer, head, sentence, tail, start, max_source_seq_len)
        if end < len(sentence):
            end = _cut(sentence, start, end)
        text = sentence[start:end]
        yield start, text, encode_prompt(tokenizer, head + text + tail, max_source_seq_len).input_ids
        if end >= len(sentence):
            return
        start = end


def _fitting_end(tokenizer: Any, head: str, sentence: str, tail: str, start: int, room: int) -> int:
    """Return the last end of a piece from `start` on with which the prompt fits; at least one character."""
    fits, too_long = start, min(len(sentence), start + room * _CHARACTERS_PER_TOKEN) + 1
    middle = too_long - 1  # most sentences fit as a whole
    while too_long - fits > 1:
        if len(tokenizer.prompt_ids(head + sentence[start:middle] + tail)) <= room:
            fits = middle
        else:
            too_long = middle
        middle = (fits + too_long) // 2
    return max(fits, min(start + 1, len(sentence)))


def _cut(sentence: str, start: int, end: int) -> int:
    """Return where to cut between `start` and `end`: behind the last of the best marks there."""
    for pattern in _ENDS:
        # Too early a cut would make many pieces; a worse mark further on is better then.
        ends = [match.end() for match in pattern.finditer(sentence, start, end)]
        if ends and ends[-1] > start + (end - start) // 4:
            return ends[-1]
    return end

"""The grammar of an answer: triplet notation, predicates and types of a schema, values from the sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from extraction.decoding.masks import packed_masks, unpack_masks
from extraction.decoding.source_text import NO_BLANK, SourceText, escape, normalise
from extraction.decoding.vocabulary import vocabulary_of
from extraction.result import Span
from task.schema import Combination, Schema
from task.triplets import Triplet, format_target

# JSON strings as `json.dumps(…, ensure_ascii=False)` writes them: one that begins with something else than a
# blank, escaped or not; whole characters of one; and all that a string can be.
_BEGUN = rf"({NO_BLANK.pattern})(.|\n)*"
_CHARACTERS = r'([^\\]|\\["\\bfnrt]|\\u[0-9a-f]{4})*'  # of an escape, no letter stands for itself
_STRING = r'([^"\\\x00-\x1f\x7f]|\\["\\bfnrt]|\\u00[01][0-9a-f])+'
_FREE = rf"/{_STRING}/ & /( |\\[fnrt])*{_BEGUN}/ & /{_CHARACTERS}[\p{{L}}\p{{N}}]{_CHARACTERS}/"
_EMPTY_ANSWER = format_target([])
LIST_START = _EMPTY_ANSWER.index("[") + 1  # length of an answer up to its first item


@dataclass(frozen=True)
class Constraint:
    """What answers may hold.

    Args:
        schema: the allowed combinations of predicate and types; None allows any.
        free_values: subjects and objects need not be parts of the sentence.
    """

    schema: Schema | None = None
    free_values: bool = False


class AnswerGrammar:
    """Grammars of answers for one tokenizer and one constraint.

    Args:
        tokenizer: a `ChatGLMTokenizer`.
        vocab_size: number of ids of the model.
        constraint: see there.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, constraint: Constraint) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary_of(tokenizer, vocab_size)
        self.constraint = constraint
        self.start = self.vocabulary.encode_start(_EMPTY_ANSWER[:LIST_START]).decode()
        # The schema as the model writes it, and as its file has it.
        self._combinations = {
            Combination(*(normalise(name, tokenizer) for name in combination)): combination
            for combination in sorted(
                constraint.schema.combinations if constraint.schema else (), reverse=True
            )
        }

    def source(self, sentence: str) -> SourceText:
        """Return the sentence as the model sees it."""
        return self.vocabulary.source(sentence)

    def can_have_items(self, source: SourceText) -> bool:
        """Tell whether an answer for a sentence can be anything but the empty list."""
        has_heads = self.constraint.schema is None or bool(self._combinations)
        return has_heads and (source.has_values or self.constraint.free_values)

    @cached_property
    def opening(self) -> list[int]:
        """The tokens that every answer begins with, if it can have items."""
        return self.matcher(self.source("甲")).compute_ff_tokens()

    def matcher(self, source: SourceText) -> LLMatcher:
        """Return llguidance's state machine at the beginning of an answer for a sentence.

        Raises:
            RuntimeError: llguidance refuses the grammar.
        """
        # Lexemes are few here, and most sentences end before looking ahead through all tokens would pay.
        limits = LLParserLimits(precompute_large_lexemes=False)
        matcher = LLMatcher(self.vocabulary.ll_tokenizer, self.lark(source), limits=limits)
        if error := matcher.get_error():
            raise RuntimeError(f"llguidance: {error}")
        return matcher

    def mask(self, matcher: LLMatcher) -> np.ndarray:
        """Return which tokens a matcher allows next, [V] bool."""
        return unpack_masks(packed_masks(self.vocabulary, [matcher]), self.vocabulary.size)[0]

    def lark(self, source: SourceText) -> str:
        """Return the grammar in llguidance's Lark dialect."""
        end = _EMPTY_ANSWER[LIST_START:]
        if not self.can_have_items(source):
            return f"start: {_literal(self.start + end)}\n"
        lines = [
            f'start: {_literal(self.start)} ( {_literal(end)} | item (", " item)* {_literal(end)} )',
            f"item: head VALUE {_literal(_SUBJECT)} VALUE {_literal(_ITEM_END)}",
            *self._head_rules,
        ]
        if self.constraint.free_values:
            lines.append(f"VALUE: {_FREE}")
        else:
            chunks = json.dumps(source.chunks, ensure_ascii=False)
            lines.append(f'SUBSTRING: %regex {{"substring_chunks": {chunks}}}')
            solid = f"[{''.join(sorted(source.solid))}]"
            lines.append(f"VALUE: SUBSTRING & /{_BEGUN}/ & /{_CHARACTERS}{solid}{_CHARACTERS}/")
        return "\n".join(lines) + "\n"

    @cached_property
    def _head_rules(self) -> list[str]:
        """The beginning of an item up to its first value."""
        if self.constraint.schema is None:
            parts = [_literal(part) for part in _head("\0", "\0", "\0").split("\0")]
            return [f"head: {' NAME '.join(parts)}", f"NAME: {_FREE}"]
        heads = [
            _literal(_head(*map(escape, (c.predicate, c.object_type, c.subject_type))))
            for c in sorted(self._combinations)
        ]
        return [f"head: HEAD\nHEAD: {' | '.join(heads)}"]

    def as_typed(self, triplet: Triplet, source: SourceText) -> tuple[Triplet, Span | None, Span | None]:
        """Map a triplet of an answer to the schema's names and the sentence's characters.

        Returns:
            The triplet, and where its object and its subject stand in the sentence (None: nowhere, which
            happens with free values only).
        """
        combination = Combination(triplet.predicate, triplet.subject_type, triplet.object_type)
        combination = self._combinations.get(combination, combination)
        spans = source.find(triplet.object), source.find(triplet.subject)
        values = [
            source.sentence[span.start : span.end] if span else value
            for span, value in zip(spans, (triplet.object, triplet.subject), strict=True)
        ]
        return (
            Triplet(combination.predicate, combination.object_type, combination.subject_type, *values),
            *spans,
        )


def _head(predicate: str, object_type: str, subject_type: str) -> str:
    """Return an item up to its first value, its names escaped."""
    return (
        f'{{"predicate": "{predicate}", "object_type": "{object_type}", "subject_type": "{subject_type}", '
        f'"object": "'
    )


_SUBJECT = '", "subject": "'
_ITEM_END = '"}'


def _literal(text: str) -> str:
    """Write text as a string of Lark."""
    return json.dumps(text, ensure_ascii=False)

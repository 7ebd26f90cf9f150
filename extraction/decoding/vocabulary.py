"""The vocabulary as llguidance sees it: what each token writes, built once per process and tokenizer."""

from __future__ import annotations

from functools import cached_property, lru_cache, partial

import numpy as np
from llguidance import LLTokenizer, TokenizerWrapper

from bases.interface import BaseTokenizer
from extraction.decoding.source_text import SourceText

COMPATIBLE = 1024  # texts whose tokens are kept
SOURCES = 512  # sentences that are kept as the model sees them: those in work


class Vocabulary:
    """Tokens as bytes, and text as tokens.

    Args:
        tokenizer: of the model.
        size: number of ids of the model, padding included; not less than those of the tokenizer.
    """

    def __init__(self, tokenizer: BaseTokenizer, size: int) -> None:
        self.tokenizer = tokenizer
        self.size = size
        written = tokenizer.token_bytes(size)
        self.special_ids = {index for index, text in enumerate(written) if text is None}
        # Special ones write a name that no text can contain.
        self.token_bytes = [
            b"\xff<special_%d>" % index if text is None else text for index, text in enumerate(written)
        ]
        # Few texts are asked for again and again; those of requests' own schemas are without end.
        self.compatible_with = lru_cache(COMPATIBLE)(self._compatible_with)
        # What is asked for is mostly the notation.
        self._encode = lru_cache(maxsize=4096)(tokenizer.encode_inside)
        self._source = lru_cache(SOURCES)(partial(SourceText, tokenizer=tokenizer))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text in the middle of another: no blank is put before it."""
        return list(self._encode(text))

    def source(self, sentence: str) -> SourceText:
        """Return a sentence as the model sees it; soon asked for again, when its answer is there."""
        return self._source(sentence)

    def encode_start(self, text: str) -> bytes:
        """Return what the ids of a text at the beginning write: a blank before it, in published models."""
        return b"".join(self.token_bytes[index] for index in self.tokenizer.encode_plain(text))

    def _compatible_with(self, text: bytes) -> list[int]:
        """Return the tokens that write a beginning of a text, or all of it and more."""
        return [
            index
            for index, written in enumerate(self.token_bytes)
            if written and (written.startswith(text) or text.startswith(written))
        ]

    @cached_property
    def starts_with_quote(self) -> np.ndarray:
        """Which tokens write a quote first, [V] bool: inside a value they end it."""
        return np.array([text.startswith(b'"') for text in self.token_bytes])

    @cached_property
    def ll_tokenizer(self) -> LLTokenizer:
        """The object that llguidance computes with."""
        return LLTokenizer(TokenizerWrapper(_Source(self)), n_vocab=self.size, slices=[])


class _Source:
    """What llguidance's wrapper asks of a tokenizer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.token_bytes
        self.special_token_ids = sorted(vocabulary.special_ids)
        self.eos_token_id = vocabulary.tokenizer.eos_token_id
        self.bos_token_id = None
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):  # the wrapper tries whether bytes are taken
            raise TypeError("text expected")
        return self._encode(text)


_BUILT: dict[tuple[str, int, int], Vocabulary] = {}


def vocabulary_of(tokenizer: BaseTokenizer, size: int) -> Vocabulary:
    """Return the vocabulary of a tokenizer, built at the first call for its file: it takes up to a second."""
    key = (str(tokenizer.vocab_file), len(tokenizer), size)
    if key not in _BUILT:
        _BUILT[key] = Vocabulary(tokenizer, size)
    return _BUILT[key]

"""The vocabulary as llguidance sees it: what each token writes, built once per process and tokenizer."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from llguidance import LLTokenizer, TokenizerWrapper

# What stands for a character that a tokenizer without byte pieces can't write; its <unk> writes this.
UNKNOWN_CHARACTER = "\ufffd"
_BLANK_PIECE = re.compile(r"<\|blank_([1-9][0-9]?)\|>")
_FIXED_PIECES = {"<n>": b"\n", "<|tab|>": b"\t"}


class Vocabulary:
    """Tokens as bytes, and text as tokens, without the blank that SentencePiece puts before a text.

    Args:
        tokenizer: a `ChatGLMTokenizer`.
        size: number of ids of the model, padding included; not less than those of the tokenizer.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self._tokenizer = tokenizer
        self._model = tokenizer.sp_model
        self._first_piece = tokenizer.num_image_tokens
        self.size = size
        self.special_ids = {self._first_piece + i for i in range(len(self._model)) if self._is_special(i)}
        self.special_ids |= {*range(self._first_piece), *range(self._first_piece + len(self._model), size)}
        self._compatible: dict[bytes, list[int]] = {}  # few texts are ever asked for
        self.token_bytes = [self._bytes_of(index) for index in range(size)]

    def _is_special(self, piece_id: int) -> bool:
        control, unknown = self._model.is_control(piece_id), self._model.is_unknown(piece_id)
        return control or self._model.is_unused(piece_id) or (unknown and self.has_byte_pieces)

    def _bytes_of(self, index: int) -> bytes:
        """Return what a token writes; for special ones a name that no text can contain."""
        if index in self.special_ids:
            return b"\xff<special_%d>" % index
        piece_id = index - self._first_piece
        piece = self._model.id_to_piece(piece_id)
        if self._model.is_unknown(piece_id):
            return UNKNOWN_CHARACTER.encode()
        if self._model.is_byte(piece_id):
            return bytes([int(piece[3:5], 16)])
        if blank := _BLANK_PIECE.fullmatch(piece):
            return b" " * int(blank[1])
        return _FIXED_PIECES.get(piece) or piece.replace("▁", " ").encode()

    @cached_property
    def has_byte_pieces(self) -> bool:
        """Whether every character can be written."""
        return any(self._model.is_byte(index) for index in range(len(self._model)))

    def can_write(self, character: str) -> bool:
        """Tell whether a (normalised) character has tokens of its own."""
        return self.has_byte_pieces or self._model.unk_id() not in self._model.encode(character)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text in the middle of another: no blank is put before it."""
        # A newline never joins what follows, and takes the blank before it along.
        return self._tokenizer.encode_plain("\n" + text)[self._newline_length :]

    def encode_start(self, text: str) -> bytes:
        """Return what the ids of a text at the beginning write: a blank before it, in published models."""
        return b"".join(self.token_bytes[index] for index in self._tokenizer.encode_plain(text))

    @cached_property
    def _newline_length(self) -> int:
        return len(self._tokenizer.encode_plain("\n"))

    def compatible_with(self, text: bytes) -> list[int]:
        """Return the tokens that write a beginning of a text, or all of it and more."""
        if text not in self._compatible:
            self._compatible[text] = [
                index
                for index, written in enumerate(self.token_bytes)
                if written and (written.startswith(text) or text.startswith(written))
            ]
        return self._compatible[text]

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
        self.eos_token_id = vocabulary._tokenizer.eos_token_id
        self.bos_token_id = vocabulary._tokenizer.bos_token_id
        self._encode = lru_cache(maxsize=4096)(vocabulary.encode)  # what is forced is mostly the notation

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):  # the wrapper tries whether bytes are taken
            raise TypeError("text expected")
        return self._encode(text)


_BUILT: dict[tuple[str, int, int], Vocabulary] = {}


def vocabulary_of(tokenizer: Any, size: int) -> Vocabulary:
    """Return the vocabulary of a tokenizer, built at the first call for its file: it takes up to a second."""
    key = (str(tokenizer.vocab_file), tokenizer.num_image_tokens, size)
    if key not in _BUILT:
        _BUILT[key] = Vocabulary(tokenizer, size)
    return _BUILT[key]

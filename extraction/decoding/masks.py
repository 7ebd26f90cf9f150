"""Which tokens grammars allow next, for many sentences at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par

from extraction.decoding.vocabulary import Vocabulary

_WORTH_THREADS = 4  # masks; a single one takes some 50 microseconds


@functools.cache
def _executor() -> LLExecutor:
    return LLExecutor()


def packed_masks(vocabulary: Vocabulary, matchers: Sequence[LLMatcher]) -> np.ndarray:
    """Return the tokens that each matcher allows next, [R, ceil(V / 32)] int32, a bit for each, low first."""
    bits = np.zeros((len(matchers), (vocabulary.size + 31) // 32), dtype=np.int32)
    plain: list[tuple[LLMatcher, int]] = []
    for row, matcher in enumerate(matchers):
        if forced := matcher.compute_ff_bytes():
            # Bytes that are forced, but not yet how they become tokens: llguidance 1.9.1 may leave them out
            # of account in its mask (after three of four blanks, say), though not where it validates a token.
            allowed = np.zeros(32 * bits.shape[1], dtype=bool)
            for token in vocabulary.compatible_with(forced):
                allowed[token] = matcher.validate_tokens([token]) == 1
            bits[row] = np.packbits(allowed, bitorder="little").view(np.int32)
        else:
            plain.append((matcher, row))
    if len(plain) >= _WORTH_THREADS:
        fill_next_token_bitmask_par(_executor(), plain, bits)
    else:
        for matcher, row in plain:
            fill_next_token_bitmask(matcher, bits, row)
    return bits


def unpack_masks(bits: np.ndarray, size: int) -> np.ndarray:
    """Turn packed masks into [R, V] bool."""
    return np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, :size].view(bool)

"""Tests for extraction.decoding.passes."""

from __future__ import annotations

from extraction.decoding.passes import bucket


def test_few_sizes_and_little_padding() -> None:
    """A single token has a size too: the first pass over one short prompt on a card failed for want of it."""
    sizes = {tokens: bucket(tokens) for tokens in range(1, 4097)}
    assert all(size >= tokens for tokens, size in sizes.items())
    assert all(size - tokens <= max(7, tokens / 4) for tokens, size in sizes.items())
    assert len(set(sizes.values())) < 64
    assert sizes[1] == 8

"""Which sentences count as the same: by their letters alone."""

from __future__ import annotations

import unicodedata


def sentence_key(sentence: str) -> str:
    """Return what two forms of one sentence have in common: its letters, in NFKC.

    Punctuation, symbols, digits and blanks don't count, unless there is nothing else.
    """
    text = unicodedata.normalize("NFKC", sentence)
    letters = "".join(character for character in text if unicodedata.category(character)[0] in "LM")
    return letters or "".join(text.split())

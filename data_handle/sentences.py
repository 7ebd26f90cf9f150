"""Which sentences count as the same: by their letters alone."""

from __future__ import annotations

import unicodedata


def sentence_key(sentence: str) -> str:
    """Return what two forms of one sentence have in common: its letters, in NFKC.

    Punctuation, symbols, digits and blanks don't count, unless there is nothing else.
    """
    text = unicodedata.normalize("NFKC", sentence)
    return text.translate(_LETTERS) or "".join(text.split())


class _Letters(dict[int, int | None]):
    """A table for `str.translate` that keeps letters and marks, filled as characters come by."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LM" else None
        return self[code]


_LETTERS = _Letters()

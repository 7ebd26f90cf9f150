"""Columns on a terminal: Chinese characters are two columns wide."""

from __future__ import annotations

import unicodedata


def display_width(text: str) -> int:
    """Count the columns that a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def pad(text: str, width: int, right: bool = False) -> str:
    """Fill a text with blanks to a width in columns; `right` puts it at the right end."""
    blanks = " " * (width - display_width(text))
    return blanks + text if right else text + blanks

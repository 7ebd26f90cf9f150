"""Tables on a terminal: columns in which a Chinese character is two wide."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from utils.common_utils import visible


def display_width(text: str) -> int:
    """Count the columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def pad(text: str, width: int, right: bool = False) -> str:
    """Fill a text with blanks to a width in columns; `right` puts it at the right end."""
    blanks = " " * (width - display_width(text))
    return blanks + text if right else text + blanks


def shorten(text: str, width: int) -> str:
    """Cut a text to a width in columns; "…" stands for what is gone."""
    if display_width(text) <= width:
        return text
    kept, used = "", 1
    for character in text:
        used += display_width(character)
        if used > width:
            break
        kept += character
    return kept + "…" if width > 0 else ""


def format_table(headings: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Align columns, one line a row; control characters in them are shown escaped.

    Args:
        headings: one a column.
        rows: as many cells each; what is no text is shown as `str` gives it.
        left: how many columns hold words and begin at the left; the others hold numbers and end at the right.
    """
    cells = [[visible(str(value), keep="") for value in row] for row in (headings, *rows)]
    widths = [max(map(display_width, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            pad(cell, width, right=number >= left)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )

"""Cells of tables that a spreadsheet opens: quoting, and no value that it would take for a formula."""

from __future__ import annotations

import re

# What a spreadsheet computes instead of showing: owasp.org, "CSV Injection" (full-width signs count too).
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?%?")


def with_guard(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula; `without_guard` undoes it."""
    return "'" + text if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def without_guard(text: str) -> str:
    """Return the text that `with_guard` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def quote(value: str | float | None) -> str:
    """Return a CSV field (RFC 4180): text in quotation marks, numbers bare, nothing for None."""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return "" if value is None else repr(value)

"""Excel: the table of `csv_table` as a workbook, by openpyxl, which streams it to the disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from export.formats import WriteOptions, require
from export.formats.csv_table import HEADINGS, rows
from export.graph_store import GraphStore

MAX_ROWS = 1_048_576  # of a sheet, the headings included
MAX_CHARACTERS = 32_767  # of a cell, in UTF-16 units
_WIDTHS = (18, 50, 18, 12, 14, 18, 12, 8, 9, 9, 9, 9)
# Characters that XML can't hold, and what looks like the escape for one (ECMA-376 part 1, 22.9.2.19).
_ESCAPED = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")


def write(store: GraphStore, path: Path, options: WriteOptions) -> list[str]:
    """Write the workbook: further sheets where one is full.

    Returns:
        What the user should know, in Chinese.
    """
    openpyxl = require("openpyxl", "--format xlsx")
    cut = 0

    def cell(text: str) -> str:
        nonlocal cut
        escaped = _ESCAPED.sub(lambda match: f"_x{ord(match[0]):04X}_", text)
        if _units(escaped) > MAX_CHARACTERS:
            cut += 1
            escaped = _shorten(escaped)
        return escaped

    workbook = openpyxl.Workbook(write_only=True)
    sheet: Any = None
    count = MAX_ROWS
    for row in rows(store, cell):
        if count == MAX_ROWS:
            sheet, count = _new_sheet(workbook), 1
        sheet.append([_as_text(openpyxl, sheet, value) for value in row])
        count += 1
    if sheet is None:
        _new_sheet(workbook)
    with path.open("wb") as file:
        workbook.save(file)
    return [f"有 {cut} 个值超过 Excel 一格 {MAX_CHARACTERS} 字的上限，后面的截去了。"] if cut else []


def _new_sheet(workbook: Any) -> Any:
    sheet = workbook.create_sheet(f"三元组{len(workbook.worksheets) + 1}")
    for letter, width in zip("ABCDEFGHIJKL", _WIDTHS, strict=True):
        sheet.column_dimensions[letter].width = width
    sheet.freeze_panes = "A2"
    sheet.append(list(HEADINGS))
    return sheet


def _as_text(openpyxl: Any, sheet: Any, value: str | float | None) -> Any:
    """A value as it is; text that openpyxl would take for a formula or an error, as a cell of text."""
    if not isinstance(value, str) or not value.startswith(("=", "#")):
        return value
    cell = openpyxl.cell.WriteOnlyCell(sheet, value=value)
    cell.data_type = "s"
    cell.quotePrefix = True  # stays text when a user edits it
    return cell


def _units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


def _shorten(text: str) -> str:
    """Cut a text to what a cell holds, without cutting an escape."""
    while _units(text) > MAX_CHARACTERS:
        text = text[: len(text) - max(1, (_units(text) - MAX_CHARACTERS) // 2)]
    return re.sub("_(x[0-9A-Fa-f]{0,4})?$", "", text)

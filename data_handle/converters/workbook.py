"""Excel workbooks as rows of text, by openpyxl (an optional package, see requirements-data.txt)."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

from data_handle.converters.cell_formats import as_shown
from data_handle.converters.decoding import read_whole
from data_handle.converters.workbook_parts import safe_parts
from utils.common_utils import UserError

MAX_ROWS = 1 << 20  # Excel's own limit; a row's number is all that a file needs to claim more
MAX_CELLS = 20_000_000  # empty ones between the others included
Sheet = tuple[str, list[tuple[int, list[str]]]]
_MAX_MERGED_COLUMN = 64  # the columns of labels stand further to the left
_MERGED = re.compile(rb"<(?:\w+:)?mergeCell\s[^>]*?ref=\"([A-Z]{1,3})([0-9]{1,7}):[A-Z]{1,3}([0-9]{1,7})\"")


def import_openpyxl() -> ModuleType:
    """Import openpyxl.

    Raises:
        UserError: it isn't installed.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise UserError("读写 Excel 需要 openpyxl：请运行 pip install -r requirements-data.txt。") from error
    return openpyxl


def read_sheets(path: Path) -> list[Sheet]:
    """Return title and rows of each sheet: number from 1 and cells, rows without content left out.

    Of cells that are merged from top to bottom, each has the value of the first.

    Raises:
        UserError: openpyxl is missing, can't read the file, or there is more in it than in any workbook.
    """
    openpyxl = import_openpyxl()
    try:
        file = safe_parts(read_whole(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of openpyxl's, on formats that are left out
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            left = MAX_CELLS
            sheets = []
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # what a file says of them need not be so
                with zipfile.ZipFile(
                    file
                ) as archive:  # openpyxl knows what is merged only in whole workbooks
                    merged = _find_merged(archive.read(sheet._worksheet_path))
                rows, left = _read_rows(sheet, merged, left)
                sheets.append((sheet.title, rows))
            return sheets
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib, expat and openpyxl have no type in common for damaged files
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path} 不是完好的 .xlsx 文件（{reason}），请在 Excel 里打开后另存一次。") from error


def _find_merged(part: bytes) -> dict[int, list[tuple[int, int]]]:
    """Return column and last row of the ranges of cells that are merged, by the row where they begin."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for letters, first, last in _MERGED.findall(part):
        column = 0
        for letter in letters:
            column = 26 * column + letter - ord("A") + 1
        if column <= _MAX_MERGED_COLUMN:
            found[int(first)].append((column - 1, int(last)))
    return found


def _read_rows(
    sheet: Any, merged: dict[int, list[tuple[int, int]]], left: int
) -> tuple[list[tuple[int, list[str]]], int]:
    """Return the rows of a sheet, and how many of so many cells are left.

    Raises:
        ValueError: there are more rows, or cells, than in any workbook; in Chinese.
    """
    rows = []
    below: dict[int, tuple[int, str]] = {}  # by column: up to which row its cells have the value of the first
    for number, found in enumerate(sheet.iter_rows(), start=1):
        left -= len(found)
        if number > MAX_ROWS or left < 0:
            raise ValueError("行或列太多，请分成几个文件，或另存为 CSV")
        cells = [_text(cell) for cell in found]
        for column, (last, value) in below.items():
            if number <= last:
                cells += [""] * (column + 1 - len(cells))
                cells[column] = value
        for column, last in merged.get(number, ()):
            below[column] = last, cells[column] if column < len(cells) else ""
        if any(cells):
            rows.append((number, cells))
    return rows, left


def _text(cell: Any) -> str:
    value = cell.value
    if value is None or isinstance(value, str):
        return (value or "").strip()
    return as_shown(value, cell.number_format or "General")

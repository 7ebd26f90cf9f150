"""Excel workbooks as rows of text, by openpyxl (an optional package, see requirements-data.txt)."""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from data_handle.converters.decoding import read_whole
from data_handle.converters.workbook_parts import safe_parts
from utils.common_utils import UserError

MAX_ROWS = 1 << 20  # Excel's own limit; a row's number is all that a file needs to claim more
MAX_CELLS = 20_000_000  # empty ones between the others included
Sheet = tuple[str, list[tuple[int, list[str]]]]


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
                rows, left = _read_rows(sheet, left)
                sheets.append((sheet.title, rows))
            return sheets
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib, expat and openpyxl have no type in common for damaged files
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path} 不是完好的 .xlsx 文件（{reason}），请在 Excel 里打开后另存一次。") from error


def _read_rows(sheet: Any, left: int) -> tuple[list[tuple[int, list[str]]], int]:
    """Return the rows of a sheet, and how many of so many cells are left.

    Raises:
        ValueError: there are more rows, or cells, than in any workbook; in Chinese.
    """
    rows = []
    for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
        left -= len(values)
        if number > MAX_ROWS or left < 0:
            raise ValueError("行或列太多，请分成几个文件，或另存为 CSV")
        cells = [_text(value) for value in values]
        if any(cells):
            rows.append((number, cells))
    return rows, left


def _text(value: Any) -> str:
    """Return what a cell shows, as nearly as its stored value tells."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value).strip()

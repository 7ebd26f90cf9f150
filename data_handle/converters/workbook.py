"""Excel workbooks as rows of text, by openpyxl (an optional package, see requirements-data.txt)."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from utils.common_utils import UserError


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


def read_sheets(path: Path) -> Iterator[tuple[str, list[tuple[int, list[str]]]]]:
    """Yield title and rows of each sheet: number from 1 and cells, rows without content left out.

    Raises:
        UserError: openpyxl is missing, or can't read the file.
    """
    openpyxl = import_openpyxl()
    try:
        with path.open("rb") as file:  # by its name, openpyxl would refuse other suffixes
            for sheet in openpyxl.load_workbook(file, read_only=True, data_only=True).worksheets:
                rows = []
                for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
                    cells = [_text(value) for value in values]
                    if any(cells):
                        rows.append((number, cells))
                yield sheet.title, rows
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, SyntaxError, AttributeError) as error:
        raise UserError(f"{path} 不是完好的 .xlsx 文件（{error}），请在 Excel 里打开后另存一次。") from error


def _text(value: Any) -> str:
    """Return what a cell shows, as nearly as its stored value tells."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value).strip()

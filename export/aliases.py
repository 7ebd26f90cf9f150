"""Other names of entities: the table that a user writes or has reviewed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from data_handle.converters.decoding import read_whole
from export.guard import without_guard
from utils.common_utils import UserError

COLUMNS = {
    "alias": ("别名", "alias"),
    "name": ("正名", "名称", "name"),
    "type": ("类型", "type"),
}

MAX_CHAIN = 50  # aliases of aliases


class Aliases:
    """Proper names by (other name, type); the type "" stands for entities of any type."""

    def __init__(self, table: dict[tuple[str, str], str] | None = None) -> None:
        self._table = table or {}

    def __len__(self) -> int:
        return len(self._table)

    def resolve(self, name: str, entity_type: str) -> str:
        """Return the proper name of an entity."""
        if not self._table:
            return name
        return self._table.get((name, entity_type)) or self._table.get((name, "")) or name

    @classmethod
    def load(cls, path: Path) -> Aliases:
        """Read a CSV file with a line of headings, among them 别名, 正名 and, if wanted, 类型.

        Other columns are ignored, so that a list of suggestions can be read as it is. UTF-8 or GBK.

        Raises:
            UserError: it can't be read, lacks a column, gives an alias two names, or runs in a circle.
        """
        rows = _rows(path)
        headings = [heading.strip() for heading in next(rows, (1, []))[1]]
        places = {
            field: next((headings.index(name) for name in names if name in headings), None)
            for field, names in COLUMNS.items()
        }
        if places["alias"] is None or places["name"] is None:
            raise UserError(f"别名表 {path} 的第一行应当有“别名”和“正名”两列（另可有“类型”）。")
        table: dict[tuple[str, str], str] = {}
        for number, row in rows:
            alias, name, kind = (
                without_guard(row[place]) if place is not None and place < len(row) else ""
                for place in (places["alias"], places["name"], places["type"])
            )
            if not any(cell.strip() for cell in row):
                continue
            if not alias.strip() or not name.strip():
                raise UserError(f"别名表 {path} 的第 {number} 行缺少别名或正名。")
            if table.get((alias, kind), name) != name:
                raise UserError(
                    f"别名表 {path} 的第 {number} 行给“{alias}”另一个正名“{name}”，"
                    f"前面写的是“{table[alias, kind]}”，请只留一行。"
                )
            if alias != name:
                table[alias, kind] = name
        return cls({key: _end_of_chain(table, key, path) for key in table})


def _end_of_chain(table: dict[tuple[str, str], str], key: tuple[str, str], path: Path) -> str:
    """Follow aliases of aliases to the name that has no other."""
    alias, kind = key
    seen, name = [alias], table[key]
    while (following := table.get((name, kind)) or table.get((name, ""))) is not None:
        if name in seen:
            raise UserError(f"别名表 {path} 里的别名绕成了圈：{' → '.join([*seen, name])}。")
        if len(seen) > MAX_CHAIN:
            raise UserError(f"别名表 {path} 里从“{alias}”起，别名的别名超过了 {MAX_CHAIN} 层，请直接写正名。")
        seen.append(name)
        name = following
    return name


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of the table, each with the number of its (last) line."""
    rows = csv.reader(io.StringIO(_read_text(path), newline=""))
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise UserError(f"别名表 {path} 的第 {rows.line_num} 行读不懂（{error}），请检查引号。") from error


def _read_text(path: Path) -> str:
    try:
        content = read_whole(path)
    except OSError as error:
        raise UserError(f"读不了别名表 {path}：{error.strerror}。") from error
    for encoding in ("utf-8-sig", "gb18030"):  # Excel in Chinese writes the latter
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UserError(f"别名表 {path} 既不是 UTF-8，也不是 GBK 编码，请另存为 UTF-8 的 CSV。")

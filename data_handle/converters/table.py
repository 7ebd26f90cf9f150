"""Tables: CSV, TSV and the like, and Excel's .xlsx; a row is a fact, several rows a sentence.

Columns are known by their names (see `fields.NAMES`:
`sentence,subject,predicate,object[,subject_type,object_type]` or 句子、主语、关系、宾语 …, DeepKE's
`sentence,relation,head,head_offset,tail,tail_offset`), or named by the user. An empty sentence cell means
the sentence above (merged cells); a row with a sentence alone means that it has no facts. A sheet with
关系、主语类型、宾语类型 and no sentences gives the types by relation. Source of CSV: RFC 4180; quotes that
follow no rule are taken as they stand.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_handle.converters.answers import Types, read_answer
from data_handle.converters.fields import holds_facts, rank_of, role_of
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, Span, excerpt
from data_handle.converters.workbook import read_sheets
from utils.common_utils import UserError

_DELIMITERS = {",": "逗号", "\t": "制表符", ";": "分号", "|": "竖线", "，": "中文逗号"}
_NEEDED = ("text", "subject", "predicate", "object")
_TITLES = {"text": "句子", "subject": "主语", "predicate": "关系", "object": "宾语"}
_TYPES = ("subject_type", "object_type")
_HEADER_ROWS = 20  # a table may have a title and remarks above its header
_PLACEHOLDERS = {"无", "空", "nan", "null", "none", "n/a", "#n/a", "-", "--", "/", "没有"}
_RULE = re.compile(r"[\s:|-]*-{3}[\s:|-]*")  # below the header of a table in Markdown
_GUARDED = re.compile(r"'+[=+\-@＝＋－＠]")  # as `export.guard` writes it
_BIO = re.compile("O|[BIESM]-.+")
_MAX_CELL_LINES = 200


class Row(NamedTuple):
    """A row with something in it."""

    where: str
    cells: list[str]


class Table(NamedTuple):
    """The rows below the header, and what their columns hold: an index for each role.

    `described` says in Chinese what was recognised.
    """

    columns: dict[str, int]
    rows: list[Row]
    described: str


def read_text_table(path: Path, text: str, settings: Settings) -> Table:
    """Find the delimiter and the header of a table.

    Raises:
        UserError: no header is recognised, and the user named no columns.
    """
    found: list[tuple[int, str, Table]] = []
    for delimiter, name in _DELIMITERS.items():
        if delimiter not in text:
            continue
        rows = [Row(f"{path}:{number}", cells) for number, cells in _parse(text, delimiter)]
        if (table := _find_header(rows, settings.columns)) is not None:
            found.append(
                (
                    len(table.columns),
                    delimiter,
                    table._replace(described=f"{name}分隔的表格，{table.described}"),
                )
            )
    if not found:
        first = next((line for line in text.split("\n") if line.strip()), "")
        if settings.columns:
            raise UserError(
                f"{path} 里没有 --columns 所说的列：{'、'.join(settings.columns)}，请对照首行改正。"
                f"{_explain(settings.columns, first)}"
            )
        _refuse_others(path, text)
        raise UserError(
            f"认不出 {path} 的格式：不是 JSON，首行里也没有 句子、主语、关系、宾语 这几列"
            f"（或 sentence、subject、predicate、object）。首行是“{excerpt(first)}”。"
            "列名不同请用 --columns 指明，如 --columns 句子,主语,关系,宾语 或 --columns 句子=评论,主语=产品。"
        )
    return max(found, key=lambda item: item[0])[2]


def read_workbook(path: Path, settings: Settings) -> tuple[list[Table], dict[str, Types]]:
    """Return the tables of a workbook, and the types by relation of its sheet for those.

    Raises:
        UserError: it can't be read, or no sheet has the columns.
    """
    tables: list[Table] = []
    types: dict[str, Types] = {}
    unused = []
    for title, numbered in read_sheets(path):
        rows = [Row(f"{path}「{title}」第 {number} 行", cells) for number, cells in numbered]
        if (table := _find_header(rows, settings.columns)) is not None:
            tables.append(table._replace(described=f"工作表「{title}」，{table.described}"))
        elif (found := _read_types(rows)) is not None:
            types |= found
        elif rows:
            unused.append(title)
    if tables and unused:
        tables[-1] = tables[-1]._replace(
            described=f"{tables[-1].described}；不看的工作表：{'、'.join(unused)}"
        )
    if not tables:
        names = f"（工作表：{'、'.join(unused)}）" if unused else ""
        raise UserError(
            f"{path} 里没有一张工作表有 句子、主语、关系、宾语 这几列{names}：请改列名，或用 --columns 指明。"
        )
    return tables, types


def read_types_file(path: Path, text: str) -> dict[str, Types]:
    """Read a table of predicates with their types.

    Raises:
        UserError: it has no such columns.
    """
    for delimiter in _DELIMITERS:
        rows = [Row(f"{path}:{number}", cells) for number, cells in _parse(text, delimiter)]
        if (types := _read_types(rows)) is not None:
            return types
    raise UserError(
        f"类型表 {path} 的首行应当有三列：关系、主语类型、宾语类型（predicate、subject_type、object_type）。"
    )


def read_types_workbook(path: Path) -> dict[str, Types]:
    """Read the sheet of predicates with their types.

    Raises:
        UserError: it can't be read, or has no such columns.
    """
    for _, numbered in read_sheets(path):
        if (types := _read_types([Row("", cells) for _, cells in numbered])) is not None:
            return types
    raise UserError(
        f"类型表 {path} 的首行应当有三列：关系、主语类型、宾语类型（predicate、subject_type、object_type）。"
    )


def read(table: Table, types: dict[str, Types]) -> Iterator[Labelled | Problem]:
    """Yield the sentences of a table, each once, and the rows that can't be used."""
    sentences: dict[str, Labelled] = {}
    incomplete: set[str] = set()  # sentences that have facts, but none that can be used
    above = ""
    for row in table.rows:
        cells = {role: _cell(row, position) for role, position in table.columns.items()}
        text = cells["text"] or above
        if not text:
            yield Problem(row.where, "没有句子", excerpt("，".join(row.cells)))
            continue
        above = text
        sentence = sentences.setdefault(text, Labelled(text, [], row.where))
        if "facts" in cells:
            try:
                facts = read_answer(cells["facts"], question="三元组") if cells["facts"] else []
                sentence.facts += [fact._replace(where=row.where) for fact in facts]
            except ValueError as error:
                yield Problem(row.where, str(error), excerpt(cells["facts"]))
                incomplete.add(text)
            continue
        missing = [_TITLES[role] for role in _NEEDED[1:] if not cells[role]]
        if all(not cells[role] or cells[role].lower() in _PLACEHOLDERS for role in _NEEDED[1:]):
            continue  # nothing to extract
        if missing:
            yield Problem(row.where, f"没有填{'、'.join(missing)}", excerpt(text))
            incomplete.add(text)
            continue
        known = types.get(cells["predicate"], Types("", ""))
        fact = Fact(
            cells["predicate"],
            cells["subject"],
            cells["object"],
            cells.get("subject_type") or known.subject,
            cells.get("object_type") or known.object,
            _span(cells.get("subject_start"), cells["subject"]),
            _span(cells.get("object_start"), cells["object"]),
            row.where,
        )
        sentence.facts.append(fact)
    for text, sentence in sentences.items():
        if sentence.facts or text not in incomplete:
            yield sentence


def _parse(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row that isn't blank.

    A quote that is opened and closed by the rules of CSV makes one cell, over several lines too; where
    the rules don't fit (`"三体"是…`), the line is split at its delimiters, quotes and all.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    index = 0
    while index < len(lines):
        cells, count = _parse_row(lines, index, delimiter)
        if any(cell.strip() for cell in cells) and not (delimiter == "|" and _RULE.fullmatch(lines[index])):
            yield index + 1, cells
        index += count


def _parse_row(lines: Sequence[str], index: int, delimiter: str) -> tuple[list[str], int]:
    """Return the cells of the row that starts at a line, and how many lines it takes."""
    if '"' not in lines[index]:
        return lines[index].split(delimiter), 1
    for count in range(1, min(_MAX_CELL_LINES, len(lines) - index) + 1):
        row = [line + "\n" for line in lines[index : index + count - 1]] + [lines[index + count - 1]]
        try:
            return next(csv.reader(row, delimiter=delimiter, strict=True)), count
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                break
    return lines[index].split(delimiter), 1


def _find_header(rows: Sequence[Row], named: Sequence[str]) -> Table | None:
    """Find what the columns hold; None if this is no table of ours."""
    if named and not all("=" in name for name in named):
        return _by_position(rows, named)
    wanted = {header.strip(): name.strip() for name, header in (each.split("=", 1) for each in named)}
    for index, row in enumerate(rows[:_HEADER_ROWS]):
        headers = [cell.strip() for cell in row.cells]
        if not wanted.keys() <= set(headers):
            continue
        names = [wanted.get(header, header) for header in headers]
        columns: dict[str, int] = {}
        for position in sorted(range(len(headers)), key=lambda each: headers[each] not in wanted):
            role = role_of(names[position])
            if role is None:
                continue
            other = columns.setdefault(role, position)
            if headers[other] not in wanted and rank_of(names[position], role) < rank_of(names[other], role):
                columns[role] = position
        if all(role in columns for role in _NEEDED):
            return Table(columns, list(rows[index + 1 :]), _describe(columns, headers))
        facts = [position for position, name in enumerate(names) if holds_facts(name)]
        if "text" in columns and len(facts) == 1 and facts[0] != columns["text"]:
            columns = {"text": columns["text"], "facts": facts[0]}
            return Table(columns, list(rows[index + 1 :]), _describe(columns, headers))
    return None


def _explain(named: Sequence[str], first: str) -> str:
    """Say in Chinese what is wrong with the columns that a user named."""
    pairs = [[part.strip() for part in name.split("=", 1)] for name in named if name != "-"]
    roles = {pair[0]: role_of(pair[0]) for pair in pairs}
    headers = {cell.strip(' "') for cell in re.split("|".join(map(re.escape, _DELIMITERS)), first)}
    if absent := [pair[1] for pair in pairs if len(pair) == 2 and pair[1] not in headers]:
        return f"首行里没有：{'、'.join(absent)}；首行是“{excerpt(first)}”。"
    if missing := [title for role, title in _TITLES.items() if role not in roles.values()]:
        unknown = [name for name, role in roles.items() if role is None]
        others = f"；不认得的名称：{'、'.join(unknown)}" if unknown else ""
        return f"还缺少：{'、'.join(missing)}{others}。"
    return ""


def _refuse_others(path: Path, text: str) -> None:
    """Refuse what can be named: exports that have lost their relations.

    Raises:
        UserError: it is one of them.
    """
    first = text.lstrip().split("\n", 1)[0]
    if "annotation_id" in first and "annotator" in first:
        raise UserError(
            f"{path}：这是 Label Studio 的 CSV 导出，它不含关系，无法得到三元组："
            "请在 Label Studio 的 Export 里选 JSON，重新导出。"
        )
    rows = [line.split() for line in text.split("\n")[:200] if line.strip()]
    if sum(len(row) > 1 and _BIO.fullmatch(row[-1]) is not None for row in rows) > len(rows) / 2:
        raise UserError(
            f"{path}：这是逐字标注的实体（CoNLL、BIO），没有关系，无法得到三元组：请导出带关系的 JSON。"
        )


def _by_position(rows: Sequence[Row], named: Sequence[str]) -> Table | None:
    """Take columns as the user names them, in order; a first row that has the names itself is no data."""
    columns: dict[str, int] = {}
    for position, name in enumerate(named):
        if (role := role_of(name)) is not None:
            columns.setdefault(role, position)
    if not all(role in columns for role in _NEEDED) or not rows or len(rows[0].cells) < len(named):
        return None
    roles = [role_of(cell) for cell in rows[0].cells]
    is_header = sum(role is not None for role in roles) >= len(_NEEDED)
    return Table(columns, list(rows[1:] if is_header else rows), _describe(columns, list(named)))


def _read_types(rows: Sequence[Row]) -> dict[str, Types] | None:
    """Read a table of relations with their types; None if it has no such columns."""
    if not rows:
        return None
    columns = {role_of(cell): position for position, cell in enumerate(rows[0].cells)}
    if "predicate" not in columns or not all(role in columns for role in _TYPES):
        return None
    types = {}
    for row in rows[1:]:
        predicate, *found = (_cell(row, columns[role]) for role in ("predicate", *_TYPES))
        if predicate:
            types[predicate] = Types(*found)
    return types


def _cell(row: Row, position: int) -> str:
    """Return a cell without the blanks around it, and the apostrophe that keeps it from being a formula."""
    text = row.cells[position].strip() if position < len(row.cells) else ""
    return text[1:] if _GUARDED.match(text) else text


def _describe(columns: dict[str, int], names: Sequence[str]) -> str:
    used = "、".join(names[position] for position in sorted(columns.values()))
    others = [name for position, name in enumerate(names) if name and position not in columns.values()]
    return f"列：{used}" + (f"；不看的列：{excerpt('、'.join(others))}" if others else "")


def _span(start: str | None, value: str) -> Span | None:
    if start is None or not re.fullmatch(r"\d{1,9}", start):
        return None
    return Span(int(start), int(start) + len(value))


def count_rows(tables: Iterable[Table]) -> int:
    """Return how many rows tables have, blank ones left out."""
    return sum(len(table.rows) for table in tables)

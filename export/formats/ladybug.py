"""Ladybug (ladybugdb.com, the maintained fork of Kùzu): a graph in one file, queried with Cypher, no server.

Rows go through CSV files beside the database, which its COPY reads fast and in little memory.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from export.formats import EDGE_TYPE, NODE_LABEL, WriteOptions, require
from export.graph_store import Edge, Entity, GraphStore
from export.guard import quote
from utils.common_utils import UserError, is_encodable

BUFFER_BYTES = 512 << 20  # that the database may use while it is written
_ROWS_A_COPY = 100_000
_SEPARATOR = "\x1f"  # between the items of a list in the CSV files
_NODE_COLUMNS = "id STRING PRIMARY KEY, name STRING, type STRING, aliases STRING[]"
_EDGE_COLUMNS = {
    "id": "STRING", "predicate": "STRING", "score": "DOUBLE",
    "subject_start": "INT64", "subject_end": "INT64",
    "object_start": "INT64", "object_end": "INT64", "sentence_id": "STRING", "count": "INT64",
    "text": "STRING", "sentence_ids": "STRING[]",
}  # fmt: skip


def check_name(path: Path) -> None:
    """Make sure that the library can be given a file's name.

    Raises:
        UserError: it is no Unicode.
    """
    if not is_encodable(str(path)):
        raise UserError(f"ladybug 打不开 {path}：文件名不是 UTF-8，请改名。")


def write(store: GraphStore, path: Path, options: WriteOptions) -> list[str]:
    """Write the database; see `BUFFER_BYTES` for its memory.

    With `options.typed` each type is a node table and each predicate a relation table. Table names don't tell
    capitals apart, and nodes and relations share them: where two collide, the later one gets a number. Signs
    that the library's COPY can't take become "_". (The properties hold the exact names.)

    Returns:
        What the user should know, in Chinese.

    Raises:
        UserError: the library is missing, or refuses a name or a row.
    """
    ladybug = require("ladybug", "--format ladybug")
    check_name(path)
    work = _make_work_folder(path)
    try:
        with (
            contextlib.closing(ladybug.Database(str(path), buffer_pool_size=BUFFER_BYTES)) as database,
            ladybug.Connection(database) as connection,
        ):
            notes = _fill(connection, store, options, work)
    except RuntimeError as error:  # the only type that the library raises
        raise UserError(f"ladybug 没有接受写入：{error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return notes


def _make_work_folder(path: Path) -> Path:
    """Make a folder for the CSV files: beside the database, unless COPY would take its name for a pattern."""
    folder = path.with_name(path.name + ".csv").absolute()
    if any(sign in str(folder) for sign in "*?[]"):
        return Path(tempfile.mkdtemp())
    folder.mkdir()
    return folder


def _fill(connection: Any, store: GraphStore, options: WriteOptions, work: Path) -> list[str]:
    names = _TableNames()
    file = work / "rows.csv"
    kinds = store.types() if options.typed else [NODE_LABEL]
    node_tables = {kind: names.take(kind) for kind in kinds}
    for table in node_tables.values():
        connection.execute(f"CREATE NODE TABLE {_quote_name(table)}({_NODE_COLUMNS})")
    for kind, entities in groupby(
        store.entities(options.typed), lambda entity: entity.type if options.typed else NODE_LABEL
    ):
        _load(connection, node_tables[kind], file, ["STRING"] * 4, map(_node_fields, entities))
    edge_tables = _make_edge_tables(connection, store, options, names, node_tables)
    edges = store.edges(each_mention=options.each_mention, by_type=options.typed, with_text=options.with_text)
    # of the two ends' ids, then of the columns; a list comes as one text
    types = ["STRING", "STRING", *(kind.removesuffix("[]") for kind in _EDGE_COLUMNS.values())]
    for group, rows in groupby(edges, lambda edge: _ends(edge) if options.typed else None):
        predicate, between = EDGE_TYPE, ""
        if group is not None:
            predicate, source, target = group
            between = f" (from={_text(node_tables[source])}, to={_text(node_tables[target])})"
        _load(connection, edge_tables[predicate], file, types, map(_edge_fields, rows), between)
    return [
        f"{old} 不能作表名，或与别的表重名（不分大小写）：表名改作 {new}。"
        for old, new in names.renamed.items()
    ]


def _make_edge_tables(
    connection: Any, store: GraphStore, options: WriteOptions, names: _TableNames, nodes: dict[str, str]
) -> dict[str, str]:
    """Create the relation tables; return their names by predicate."""
    combinations = store.combinations() if options.typed else [(EDGE_TYPE, NODE_LABEL, NODE_LABEL)]
    columns = ", ".join(f"{name} {kind}" for name, kind in _EDGE_COLUMNS.items())
    tables = {}
    for predicate, group in groupby(combinations, lambda combination: combination[0]):
        tables[predicate] = names.take(predicate)
        pairs = ", ".join(
            f"FROM {_quote_name(nodes[source])} TO {_quote_name(nodes[target])}"
            for _, source, target in group
        )
        connection.execute(f"CREATE REL TABLE {_quote_name(tables[predicate])}({pairs}, {columns})")
    return tables


class _TableNames:
    """Names of tables: none twice, whatever their capitals, and no sign that COPY reads in a way of its own.

    (A full stop, say, parts a database's name from a table's even between backticks.)
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self.renamed: dict[str, str] = {}

    def take(self, name: str) -> str:
        """Return a table's name for a type or predicate."""
        plain = "".join(letter if letter.isalnum() or letter in " _-/·（）" else "_" for letter in name)
        free, number = plain, 1
        while free.casefold() in self._taken:
            number += 1
            free = f"{plain}_{number}"
        self._taken.add(free.casefold())
        if free != name:
            self.renamed[name] = free
        return free


def _ends(edge: Edge) -> tuple[str, str, str]:
    return edge.predicate, edge.subject.type, edge.object.type


def _node_fields(entity: Entity) -> list[str | float | None]:
    return [entity.id, entity.name, entity.type, _join(entity.aliases)]


def _edge_fields(edge: Edge) -> list[str | float | None]:
    return [
        edge.subject.id, edge.object.id, edge.id, edge.predicate, edge.score, edge.subject_start,
        edge.subject_end, edge.object_start, edge.object_end, edge.sentence_id, len(edge.sentence_ids),
        edge.text, _join(edge.sentence_ids),
    ]  # fmt: skip


def _join(items: Iterable[str]) -> str | None:
    joined = _SEPARATOR.join(item.replace(_SEPARATOR, "\ufffd") for item in items)
    return joined or None


def _load(
    connection: Any,
    table: str,
    file: Path,
    types: Sequence[str],
    rows: Iterator[list[str | float | None]],
    between: str = "",
) -> None:
    """Load rows a part at a time: what one COPY takes in has to fit into the buffer."""
    while part := list(islice(rows, _ROWS_A_COPY)):
        with file.open("w", encoding="utf-8", newline="") as output:
            output.writelines(",".join(map(quote, row)) + "\n" for row in part)
        _copy(connection, table, file, types, between)
        connection.execute("CHECKPOINT")


def _copy(connection: Any, table: str, file: Path, types: Sequence[str], between: str = "") -> None:
    """Load a file; its last column is a list, which COPY alone would read in a notation without escapes.

    The types are said, since they would be guessed from the values (a name "null" would be none).
    """
    columns = ", ".join(f"c{number} {kind}" for number, kind in enumerate(types))
    plain = ", ".join(f"c{number}" for number in range(len(types) - 1))
    options = "HEADER=false, DELIM=',', QUOTE='\"', ESCAPE='\"', PARALLEL=false"
    connection.execute(
        f"COPY {_quote_name(table)} FROM (LOAD WITH HEADERS ({columns}) FROM {_text(str(file))} ({options}) "
        f"RETURN {plain}, string_split(c{len(types) - 1}, '{_SEPARATOR}')){between}"
    )


def _quote_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

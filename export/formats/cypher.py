"""Cypher: statements that add the graph to a store, a second time without any change.

Each takes a list of maps, `$rows`: as a parameter over Bolt (see `bolt`), written out in a file. Nodes and
relationships are found by their `id`, so running it again, or on a store that has a part of the graph, adds
what is new only: to an edge, further sentences, and a better mention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from export.formats import EDGE_TYPE, NODE_LABEL, WriteOptions, labels
from export.graph_store import Edge, Entity, GraphStore

T = TypeVar("T")

CONSTRAINT = (
    f"CREATE CONSTRAINT `{NODE_LABEL}_id` IF NOT EXISTS FOR (e:`{NODE_LABEL}`) REQUIRE e.id IS UNIQUE"
)
INDEX = f"CREATE INDEX FOR (e:`{NODE_LABEL}`) ON (e.id)"
_HEAD = f"""\
// 重复执行不会改变图。Neo4j：cypher-shell -f 本文件。
// 没有下面这种约束的库（如 FalkorDB、Memgraph）请把第一条语句换成：{INDEX};
"""
_FILE_BATCH = 500  # rows a statement, at most: the text of one has to be parsed whole
_ENTITIES = """\
UNWIND $rows AS row
MERGE (e:{label} {{id: row.id}})
SET e.name = row.name, e.type = row.type{further}"""
_ALIASES = """
SET e.aliases = coalesce(e.aliases, []) + [x IN row.aliases WHERE NOT x IN coalesce(e.aliases, [])]"""
_EDGES = """\
UNWIND $rows AS row
MATCH (s:{label} {{id: row.subject}})
MATCH (o:{label} {{id: row.object}})
MERGE (s)-[r:{type} {{id: row.id}}]->(o)
WITH r, row,
  coalesce(r.sentence_ids, [])
    + [x IN row.sentence_ids WHERE NOT x IN coalesce(r.sentence_ids, [])] AS sentence_ids,
  r.sentence_id IS NULL OR coalesce(row.score, -1.0) > coalesce(r.score, -1.0) AS better
SET r.predicate = row.predicate, r.sentence_ids = sentence_ids, r.count = size(sentence_ids),
  {best}"""
_OF_THE_BEST = ("sentence_id", "score", "subject_start", "subject_end", "object_start", "object_end")
_SPECIAL = re.compile("[\\\\'\n\r\t\0]")
_ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\0": r"\u0000"}


class Statement(NamedTuple):
    """A statement and the value of its parameter `$rows`."""

    text: str
    rows: list[dict[str, Any]]


def write(store: GraphStore, path: Path, options: WriteOptions) -> list[str]:
    """Write the statements, with their rows as literals; memory doesn't grow with the graph.

    Returns:
        What the user should know, in Chinese.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{_HEAD}{CONSTRAINT};\n")
        for text, rows in statements(store, options, min(options.batch_size, _FILE_BATCH)):
            file.write(text.replace("$rows", literal(rows), 1) + ";\n")
    return []


def statements(store: GraphStore, options: WriteOptions, batch_size: int) -> Iterator[Statement]:
    """Yield the statements, nodes first, of `batch_size` rows at most."""
    with_aliases = store.has_aliases()
    for kind, entities in _grouped(
        store.entities(options.typed), lambda entity: entity.type if options.typed else NODE_LABEL
    ):
        label = "".join(f", e:{quote_name(name)}" for name in labels(kind, options)[1:])
        further = label + (_ALIASES if with_aliases else "")
        text = _ENTITIES.format(label=quote_name(NODE_LABEL), further=further)
        for batch in _batches(entities, batch_size):
            yield Statement(text, [_entity_row(entity, with_aliases) for entity in batch])
    edges = store.edges(each_mention=options.each_mention, by_type=options.typed, with_text=options.with_text)
    for kind, group in _grouped(edges, lambda edge: edge.predicate if options.typed else EDGE_TYPE):
        text = _EDGES.format(
            label=quote_name(NODE_LABEL),
            type=quote_name(kind),
            best=",\n  ".join(
                f"r.{name} = CASE WHEN better THEN row.{name} ELSE r.{name} END"
                for name in (*_OF_THE_BEST, *(["text"] if options.with_text else []))
            ),
        )
        for edge_batch in _batches(group, batch_size):
            yield Statement(text, [_edge_row(edge, options.with_text) for edge in edge_batch])


def _entity_row(entity: Entity, with_aliases: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"id": entity.id, "name": entity.name, "type": entity.type}
    return row | {"aliases": list(entity.aliases)} if with_aliases else row


def _edge_row(edge: Edge, with_text: bool) -> dict[str, Any]:
    row = edge._asdict() | {"subject": edge.subject.id, "object": edge.object.id}
    if not with_text:
        del row["text"]
    return row


def _grouped(items: Iterable[T], key: Any) -> Iterator[tuple[str, Iterator[T]]]:
    return groupby(items, key=key)


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch


def quote_name(name: str) -> str:
    """Quote a label or a relationship type (Cypher manual, "Naming rules and recommendations").

    Neo4j reads `\\uXXXX` before anything else, even between backticks, so a name that holds this is written
    with its backslashes in that form.
    """
    if "\\u" in name:
        name = name.replace("\\", "\\u005C")
    return "`" + name.replace("`", "``") + "`"


def literal(value: Any) -> str:
    """Return a value as Cypher source, on one line."""
    if isinstance(value, str):
        return "'" + _SPECIAL.sub(lambda match: _ESCAPES[match[0]], value) + "'"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {literal(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return "null" if value is None else repr(value)

"""CSV for `neo4j-admin database import`: nodes, relationships, and the command that loads them.

Format: Neo4j operations manual, "Import", "CSV header format": `:ID`, `:LABEL`, `:START_ID`, `:END_ID`,
`:TYPE`, properties with a type after the colon. Quotation marks inside are doubled; an empty field without
any is no property.
"""

from __future__ import annotations

from pathlib import Path

from export.formats import EDGE_TYPE, WriteOptions, labels
from export.graph_store import GraphStore
from export.guard import quote
from export.unfinished import MARK

NODES, EDGES = "entities.csv", "relations.csv"
# Between the items of a list; nothing else can stand for it inside of one.
SEPARATOR = "\x1f"
_IMPORT = f"""\
#!/bin/sh
# 把本目录的图导入一个新的 Neo4j 数据库（5.x 及以后；服务须停着，库须是空的）。用法：sh {MARK} [数据库名]
cd "$(dirname "$0")" || exit 1
neo4j-admin database import full \\
  --nodes={NODES} --relationships={EDGES} --id-type=string \\
  --array-delimiter=U+001F --multiline-fields=true --trim-strings=false "${{1:-neo4j}}"
"""


def write(store: GraphStore, path: Path, options: WriteOptions) -> list[str]:
    """Write the directory; memory doesn't grow with the graph.

    Returns:
        What the user should know, in Chinese.
    """
    path.mkdir()
    with (path / NODES).open("w", encoding="utf-8", newline="") as file:
        file.write("id:ID,name:string,type:string,aliases:string[],:LABEL\n")
        for entity in store.entities():
            aliases, kinds = _join(entity.aliases) or None, _join(labels(entity.type, options))
            fields = (entity.id, entity.name, entity.type, aliases, kinds)
            file.write(",".join(map(quote, fields)) + "\n")
    text_heading = ",text:string" if options.with_text else ""
    with (path / EDGES).open("w", encoding="utf-8", newline="") as file:
        file.write(
            ":START_ID,:END_ID,:TYPE,id:string,predicate:string,score:double,subject_start:long,subject_end:long,"
            f"object_start:long,object_end:long,sentence_id:string,sentence_ids:string[],count:long{text_heading}\n"
        )
        for edge in store.edges(each_mention=options.each_mention, with_text=options.with_text):
            fields_of_edge = [
                edge.subject.id, edge.object.id, edge.predicate if options.typed else EDGE_TYPE,
                edge.id, edge.predicate, edge.score, edge.subject_start, edge.subject_end,
                edge.object_start, edge.object_end, edge.sentence_id, _join(edge.sentence_ids),
                len(edge.sentence_ids),
            ]  # fmt: skip
            if options.with_text:
                fields_of_edge.append(edge.text)
            file.write(",".join(map(quote, fields_of_edge)) + "\n")
    (path / MARK).write_text(_IMPORT, encoding="utf-8")
    return [f"导入 Neo4j（停着的、空的库）：sh {MARK} neo4j"]


def _join(items: list[str] | tuple[str, ...]) -> str:
    return SEPARATOR.join(item.replace(SEPARATOR, "\ufffd") for item in items)

"""GraphML (graphml.graphdrawing.org): for Gephi, yEd, networkx, and Neo4j through APOC."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.sax.saxutils import escape

from export.formats import WriteOptions, labels
from export.graph_store import GraphStore

_NODE_KEYS = {"label": "string", "name": "string", "type": "string", "aliases": "string"}
_EDGE_KEYS = {
    "label": "string", "predicate": "string", "score": "double", "subject_start": "int", "subject_end": "int",
    "object_start": "int", "object_end": "int", "sentence_id": "string", "sentence_ids": "string",
    "count": "int", "text": "string",
}  # fmt: skip
# What XML 1.0 has no way to write.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_ENTITIES = {"\r": "&#13;", '"': "&quot;", "\n": "&#10;", "\t": "&#9;"}


def write(store: GraphStore, path: Path, options: WriteOptions) -> list[str]:
    """Write the graph; lists (aliases, sentence_ids) are JSON text, since GraphML has none.

    With `options.typed`, nodes and edges carry the labels that APOC reads (`readLabels: true`).

    Returns:
        What the user should know, in Chinese.
    """
    replaced = 0

    def data(key: str, value: str | float | None) -> str:
        nonlocal replaced
        if value is None:
            return ""
        text, count = _NOT_XML.subn("\ufffd", value if isinstance(value, str) else repr(value))
        replaced += count > 0
        return f'<data key="{key}">{escape(text, _ENTITIES)}</data>'

    def attribute(name: str, value: str) -> str:
        return f' {name}="{escape(_NOT_XML.sub(chr(0xFFFD), value), _ENTITIES)}"' if options.typed else ""

    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n')
        file.write('<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
        for owner, keys in (("node", _NODE_KEYS), ("edge", _EDGE_KEYS)):
            for name, kind in keys.items():
                key = f'id="{owner[0]}_{name}" for="{owner}" attr.name="{name}" attr.type="{kind}"'
                file.write(f"<key {key}/>\n")
        file.write('<graph id="G" edgedefault="directed">\n')
        for entity in store.entities():
            kinds = labels(entity.type, options)
            aliases = json.dumps(entity.aliases, ensure_ascii=False) if entity.aliases else None
            file.write(
                f'<node id="{entity.id}"{attribute("labels", "".join(f":{kind}" for kind in kinds))}>'
                + data("n_label", entity.name)
                + data("n_name", entity.name)
                + data("n_type", entity.type)
                + data("n_aliases", aliases)
                + "</node>\n"
            )
        for edge in store.edges(each_mention=options.each_mention, with_text=options.with_text):
            values = edge._asdict() | {
                "label": edge.predicate,
                "sentence_ids": json.dumps(edge.sentence_ids, ensure_ascii=False),
                "count": len(edge.sentence_ids),
            }
            file.write(
                f'<edge id="{edge.id}" source="{edge.subject.id}" target="{edge.object.id}"'
                f"{attribute('label', edge.predicate)}>"
                + "".join(data(f"e_{name}", values[name]) for name in _EDGE_KEYS)
                + "</edge>\n"
            )
        file.write("</graph>\n</graphml>\n")
    return [f"有 {replaced} 个值含有 XML 写不了的控制字符，写成了 \ufffd。"] if replaced else []

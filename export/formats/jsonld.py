"""JSON-LD 1.1: the triples of `rdf` as JSON, one resource a line inside of `@graph`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.formats import WriteOptions
from export.formats.rdf import RDF, RDFS, SCHEMA, TERMS, XSD, Iri, Literal, Names, Properties, resources
from export.graph_store import GraphStore

# Names of the vocabularies that are written with their prefixes.
_SHORT = [
    *(("rdf", RDF, name) for name in ("Statement", "Property", "subject", "predicate", "object")),
    *(("rdfs", RDFS, name) for name in ("Class", "domain", "range")),
    *(("schema", SCHEMA, name) for name in ("domainIncludes", "rangeIncludes")),
]


def write(store: GraphStore, path: Path, options: WriteOptions) -> list[str]:
    """Write the document; memory grows with the schema only.

    Returns:
        What the user should know, in Chinese.
    """
    names = Names(options.base_iri)
    keys = {f"{RDFS}label": "label", f"{SCHEMA}alternateName": "alternateName"}
    keys |= {names.terms[name]: name for name in TERMS}
    keys |= {f"{iri}{name}": f"{prefix}:{name}" for prefix, iri, name in _SHORT}
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"@context": {_dump(_context(names))},\n"@graph": [\n')
        separator = ""
        for subject, properties in resources(store, options):
            file.write(separator + _dump(_resource(subject, properties, keys)))
            separator = ",\n"
        file.write("\n]}\n")
    return []


def _context(names: Names) -> dict[str, Any]:
    context: dict[str, Any] = {
        "rdf": RDF,
        "rdfs": RDFS,
        "schema": SCHEMA,
        "label": {"@id": f"{RDFS}label", "@language": "zh"},
        "alternateName": {"@id": f"{SCHEMA}alternateName", "@language": "zh"},
    }
    for name, (_, kind) in TERMS.items():
        term: dict[str, str] = {"@id": names.terms[name]}
        context[name] = term if kind == "string" else term | {"@type": f"{XSD}{kind}"}
    return context


def _resource(subject: Iri, properties: Properties, keys: dict[str, str]) -> dict[str, Any]:
    """Return a node object; values that come once stand alone, others in a list."""
    values: dict[str, list[Any]] = {}
    for predicate, value in properties:
        if predicate == f"{RDF}type":
            values.setdefault("@type", []).append(keys.get(str(value), value))
        else:
            shown = value.text if isinstance(value, Literal) else {"@id": value}
            values.setdefault(keys.get(predicate, predicate), []).append(shown)
    single = {key: items[0] if len(items) == 1 else items for key, items in values.items()}
    return {"@id": subject, **single}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

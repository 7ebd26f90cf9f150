"""RDF: Turtle (.ttl) or N-Triples (.nt), with a schema, Chinese labels, and the provenance of each fact.

A fact is a triple of its own, `<entity/人物/余华> <relation/出生地> <entity/地点/海盐> .`, and an
`rdf:Statement` (RDF 1.1 Schema, 5.3, understood by every store) says where it was found. Characters are
escaped as RDF 1.1 N-Triples and Turtle have it; both files hold the same triples.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote as percent_encode

from export.formats import WriteOptions
from export.graph_store import Edge, Entity, GraphStore
from utils.common_utils import UserError

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDFS = "http://www.w3.org/2000/01/rdf-schema#"
XSD = "http://www.w3.org/2001/XMLSchema#"
SCHEMA = "https://schema.org/"
SUFFIXES = (".ttl", ".nt")
# The project's own properties of a statement, with their Chinese labels and the types of their values.
TERMS = {
    "score": ("得分", "double"),
    "sentenceId": ("句子编号", "string"),
    "bestSentenceId": ("得分最高的句子编号", "string"),
    "subjectStart": ("主语开始", "integer"),
    "subjectEnd": ("主语结束", "integer"),
    "objectStart": ("宾语开始", "integer"),
    "objectEnd": ("宾语结束", "integer"),
    "text": ("句子", "string"),
}
_AT_HAND = 16_384  # names and IRIs whose form is remembered
_BASE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20<>\"{}|^`\\]+[/#:]")
_ESCAPED = re.compile('["\\\\\n\r\t\b\f\x00-\x1f\x7f]')
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


class Iri(str):
    """An absolute IRI."""


class Literal(NamedTuple):
    """A value: of a language, or of a datatype (an IRI), or plain text."""

    text: str
    language: str = ""
    datatype: str = ""


Term = Iri | Literal
_TYPE, _LABEL, _OTHER_NAME = Iri(f"{RDF}type"), Iri(f"{RDFS}label"), Iri(f"{SCHEMA}alternateName")
_STATEMENT, _SUBJECT, _PREDICATE, _OBJECT = (
    Iri(f"{RDF}{name}") for name in ("Statement", "subject", "predicate", "object")
)
Properties = list[tuple[Iri, Term]]


class Names:
    """The IRIs of a graph."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.terms = {name: Iri(f"{base}vocabulary/{name}") for name in TERMS}

    def entity(self, entity: Entity) -> Iri:
        return Iri(f"{self.base}entity/{_segment(entity.type)}/{_segment(entity.name)}")

    def type(self, name: str) -> Iri:
        return Iri(f"{self.base}type/{_segment(name)}")

    def relation(self, name: str) -> Iri:
        return Iri(f"{self.base}relation/{_segment(name)}")

    def evidence(self, edge: Edge) -> Iri:
        return Iri(f"{self.base}evidence/{edge.id}")


def check_options(path: Path | None, options: WriteOptions) -> None:
    """Make sure that IRIs can be made, and that the syntax is known.

    Raises:
        UserError: they can't, or it isn't.
    """
    if not _BASE.fullmatch(options.base_iri):
        raise UserError(
            f"--base_iri 应当是以 / 、# 或 : 结尾的完整 IRI，例如 https://example.org/kg/，"
            f"现在是 {options.base_iri!r}。"
        )
    if path is not None and path.suffix not in SUFFIXES:
        raise UserError(f"rdf 的输出文件应以 .ttl（Turtle）或 .nt（N-Triples）结尾，现在是 {path.name}。")


def write(store: GraphStore, path: Path, options: WriteOptions, suffix: str = ".ttl") -> list[str]:
    """Write the graph; memory grows with the schema only.

    Args:
        suffix: `.ttl` or `.nt`.

    Returns:
        What the user should know, in Chinese.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        if suffix == ".ttl":
            for prefix, iri in (("rdf", RDF), ("rdfs", RDFS), ("xsd", XSD), ("schema", SCHEMA)):
                file.write(f"@prefix {prefix}: <{iri}> .\n")
            file.writelines(_turtle(resources(store, options)))
        else:
            for subject, properties in resources(store, options):
                file.writelines(
                    f"{_show(subject)} {_show(predicate)} {_show(value)} .\n"
                    for predicate, value in properties
                )
    return []


def resources(store: GraphStore, options: WriteOptions) -> Iterator[tuple[Iri, Properties]]:
    """Yield subjects with their properties: the schema, the entities, then each fact and its evidence."""
    names = Names(options.base_iri)
    yield from _schema(store, names)
    for entity in store.entities():
        labels: Properties = [(_TYPE, names.type(entity.type)), (_LABEL, Literal(entity.name, "zh"))]
        labels += [(_OTHER_NAME, Literal(name, "zh")) for name in entity.aliases]
        yield names.entity(entity), labels
    for edge in store.edges(each_mention=options.each_mention, with_text=options.with_text):
        fact = names.entity(edge.subject), names.relation(edge.predicate), names.entity(edge.object)
        yield fact[0], [fact[1:]]
        yield names.evidence(edge), list(_evidence(edge, fact, names))


def _schema(store: GraphStore, names: Names) -> Iterator[tuple[Iri, Properties]]:
    is_a, label = _TYPE, _LABEL
    for name, (words, kind) in TERMS.items():
        yield (
            names.terms[name],
            [
                (is_a, Iri(f"{RDF}Property")),
                (label, Literal(words, "zh")),
                (Iri(f"{RDFS}domain"), Iri(f"{RDF}Statement")),
                (Iri(f"{RDFS}range"), Iri(f"{XSD}{kind}")),
            ],
        )
    for kind in store.types():
        yield names.type(kind), [(is_a, Iri(f"{RDFS}Class")), (label, Literal(kind, "zh"))]
    ends: dict[str, list[dict[str, None]]] = defaultdict(lambda: [{}, {}])
    for predicate, subject_type, object_type in store.combinations():
        ends[predicate][0][subject_type] = ends[predicate][1][object_type] = None
    for predicate, (subjects, objects) in ends.items():
        # domainIncludes: of rdfs:domain, several would all have to hold at once
        properties: Properties = [(is_a, Iri(f"{RDF}Property")), (label, Literal(predicate, "zh"))]
        properties += [(Iri(f"{SCHEMA}domainIncludes"), names.type(kind)) for kind in subjects]
        properties += [(Iri(f"{SCHEMA}rangeIncludes"), names.type(kind)) for kind in objects]
        yield names.relation(predicate), properties


def _evidence(edge: Edge, fact: tuple[Iri, Iri, Iri], names: Names) -> Iterator[tuple[Iri, Term]]:
    yield _TYPE, _STATEMENT
    yield from zip((_SUBJECT, _PREDICATE, _OBJECT), fact, strict=True)
    for sentence_id in edge.sentence_ids:
        yield names.terms["sentenceId"], Literal(sentence_id)
    yield names.terms["bestSentenceId"], Literal(edge.sentence_id)
    if edge.score is not None:
        yield names.terms["score"], Literal(repr(edge.score), datatype=f"{XSD}double")
    for name, value in (
        ("subjectStart", edge.subject_start),
        ("subjectEnd", edge.subject_end),
        ("objectStart", edge.object_start),
        ("objectEnd", edge.object_end),
    ):
        if value is not None:
            yield names.terms[name], Literal(str(value), datatype=f"{XSD}integer")
    if edge.text is not None:
        yield names.terms["text"], Literal(edge.text)


@lru_cache(_AT_HAND)
def _segment(name: str) -> str:
    """Return a name as a part of an IRI: letters and digits of every script stay (RFC 3987, ucschar)."""
    return "".join(
        character if character.isalnum() or character in "-_~" else _percent(character) for character in name
    )


def _percent(character: str) -> str:
    # urllib leaves a full stop alone; ".." as a segment would be resolved away
    return "%2E" if character == "." else percent_encode(character, safe="")


def _show(term: Term) -> str:
    """Return a term in N-Triples."""
    if isinstance(term, Iri):
        return f"<{term}>"
    text = (
        '"' + _ESCAPED.sub(lambda match: _ESCAPES.get(match[0], f"\\u{ord(match[0]):04X}"), term.text) + '"'
    )
    if term.language:
        return f"{text}@{term.language}"
    return f"{text}^^<{term.datatype}>" if term.datatype else text


def _turtle(items: Iterable[tuple[Iri, Properties]]) -> Iterator[str]:
    for subject, properties in items:
        lines = " ;\n    ".join(f"{_short(predicate)} {_short(value)}" for predicate, value in properties)
        yield f"{_show(subject)} {lines} .\n"


def _short(term: Term) -> str:
    """Return a term in Turtle: the vocabularies' names with their prefixes."""
    if isinstance(term, Iri):
        return _short_iri(term)
    text = _show(term._replace(datatype=""))
    return f"{text}^^xsd:{term.datatype.removeprefix(XSD)}" if term.datatype else text


@lru_cache(_AT_HAND)
def _short_iri(term: Iri) -> str:
    for prefix, iri in (("rdf", RDF), ("rdfs", RDFS), ("xsd", XSD), ("schema", SCHEMA)):
        if term.startswith(iri):
            return "a" if term == f"{RDF}type" else f"{prefix}:{term.removeprefix(iri)}"
    return f"<{term}>"

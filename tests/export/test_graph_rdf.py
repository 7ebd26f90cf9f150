"""RDF and JSON-LD: two independent libraries read the triples, and SPARQL answers what went in."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.aliases import Aliases
from export.formats import WriteOptions, jsonld, rdf
from tests.helpers.graph_samples import (
    PLAIN,
    Fact,
    entities_of,
    facts_of,
    item,
    lines_of,
    nasty_texts,
    open_store,
    sample_lines,
)
from utils.common_utils import UserError

pyoxigraph = pytest.importorskip("pyoxigraph", reason="requirements-graph.txt is not installed")
rdflib = pytest.importorskip("rdflib", reason="requirements-graph.txt is not installed")

BASE = "https://example.org/kg/"
FACTS = f"""
PREFIX rdf: <{rdf.RDF}> PREFIX rdfs: <{rdf.RDFS}> PREFIX v: <{BASE}vocabulary/>
SELECT ?e ?sn ?st ?pn ?on ?ot ?score ?ss ?se ?os ?oe ?best WHERE {{
  ?e a rdf:Statement ; rdf:subject ?s ; rdf:predicate ?p ; rdf:object ?o ; v:bestSentenceId ?best .
  ?s ?p ?o ; rdfs:label ?sn ; a ?sc . ?o rdfs:label ?on ; a ?oc .
  ?sc a rdfs:Class ; rdfs:label ?st . ?oc a rdfs:Class ; rdfs:label ?ot . ?p a rdf:Property ; rdfs:label ?pn .
  OPTIONAL {{ ?e v:score ?score }}
  OPTIONAL {{ ?e v:subjectStart ?ss ; v:subjectEnd ?se ; v:objectStart ?os ; v:objectEnd ?oe }}
}}"""
SENTENCES = f"SELECT ?e ?id WHERE {{ ?e <{BASE}vocabulary/sentenceId> ?id }}"


def load(path: Path, kind: Any) -> Any:
    store = pyoxigraph.Store()
    store.load(path=str(path), format=kind)
    return store


def read_facts(store: Any) -> set[Fact]:
    """Ask a store of pyoxigraph, in SPARQL, for every fact with its provenance."""
    sentences: dict[str, set[str]] = {}
    for row in store.query(SENTENCES):
        sentences.setdefault(row["e"].value, set()).add(row["id"].value)
    facts = set()
    for row in store.query(FACTS):
        value = {name: row[name].value if row[name] is not None else None for name in row_names}
        facts.add(
            Fact(
                (value["sn"], value["st"]), value["pn"], (value["on"], value["ot"]),
                None if value["score"] is None else float(value["score"]),
                tuple(None if value[end] is None else int(value[end]) for end in ("ss", "se", "os", "oe")),
                value["best"], tuple(sorted(sentences[value["e"]])),
            )
        )  # fmt: skip
    return facts


row_names = ("e", "sn", "st", "pn", "on", "ot", "score", "ss", "se", "os", "oe", "best")


def in_order(facts: set[Fact]) -> set[Fact]:
    """RDF has no order of values."""
    return {fact._replace(sentence_ids=tuple(sorted(fact.sentence_ids))) for fact in facts}


@settings(max_examples=25, deadline=None)
@given(st.lists(nasty_texts, min_size=1, max_size=4))
def test_sparql_answers_what_went_in(texts: list[str]) -> None:
    lines = lines_of(texts)
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder), lines) as store:
        files = {
            ".ttl": pyoxigraph.RdfFormat.TURTLE,
            ".nt": pyoxigraph.RdfFormat.N_TRIPLES,
            ".jsonld": pyoxigraph.RdfFormat.JSON_LD,
        }
        quads = []
        for suffix, kind in files.items():
            path = Path(folder) / f"out{suffix}"
            jsonld.write(store, path, PLAIN) if suffix == ".jsonld" else rdf.write(store, path, PLAIN, suffix)
            loaded = load(path, kind)
            assert read_facts(loaded) == in_order(facts_of(lines))
            quads.append({str(quad) for quad in loaded})
    assert quads[0] == quads[1] == quads[2]


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")  # rdflib's own affair
def test_rdflib_reads_the_same_triples(tmp_path: Path) -> None:
    lines = sample_lines()
    graphs = []
    with open_store(tmp_path, lines) as store:
        rdf.write(store, tmp_path / "out.ttl", PLAIN, ".ttl")
        rdf.write(store, tmp_path / "out.nt", PLAIN, ".nt")
        jsonld.write(store, tmp_path / "out.jsonld", PLAIN)
    for name, kind in (("out.ttl", "turtle"), ("out.nt", "nt"), ("out.jsonld", "json-ld")):
        graphs.append(set(rdflib.Graph().parse(tmp_path / name, format=kind)))
    assert graphs[0] == graphs[1] == graphs[2]
    labels = {
        str(value)
        for _, _, value in rdflib.Graph().parse(tmp_path / "out.nt").triples((None, rdflib.RDFS.label, None))
    }
    assert labels >= {name for name, _ in entities_of(lines)}
    assert read_facts(load(tmp_path / "out.ttl", pyoxigraph.RdfFormat.TURTLE)) == in_order(facts_of(lines))


def test_the_schema_says_what_predicates_connect_in_chinese(tmp_path: Path) -> None:
    lines = [
        {
            "text": "句",
            "triplets": [item("余华", "出生地", "海盐", score=0.5), item("某局", "出生地", "京", "机构")],
        }
    ]
    with open_store(tmp_path, lines, Aliases({("某局", "机构"): "某总局"})) as store:
        rdf.write(store, tmp_path / "out.ttl", WriteOptions(with_text=True, base_iri="urn:kg:"), ".ttl")
    graph = rdflib.Graph().parse(tmp_path / "out.ttl")
    query = """
        SELECT ?name WHERE {
          ?p rdfs:label "出生地"@zh ; <https://schema.org/domainIncludes> ?c .
          ?c a rdfs:Class ; rdfs:label ?name }
    """
    assert {str(row.name) for row in graph.query(query)} == {"人物", "机构"}
    ask = """
        ASK { <urn:kg:entity/人物/余华> <urn:kg:relation/出生地> <urn:kg:entity/地点/海盐> .
              ?e <urn:kg:vocabulary/text> "句" }
    """
    assert graph.query(ask).askAnswer
    other = 'ASK { ?e rdfs:label "某总局"@zh ; <https://schema.org/alternateName> "某局"@zh }'
    assert graph.query(other).askAnswer


@pytest.mark.parametrize("base", ["kg/", "https://example.org/kg", "https://例 子/", "https://a/<x>/", ""])
def test_a_base_that_is_no_iri_is_refused(base: str) -> None:
    with pytest.raises(UserError, match="--base_iri 应当是"):
        rdf.check_options(None, WriteOptions(base_iri=base))


def test_a_suffix_of_another_syntax_is_refused() -> None:
    with pytest.raises(UserError, match=r"\.ttl（Turtle）或 \.nt"):
        rdf.check_options(Path("out.xml"), PLAIN)

"""Graph stores: a real openCypher server and an embedded one give back what went in, once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export import graph
from export.aliases import Aliases
from export.formats import WriteOptions, bolt, cypher, ladybug
from export.graph_store import GraphStore
from tests.helpers.graph_samples import (
    PLAIN,
    TYPED,
    Fact,
    entities_of,
    facts_of,
    item,
    lines_of,
    nasty_texts,
    open_store,
    sample_lines,
    write_lines,
)
from tests.helpers.graph_server import GraphServer, run_server
from utils.common_utils import UserError

# FalkorDB: its Bolt port falls over values with quotes and over parameters of some thousand bytes, so content
# is tried over its own protocol; an escaped backtick in a label is refused, and no string can hold NUL.
COLUMNS = (
    "a.name, a.type, r.predicate, b.name, b.type, r.score, r.subject_start, r.subject_end, r.object_start, "
    "r.object_end, r.sentence_id, r.sentence_ids"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GraphServer]:
    with run_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def load(server: GraphServer, path: Path, graph: str) -> None:
    """Run the statements of a file, with the first one as the file's head says for such servers."""
    source = path.read_text("utf-8")
    assert cypher.INDEX in source
    source = source.split("\n", 2)[2].replace(cypher.CONSTRAINT, cypher.INDEX, 1)
    for number, statement in enumerate(source.split(";\n")[:-1]):
        try:
            server.query(statement, graph)
        except Exception as error:
            if number:  # the index is there already
                raise AssertionError(statement) from error


def facts_in(server: GraphServer, graph: str, relation: str = "") -> list[Fact]:
    rows = server.query(
        f"MATCH (a)-[r{relation}]->(b) RETURN {COLUMNS}, size(r.sentence_ids), r.count", graph
    )
    assert all(row[12] == row[13] for row in rows)
    ids = []
    for row in server.query(f"MATCH (a)-[r{relation}]->(b) RETURN r.id", graph):
        query = f"MATCH ()-[r {{id: '{row[0]}'}}]->() UNWIND r.sentence_ids AS x RETURN x"
        ids.append([found[0] for found in server.query(query, graph)])
    return [make_fact(row, tuple(listed)) for row, listed in zip(rows, ids, strict=True)]


def make_fact(row: list[Any], sentence_ids: tuple[str, ...]) -> Fact:
    score = None if row[5] is None else float(row[5])
    return Fact((row[0], row[1]), row[2], (row[3], row[4]), score, tuple(row[6:10]), row[10], sentence_ids)


# --- Cypher


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(nasty_texts, min_size=1, max_size=4))
def test_cypher_holds_what_went_in(server: GraphServer, texts: list[str]) -> None:
    lines = lines_of(texts)
    server.clear("nasty")
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder), lines) as store:
        cypher.write(store, Path(folder) / "out.cypher", PLAIN)
        load(server, Path(folder) / "out.cypher", "nasty")
    facts = facts_in(server, "nasty")
    assert set(facts) == facts_of(lines) and len(facts) == len(facts_of(lines))
    nodes = server.query("MATCH (e:`实体`) RETURN e.name, e.type", "nasty")
    assert sorted(map(tuple, nodes)) == sorted(entities_of(lines))


def test_running_cypher_twice_changes_nothing(server: GraphServer, tmp_path: Path) -> None:
    lines = sample_lines()
    with open_store(tmp_path, lines) as store:
        cypher.write(store, tmp_path / "out.cypher", WriteOptions(batch_size=7))
    everything = "MATCH (n) OPTIONAL MATCH (n)-[r]->(m) RETURN n, r, m ORDER BY n.id, r.id"
    load(server, tmp_path / "out.cypher", "twice")
    before = server.query(everything, "twice")
    load(server, tmp_path / "out.cypher", "twice")
    assert server.query(everything, "twice") == before
    assert set(facts_in(server, "twice")) == facts_of(lines)


def test_cypher_adds_the_sentences_of_another_file_and_keeps_the_best(
    server: GraphServer, tmp_path: Path
) -> None:
    scores = {"a": 0.5, "b": 0.9, "c": None}
    for name, score in scores.items():
        line = {
            "id": name,
            "text": name,
            "triplets": [item("余华", "出生地", "海盐", score=score, spans=([1, 3], [5, 7]))],
        }
        with open_store(tmp_path / name, [line]) as store:
            cypher.write(store, tmp_path / f"{name}.cypher", PLAIN)
        load(server, tmp_path / f"{name}.cypher", "grows")
    assert server.query(f"MATCH (a)-[r]->(b) RETURN {COLUMNS}, r.count", "grows") == [
        ["余华", "人物", "出生地", "海盐", "地点", "0.9", 1, 3, 5, 7, "b", "[a, b, c]", 3]
    ]


def test_typed_cypher_has_labels_and_relation_types(server: GraphServer, tmp_path: Path) -> None:
    lines = [
        {
            "text": "句",
            "triplets": [
                item("余华", '作者 of\\\', "x"', "活着", "人物", "图书/作品"),
                item("余华", "父亲", "余华"),
            ],
        },
        {"text": "文", "triplets": [item("余华", "父亲", "余华", "人物", "人物", spans=([0, 2], [3, 5]))]},
    ]
    options = WriteOptions(typed=True, each_mention=True, with_text=True)
    with open_store(tmp_path, lines, Aliases({("活着", ""): "《活着》"})) as store:
        cypher.write(store, tmp_path / "out.cypher", options)
    load(server, tmp_path / "out.cypher", "typed")
    load(server, tmp_path / "out.cypher", "typed")
    rows = server.query(
        "MATCH (a:`人物`:`实体`)-[r:`父亲`]->(b) RETURN a.name, b.type, r.text ORDER BY b.type, r.text",
        "typed",
    )
    assert rows == [["余华", "人物", "文"], ["余华", "地点", "句"]]
    rows = server.query(
        'MATCH (a)-[r:`作者 of\\\', "x"`]->(b:`图书/作品`) RETURN b.name, b.aliases, r.predicate', "typed"
    )
    assert rows == [["《活着》", "[活着]", '作者 of\\\', "x"']]


def test_values_go_into_parameters_only(tmp_path: Path) -> None:
    lines = sample_lines()
    with open_store(tmp_path, lines) as store:
        found = list(cypher.statements(store, WriteOptions(with_text=True), 1000))
    entities, edges = (statement.rows for statement in found)
    assert {(row["name"], row["type"]) for row in entities} == entities_of(lines)
    assert {row["predicate"] for row in edges} == {fact.predicate for fact in facts_of(lines)}
    with open_store(tmp_path, [{"text": "", "triplets": [item("a", "b", "c")]}]) as store:
        other = [statement.text for statement in cypher.statements(store, WriteOptions(with_text=True), 1000)]
    assert other == [statement.text for statement in found]  # whatever the values are


def test_names_and_literals_as_neo4j_reads_them() -> None:
    # Neo4j makes a character of \uXXXX before it reads anything else; backslashes in pairs are safe.
    assert cypher.literal("\\u0027'") == r"'\\u0027\''"
    assert cypher.literal({"a": [None, 1, 0.5, "\0"]}) == r"{a: [null, 1, 0.5, '\u0000']}"
    assert cypher.quote_name("a`b\\") == "`a``b\\`"
    assert cypher.quote_name("\\u0060) DELETE x") == r"`\u005Cu0060) DELETE x`"


# --- Bolt


def bolt_write(store: GraphStore, server: GraphServer, options: WriteOptions) -> list[str]:
    return bolt.write(store, bolt.Server(server.bolt_url, "falkordb", ""), options)


def test_bolt_writes_in_batches_and_again_without_change(
    server: GraphServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neo4j = pytest.importorskip("neo4j", reason="requirements-graph.txt is not installed")
    # FalkorDB's Bolt port answers nobody any more, now and then, after a client has left.
    monkeypatch.setattr(neo4j.Driver, "close", lambda driver: None)
    lines = [
        {
            "id": str(number),
            "text": "句",
            "triplets": [item(f"人{number}", "出生地", "海盐", score=0.5, spans=([0, 2], [3, 5]))],
        }
        for number in range(23)
    ]
    with open_store(tmp_path, lines) as store:
        first = bolt_write(store, server, WriteOptions(batch_size=5))
        second = bolt_write(store, server, WriteOptions(batch_size=5))
    assert first == ["服务器新建 24 个节点、23 条边。"] and second == ["服务器新建 0 个节点、0 条边。"]
    assert set(facts_in(server, "falkordb")) == facts_of(lines)  # it knows no other database over Bolt


def test_bolt_from_the_command_line(
    server: GraphServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    neo4j = pytest.importorskip("neo4j", reason="requirements-graph.txt is not installed")
    monkeypatch.setattr(neo4j.Driver, "close", lambda driver: None)  # as above
    monkeypatch.setenv("NEO4J_USERNAME", "falkordb")
    monkeypatch.delenv("NEO4J_PASSWORD", raising=False)
    connect, connected = neo4j.GraphDatabase.driver, []
    monkeypatch.setattr(
        neo4j.GraphDatabase, "driver", lambda *args, **kw: connected.append(args) or connect(*args, **kw)
    )
    line = {"text": "句", "triplets": [item("命令行", "写入", "图", score=0.5)]}
    source = write_lines(tmp_path / "results.jsonl", line)
    assert graph.main([str(source), "--bolt", server.bolt_url, "--typed"]) == 0
    assert len(connected) == 1  # the check before the work, and the work, are one client
    printed = capsys.readouterr()
    assert "服务器新建 2 个节点、1 条边。" in printed.err and printed.out == ""
    rows = server.query(
        "MATCH (a:`人物`)-[r:`写入`]->(b:`地点`) RETURN a.name, b.name, r.sentence_id", "falkordb"
    )
    assert rows == [["命令行", "图", "results.jsonl:1"]]
    with pytest.raises(UserError, match="连不上 bolt"):  # before a file is read
        graph.main([str(tmp_path / "none.jsonl"), "--bolt", "bolt://127.0.0.1:1"])


def test_bolt_mistakes_are_told_without_the_password(tmp_path: Path) -> None:
    pytest.importorskip("neo4j", reason="requirements-graph.txt is not installed")
    for url in ("http://x:7687", "bolt://", "127.0.0.1:7687", "bolt://[::1"):
        with pytest.raises(UserError, match="应当像 bolt:"):
            bolt.check_url(url)
    with pytest.raises(UserError, match="不要写用户名和密码") as caught:
        bolt.check_url("bolt://neo4j:secret-word@127.0.0.1:7687")
    assert "secret-word" not in str(caught.value)
    server = bolt.Server("bolt://127.0.0.1:1", "neo4j", "secret-word")
    assert "secret-word" not in repr(server)
    with (
        open_store(tmp_path, [{"text": "", "triplets": [item("a", "b", "c")]}]) as store,
        pytest.raises(UserError, match="连不上 bolt"),
    ):
        bolt.write(store, server, PLAIN)


# --- Ladybug


def read_ladybug(path: Path) -> tuple[list[tuple[str, str]], list[Fact]]:
    database = library().Database(str(path), read_only=True)
    with library().Connection(database) as connection:
        nodes = [tuple(row) for row in connection.execute("MATCH (e) RETURN e.name, e.type").get_all()]
        rows = connection.execute(f"MATCH (a)-[r]->(b) RETURN {COLUMNS}").get_all()
    database.close()
    return nodes, [make_fact(row, tuple(row[11])) for row in rows]


def library() -> Any:
    return pytest.importorskip("ladybug", reason="requirements-graph.txt is not installed")


@pytest.mark.parametrize("options", [PLAIN, TYPED], ids=["plain", "typed"])
@settings(max_examples=5, deadline=None)
@given(texts=st.lists(nasty_texts, min_size=1, max_size=4).filter(lambda texts: "\x1f" not in "".join(texts)))
def test_ladybug_holds_what_went_in(options: WriteOptions, texts: list[str]) -> None:
    library()
    lines = lines_of(texts)
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder), lines) as store:
        ladybug.write(store, Path(folder) / "out.lbug", options)
        nodes, facts = read_ladybug(Path(folder) / "out.lbug")
    assert sorted(nodes) == sorted(entities_of(lines))
    assert set(facts) == facts_of(lines) and len(facts) == len(facts_of(lines))


def test_ladybug_answers_cypher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladybug, "_ROWS_A_COPY", 10)  # a million edges in one part fill its buffer
    lines = sample_lines()
    with open_store(tmp_path, lines, Aliases({("海盐", "地点"): "海盐县"})) as store:
        assert ladybug.write(store, tmp_path / "out.lbug", WriteOptions(with_text=True)) == []
    database = library().Database(str(tmp_path / "out.lbug"), read_only=True)
    with library().Connection(database) as connection:
        rows = connection.execute(
            "MATCH (a:`实体`)-[r:`关系` {predicate: '出生地'}]->(b:`实体`) "
            "RETURN a.name, b.name, b.aliases, r.score, r.count, r.text"
        ).get_all()
    database.close()
    assert rows == [["余华", "海盐县", ["海盐"], 0.9, 3, "句1"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.lbug", "results.jsonl", "work"]


def test_ladybug_tables_of_one_name_are_told_apart(tmp_path: Path) -> None:
    lines = [{"text": "句", "triplets": [item("a", "人物", "b"), item("a", "P", "b"), item("a", "p", "b")]}]
    with open_store(tmp_path, lines) as store:
        notes = ladybug.write(store, tmp_path / "out.lbug", TYPED)
    assert set(read_ladybug(tmp_path / "out.lbug")[1]) == facts_of(lines)
    assert [note.split("：")[1] for note in notes] == ["表名改作 p_2。", "表名改作 人物_2。"]

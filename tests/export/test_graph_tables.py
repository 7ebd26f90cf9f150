"""Tables and interchange files: what is read back is what went in, whatever stands in the values."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.formats import WriteOptions, csv_table, graphml, neo4j_csv, xlsx
from export.guard import with_guard, without_guard
from tests.helpers.graph_samples import (
    NASTY,
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
)

few = settings(max_examples=25, deadline=None)
names = st.lists(nasty_texts, min_size=1, max_size=4)


def number(text: Any, kind: type = int) -> Any:
    return None if text in (None, "") else kind(text)


def expected_rows(lines: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (
            line["id"], line["text"], one["subject"], one["subject_type"], one["predicate"], one["object"],
            one["object_type"], one.get("score"), *one.get("subject_span", (None, None)),
            *one.get("object_span", (None, None)),
        )
        for line in lines
        for one in {json.dumps(one): one for one in line["triplets"]}.values()
    ]  # fmt: skip


# --- csv


def read_csv(path: Path) -> list[tuple[Any, ...]]:
    text = path.read_bytes().decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert rows[0] == list(csv_table.HEADINGS)
    return [(*map(without_guard, row[:7]), number(row[7], float), *map(number, row[8:])) for row in rows[1:]]


@few
@given(names)
def test_csv_holds_what_went_in_and_no_formula(texts: list[str]) -> None:
    lines = lines_of(texts)
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder), lines) as store:
        path = Path(folder) / "out.csv"
        csv_table.write(store, path, PLAIN)
        assert read_csv(path) == expected_rows(lines)
        cells = [
            cell for row in csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")) for cell in row
        ]
    assert not [
        cell for cell in cells if cell[0:1] in "=+@\t\r＝＋＠" and cell and not re.fullmatch(r"\+\d.*", cell)
    ]


def test_csv_opens_in_excel(tmp_path: Path) -> None:
    with open_store(
        tmp_path, [{"text": "句", "triplets": [item("=1+1", "甲", "-3"), item("-3", "乙", "+a")]}]
    ) as store:
        notes = csv_table.write(store, tmp_path / "a.csv", PLAIN)
        csv_table.write(store, tmp_path / "b.csv", WriteOptions(keep_formulas=True))
    content = (tmp_path / "a.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf") and content.count(b"\r\n") == 3  # Excel takes it for UTF-8
    text = content.decode("utf-8-sig")
    assert '"\'=1+1"' in text and '"-3"' in text and '"\'+a"' in text  # a number is no danger
    assert "2 个值以" in notes[0] and "--keep_formulas" in notes[0]
    assert '"=1+1"' in (tmp_path / "b.csv").read_text("utf-8-sig")


@given(nasty_texts)
def test_the_guard_can_be_taken_off(text: str) -> None:
    assert without_guard(with_guard(text)) == text
    assert without_guard(with_guard("'" + text)) == "'" + text


# --- xlsx


def read_xlsx(path: Path) -> list[tuple[Any, ...]]:
    openpyxl = pytest.importorskip("openpyxl", reason="requirements-graph.txt is not installed")
    book = openpyxl.load_workbook(path)
    rows = [row for sheet in book for row in sheet.iter_rows(values_only=True)]
    assert rows[0] == csv_table.HEADINGS
    assert {cell.data_type for sheet in book for row in sheet.iter_rows() for cell in row} <= {"s", "n"}

    def plain(text: str | None) -> str:
        return re.sub("_x([0-9A-F]{4})_", lambda match: chr(int(match[1], 16)), text or "")

    return [(*map(plain, row[:7]), *row[7:]) for row in rows[1:]]


@few
@given(names)
def test_xlsx_holds_what_went_in(texts: list[str]) -> None:
    pytest.importorskip("openpyxl", reason="requirements-graph.txt is not installed")
    lines = lines_of(texts)
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder), lines) as store:
        path = Path(folder) / "out.xlsx"
        xlsx.write(store, path, PLAIN)
        assert read_xlsx(path) == expected_rows(lines)


def test_xlsx_goes_on_in_another_sheet_and_cuts_what_no_cell_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="requirements-graph.txt is not installed")
    monkeypatch.setattr(xlsx, "MAX_ROWS", 3)
    long = "𠮷" * 20_000
    lines = [{"text": long, "triplets": [item(f"人{number}", "生于", "地") for number in range(5)]}]
    with open_store(tmp_path, lines) as store:
        notes = xlsx.write(store, tmp_path / "out.xlsx", PLAIN)
    book = openpyxl.load_workbook(tmp_path / "out.xlsx")
    assert [sheet.max_row for sheet in book] == [3, 3, 2]
    cell = book.worksheets[0]["B2"].value
    assert long.startswith(cell) and 32_000 < 2 * len(cell) <= 32_767
    assert "5 个值超过" in notes[0]


# --- neo4j-csv


def read_neo4j(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read the two files by the importer's rules: values by their headings, bare and empty is none."""
    found = []
    for name in ("entities.csv", "relations.csv"):
        text = (folder / name).read_bytes().decode("utf-8")
        heading, text = text.split("\n", 1)
        columns = heading.split(",")
        records, position = [], 0
        pattern = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\n]*))([,\n])')
        while position < len(text):
            record: dict[str, Any] = {}
            for place, column in enumerate(columns):
                match = pattern.match(text, position)
                assert match and match[3] == (",\n"[place == len(columns) - 1]), text[
                    position : position + 50
                ]
                position = match.end()
                prop, _, kind = column.partition(":")
                value = match[2] if match[1] is None else match[1].replace('""', '"')
                if match[1] is None and value == "":
                    continue
                if kind.endswith("[]") or kind == "LABEL":
                    record[prop or kind] = value.split("\x1f")
                else:
                    record[prop or kind] = {"long": int, "double": float}.get(kind, str)(value)
            records.append(record)
        found.append(records)
    return found[0], found[1]


def neo4j_facts(nodes: list[dict[str, Any]], edges: list[dict[str, Any]]) -> list[Fact]:
    by_id = {node["id"]: (node["name"], node["type"]) for node in nodes}
    assert len(by_id) == len(nodes)
    return [
        Fact(
            by_id[edge["START_ID"]], edge["predicate"], by_id[edge["END_ID"]], edge.get("score"),
            tuple(edge.get(name) for name in ("subject_start", "subject_end", "object_start", "object_end")),
            edge["sentence_id"], tuple(edge["sentence_ids"]),
        )
        for edge in edges
    ]  # fmt: skip


@few
@given(names.filter(lambda texts: "\x1f" not in "".join(texts)))
def test_neo4j_csv_holds_what_went_in(texts: list[str]) -> None:
    lines = lines_of(texts)
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder), lines) as store:
        neo4j_csv.write(store, Path(folder) / "out", TYPED)
        nodes, edges = read_neo4j(Path(folder) / "out")
    assert {(node["name"], node["type"]) for node in nodes} == entities_of(lines)
    assert all(node["LABEL"] == ["实体", node["type"]] for node in nodes)
    facts = neo4j_facts(nodes, edges)
    assert set(facts) == facts_of(lines) and len(facts) == len(set(facts))
    assert all(edge["TYPE"] == edge["predicate"] for edge in edges)


def test_neo4j_csv_as_a_whole(tmp_path: Path) -> None:
    lines = sample_lines()
    with open_store(tmp_path, lines) as store:
        notes = neo4j_csv.write(store, tmp_path / "out", WriteOptions(with_text=True))
        nodes, edges = read_neo4j(tmp_path / "out")
    assert set(neo4j_facts(nodes, edges)) == facts_of(lines)
    assert {tuple(node["LABEL"]) for node in nodes} == {("实体",)} and {edge["TYPE"] for edge in edges} == {
        "关系"
    }
    born = next(edge for edge in edges if edge["predicate"] == "出生地")
    assert born["text"] == "句1" and born["count"] == 3
    command = (tmp_path / "out" / "import.sh").read_text("utf-8")
    assert "--array-delimiter=U+001F --multiline-fields=true" in command and "import.sh" in notes[0]


# --- graphml


def read_graphml(path: Path) -> set[Fact]:
    graph = networkx.read_graphml(path, force_multigraph=True)
    ends = {node: (data["name"], data["type"]) for node, data in graph.nodes(data=True)}
    assert all(data["label"] == data["name"] for _, data in graph.nodes(data=True))
    return {
        Fact(
            ends[source], data["predicate"], ends[target], data.get("score"),
            tuple(data.get(name) for name in ("subject_start", "subject_end", "object_start", "object_end")),
            data["sentence_id"], tuple(json.loads(data["sentence_ids"])),
        )
        for source, target, data in graph.edges(data=True)
    }  # fmt: skip


@few
@given(names.filter(lambda texts: not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "".join(texts))))
def test_graphml_holds_what_went_in(texts: list[str]) -> None:
    lines = lines_of(texts)
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder), lines) as store:
        path = Path(folder) / "out.graphml"
        assert graphml.write(store, path, PLAIN) == []
        assert read_graphml(path) == facts_of(lines)


def test_graphml_says_what_xml_cannot_hold_and_keeps_entities_apart(tmp_path: Path) -> None:
    lines = [{"text": "句", "triplets": [item("a\x01", "p", "b"), item("a\x02", "p", "b")]}]
    with open_store(tmp_path, lines) as store:
        notes = graphml.write(store, tmp_path / "out.graphml", TYPED)
    root = ET.parse(tmp_path / "out.graphml").getroot()
    nodes = root.findall(".//{*}node")
    assert len(nodes) == 3 and {node.get("labels") for node in nodes} == {":实体:人物", ":实体:地点"}
    assert {edge.get("label") for edge in root.findall(".//{*}edge")} == {"p"}
    assert "控制字符" in notes[0]


def test_every_nasty_name_is_tried_once() -> None:
    assert len(set(NASTY)) == len(NASTY) and {name for name, _ in entities_of(sample_lines())} >= set(NASTY)

"""Results for the graph tests, what a graph of them holds, and strings that formats trip over."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from export.aliases import Aliases
from export.formats import WriteOptions
from export.graph_store import GraphStore
from export.triples import ReadSummary, read_sentences

NASTY = (
    "余华", "a\"b'c`d\\e", "行一\n行二\r\n行三\r末", "\t=1+1", "@SUM(A1)", "'=已有撇号",
    "</data>&amp;<![CDATA[", "]]>", "\\u0027\\n", "x\\", "''", '""', "  前后空白  ", "逗,号;分|隔",
    "𠮷😀e\u0301", "[x], {y}", "null", "FALSE", "0", "%2E/..", "..", "_x0041_", "\u2028\u2029\u202e",
    "$rows", "// 注释; --", "-12.5", "#N/A", "<人物>", "@zh", "a;b", "{}",
)  # fmt: skip
# Every kind of trouble, in new mixtures; no NUL, which a real server below can't hold, but other controls.
nasty_texts = st.one_of(
    st.sampled_from(NASTY),
    st.text(
        st.one_of(
            st.sampled_from("\"'`\\\n\r\t,;|[]{}()<>&%$#@=+-_/.:^ \x01\x1b\x7f\u2028\ufffe余𠮷😀uxn0"),
            st.characters(exclude_categories=("Cs",), exclude_characters="\0"),
        ),
        min_size=1,
        max_size=8,
    ),
).filter(str.strip)


class Fact(NamedTuple):
    """An edge as the tests compare it."""

    subject: tuple[str, str]
    predicate: str
    object: tuple[str, str]
    score: float | None
    spans: tuple[int | None, ...]
    sentence_id: str
    sentence_ids: tuple[str, ...]


def item(
    subject: str,
    predicate: str,
    object_: str,
    subject_type: str = "人物",
    object_type: str = "地点",
    score: float | None = None,
    spans: tuple[list[int], list[int]] | None = None,
) -> dict[str, Any]:
    """Return a triplet as a line of results has it; `spans` are the subject's and the object's."""
    found: dict[str, Any] = {
        "predicate": predicate,
        "object_type": object_type,
        "subject_type": subject_type,
        "object": object_,
        "subject": subject,
    }
    if score is not None:
        found["score"] = score
    if spans is not None:
        found |= {"subject_span": spans[0], "object_span": spans[1]}
    return found


def write_lines(path: Path, *lines: Any) -> Path:
    """Write a file of results: texts as they are, all else as JSON."""
    written = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("".join(f"{line}\n" for line in written), encoding="utf-8")
    return path


def lines_of(names: list[str]) -> list[dict[str, Any]]:
    """Return lines of results in which every name is a subject, an object, a predicate, a type and a text."""
    return [
        {
            "id": f"{number}{name}",
            "text": name,
            "triplets": [
                item(
                    name,
                    names[number - 1],
                    names[number // 2],
                    name,
                    "地点",
                    0.5 + number / 64,
                    ([0, 1], [2, 5]),
                ),
                item(names[0], "关系", name, "类型", name),
            ],
        }
        for number, name in enumerate(names)
    ]


def sample_lines() -> list[dict[str, Any]]:
    """Return lines with all the nasty names; one fact in three sentences, and a name of two types."""
    best = [0.7, 0.9, 0.8]
    said = [
        {
            "text": f"句{number}",
            "triplets": [item("余华", "出生地", "海盐", score=score, spans=([number, 3], [4, 6]))],
        }
        for number, score in enumerate(best)
    ]
    book = {"text": "书", "triplets": [item("余华", "书名", "余华", object_type="图书作品")]}
    return [*lines_of(list(NASTY)), *said, book]


def facts_of(lines: list[dict[str, Any]], file_name: str = "results.jsonl") -> set[Fact]:
    """Work out the edges of lines, in the simplest way."""
    mentions: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for number, line in enumerate(lines, 1):
        for one in line["triplets"]:
            key = (one["subject"], one["subject_type"]), one["predicate"], (one["object"], one["object_type"])
            spans = (*one.get("subject_span", (None, None)), *one.get("object_span", (None, None)))
            found = one.get("score"), spans, line.get("id", f"{file_name}:{number}")
            mentions.setdefault(key, []).append(found)
    facts = set()
    for (subject, predicate, object_), found in mentions.items():
        score, spans, sentence_id = max(found, key=lambda mention: -1 if mention[0] is None else mention[0])
        ids = tuple(dict.fromkeys(mention[2] for mention in found))
        facts.add(Fact(subject, predicate, object_, score, spans, sentence_id, ids))
    return facts


def entities_of(lines: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return the names and types of the entities of lines."""
    return {end for fact in facts_of(lines) for end in (fact.subject, fact.object)}


@contextlib.contextmanager
def open_store(
    folder: Path, lines: list[dict[str, Any]], aliases: Aliases | None = None
) -> Iterator[GraphStore]:
    """Give a store with the lines in it."""
    folder.mkdir(exist_ok=True)
    path = write_lines(folder / "results.jsonl", *lines)
    work = folder / "work"
    work.unlink(missing_ok=True)
    store = GraphStore(work, aliases)
    try:
        for sentence in read_sentences([path], ReadSummary()):
            store.add(sentence)
        store.finish()
        yield store
    finally:
        store.close()


PLAIN, TYPED = WriteOptions(), WriteOptions(typed=True)

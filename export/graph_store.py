"""The graph between reading and writing: entities, facts and their mentions in a work file on the disk.

SQLite (from the standard library) keeps them apart and counts them in memory that does not grow with their
number: its cache has 64 MB, whatever the size of the work file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from export.aliases import Aliases
from export.triples import Complaints, Sentence

CACHE_KIB = 65_536
_BATCH = 2_000  # rows a statement
_KNOWN = 65_536  # entities whose ids are at hand
_TABLES = """
CREATE TABLE entity(number INTEGER PRIMARY KEY, id BLOB UNIQUE, name TEXT, type TEXT);
CREATE TABLE fact(number INTEGER PRIMARY KEY, id BLOB UNIQUE, subject BLOB, predicate TEXT, object BLOB);
CREATE TABLE sentence(number INTEGER PRIMARY KEY, id TEXT UNIQUE, text TEXT);
CREATE TABLE mention(
    number INTEGER PRIMARY KEY, id BLOB UNIQUE, fact BLOB, sentence INTEGER, score REAL,
    subject_start INTEGER, subject_end INTEGER, object_start INTEGER, object_end INTEGER
);
"""
# CROSS JOIN keeps SQLite from joining in another order than the one written here.
_EDGES = """
SELECT {group}, {id}, f.predicate, s.id, s.name, s.type, o.id, o.name, o.type, m.score,
       m.subject_start, m.subject_end, m.object_start, m.object_end, t.id, {text}
FROM {joins} CROSS JOIN sentence t ON t.number = m.sentence
CROSS JOIN entity s ON s.id = f.subject CROSS JOIN entity o ON o.id = f.object
ORDER BY {order}
"""


class Entity(NamedTuple):
    """A node. Its id (32 hexadecimal digits) follows from name and type: the same in every run and format."""

    id: str
    name: str
    type: str
    aliases: tuple[str, ...] = ()


class Edge(NamedTuple):
    """A relation between two entities, with where it was found.

    Args:
        id: 32 hexadecimal digits that follow from the fact (and the mention, if each has an edge).
        predicate: the relation's name.
        subject, object: the two ends.
        score: of the best mention; None if the results have no scores.
        subject_start, subject_end, object_start, object_end: of the best mention, [start, end) in characters.
        sentence_id: of the best mention, the first one of them where several are as good.
        sentence_ids: of all mentions, each once, in their order.
        text: the sentence, if asked for.
    """

    id: str
    predicate: str
    subject: Entity
    object: Entity
    score: float | None
    subject_start: int | None
    subject_end: int | None
    object_start: int | None
    object_end: int | None
    sentence_id: str
    sentence_ids: list[str]
    text: str | None = None


@dataclass
class Counts:
    """What is in the graph, and what came twice."""

    sentences: int = 0
    entities: int = 0
    facts: int = 0
    mentions: int = 0
    repeated_mentions: int = 0  # the same triplet at the same place of the same sentence
    renamed: int = 0  # ends of triplets that the alias table gave another name
    self_loops: int = 0


class GraphStore:
    """Collects sentences with `add`, then gives entities and edges as often as they are wanted.

    Args:
        path: the work file, which must not exist.
        aliases: other names of entities.

    Raises:
        OSError, sqlite3.Error: the disk is full or not writable.
    """

    def __init__(self, path: Path, aliases: Aliases | None = None) -> None:
        self.counts = Counts()
        self.reused_ids = Complaints()
        self._aliases = aliases or Aliases()
        self._used_aliases: dict[bytes, dict[str, None]] = {}  # as many as the alias table has, at most
        self._database = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=FILE"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        self._database.executescript(_TABLES)
        self._database.execute("BEGIN")
        self._rows: dict[str, list[tuple[object, ...]]] = {"entity": [], "fact": [], "mention": []}
        self._said = 0  # mentions, repeated ones too
        self._entity_id = lru_cache(_KNOWN)(self._make_entity)

    def close(self) -> None:
        """Let go of the work file."""
        self._database.close()

    # --- collecting

    def add(self, sentence: Sentence) -> None:
        """Take in a sentence with its triplets."""
        number, sentence_id = self._add_sentence(sentence)
        for found in sentence.found:
            triplet = found.triplet
            subject = self._end(triplet.subject, triplet.subject_type)
            object_ = self._end(triplet.object, triplet.object_type)
            self.counts.self_loops += subject == object_
            fact = digest(subject, triplet.predicate.encode(), object_)
            spans = (*(found.subject_span or (None, None)), *(found.object_span or (None, None)))
            mention = digest(fact, sentence_id.encode(), repr(spans).encode())
            self._rows["fact"].append((fact, subject, triplet.predicate, object_))
            self._rows["mention"].append((mention, fact, number, found.score, *spans))
        if len(self._rows["mention"]) >= _BATCH:
            self._flush()

    def finish(self) -> None:
        """Make ready for reading, when all sentences are in."""
        self._flush()
        self._database.execute("CREATE INDEX mention_fact ON mention(fact)")
        self._database.execute("COMMIT")
        counts = self.counts
        counts.entities, counts.facts, counts.mentions = map(self._count, ("entity", "fact", "mention"))
        counts.repeated_mentions = self._said - counts.mentions

    def _count(self, table: str) -> int:
        return int(self._database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    def _add_sentence(self, sentence: Sentence) -> tuple[int, str]:
        """Return the number and id of a sentence; an id that another sentence has is made to differ."""
        insert = "INSERT OR IGNORE INTO sentence(id, text) VALUES (?, ?)"
        sentence_id = sentence.id
        cursor = self._database.execute(insert, (sentence_id, sentence.text))
        if not cursor.rowcount:
            number, text = self._find_sentence(sentence_id)
            if text == sentence.text:
                return number, sentence_id
            self.reused_ids.add(f"{sentence.place}: {sentence_id}")
            sentence_id = f"{sentence_id}@{sentence.place}"
            cursor = self._database.execute(insert, (sentence_id, sentence.text))
            if not cursor.rowcount:
                return self._find_sentence(sentence_id)[0], sentence_id
        self.counts.sentences += 1
        return int(cursor.lastrowid or 0), sentence_id

    def _find_sentence(self, sentence_id: str) -> tuple[int, str]:
        found = self._database.execute("SELECT number, text FROM sentence WHERE id = ?", (sentence_id,))
        number, text = found.fetchone()
        return number, text

    def _end(self, name: str, entity_type: str) -> bytes:
        """Return the id of an end of a triplet, under the name that the alias table gives it."""
        proper = self._aliases.resolve(name, entity_type)
        entity = self._entity_id(proper, entity_type)
        if proper != name:
            self.counts.renamed += 1
            self._used_aliases.setdefault(entity, {})[name] = None
        return entity

    def _make_entity(self, name: str, entity_type: str) -> bytes:
        entity = digest(entity_type.encode(), name.encode())
        self._rows["entity"].append((entity, name, entity_type))
        return entity

    def _flush(self) -> None:
        statements = {
            "entity": "INSERT OR IGNORE INTO entity(id, name, type) VALUES (?, ?, ?)",
            "fact": "INSERT OR IGNORE INTO fact(id, subject, predicate, object) VALUES (?, ?, ?, ?)",
            # said again with another score (by another adapter, say): the better one holds
            "mention": "INSERT INTO mention(id, fact, sentence, score, subject_start, subject_end,"
            " object_start, object_end) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(id) DO UPDATE"
            " SET score = excluded.score WHERE excluded.score > coalesce(score, -1)",
        }
        self._said += len(self._rows["mention"])
        for table, statement in statements.items():
            self._database.executemany(statement, self._rows[table])
            self._rows[table].clear()

    # --- giving

    def entities(self, by_type: bool = False) -> Iterator[Entity]:
        """Yield every entity once, in the order of appearance; `by_type` puts those of a type together."""
        order = "type, number" if by_type else "number"
        for row in self._select(f"SELECT id, name, type FROM entity ORDER BY {order}"):
            yield Entity(row[0].hex(), row[1], row[2], tuple(self._used_aliases.get(row[0], ())))

    def edges(
        self, *, each_mention: bool = False, by_type: bool = False, with_text: bool = False
    ) -> Iterator[Edge]:
        """Yield the edges in the order of appearance.

        Args:
            each_mention: one for each mention instead of one for each fact.
            by_type: put those of one predicate and one pair of types together.
            with_text: give the sentence of the (best) mention along.
        """
        first, second = ("m", "f") if each_mention else ("f", "m")
        table = {"f": "fact f", "m": "mention m"}
        order = f"{first}.number" if each_mention else "f.number, m.number"
        query = _EDGES.format(
            group=f"{first}.number",
            id=f"{first}.id",
            joins=f"{table[first]} CROSS JOIN {table[second]} ON m.fact = f.id",
            text="t.text" if with_text else "NULL",
            order=f"f.predicate, s.type, o.type, {order}" if by_type else order,
        )
        for _, rows in groupby(self._select(query), key=lambda row: row[0]):
            yield _make_edge(rows)

    def types(self) -> list[str]:
        """Return the types of the entities, sorted."""
        return [row[0] for row in self._select("SELECT DISTINCT type FROM entity ORDER BY type")]

    def combinations(self) -> list[tuple[str, str, str]]:
        """Return each predicate with each pair of subject's and object's type that it occurs with, sorted."""
        query = """
            SELECT DISTINCT f.predicate, s.type, o.type FROM fact f
            CROSS JOIN entity s ON s.id = f.subject CROSS JOIN entity o ON o.id = f.object ORDER BY 1, 2, 3
        """
        return [(row[0], row[1], row[2]) for row in self._select(query)]

    def has_aliases(self) -> bool:
        """Tell whether an entity goes by another name somewhere."""
        return bool(self._used_aliases)

    def names_of_several_types(self) -> Complaints:
        """Return the names that entities of different types share: they stay apart."""
        found = Complaints()
        query = "SELECT name, GROUP_CONCAT(type, '、') FROM entity GROUP BY name HAVING COUNT(*) > 1"
        for name, types in self._select(query):
            found.add(f"{name}（{types}）")
        return found

    def entity_mentions(self) -> Iterator[tuple[str, str, int]]:
        """Yield name, type and number of mentions of each entity."""
        for column in ("subject", "object"):
            self._database.execute(f"CREATE INDEX IF NOT EXISTS fact_{column} ON fact({column})")
        count = "(SELECT COUNT(*) FROM fact f JOIN mention m ON m.fact = f.id WHERE f.{} = e.id)"
        query = f"SELECT name, type, {count.format('subject')} + {count.format('object')} FROM entity e"
        for row in self._select(query):
            yield row[0], row[1], row[2]

    def _select(self, query: str) -> sqlite3.Cursor:
        return self._database.execute(query)


def _make_edge(rows: Iterable[tuple[Any, ...]]) -> Edge:
    """Make an edge of the rows of one, as `_EDGES` has them."""
    best: tuple[Any, ...] = ()
    sentence_ids: dict[str, None] = {}
    for row in rows:
        sentence_ids[row[14]] = None
        if not best or (row[9] is not None and (best[9] is None or row[9] > best[9])):
            best = row
    subject, object_ = (Entity(best[place].hex(), *best[place + 1 : place + 3]) for place in (3, 6))
    values = (best[1].hex(), best[2], subject, object_, *best[9:15], list(sentence_ids), best[15])
    return Edge._make(values)


def digest(*parts: bytes) -> bytes:
    """Return 16 bytes that stand for a sequence of byte strings, wherever one ends and the next begins."""
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return blake2b(joined, digest_size=16).digest()

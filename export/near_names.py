"""Names that may mean one entity, for a person's review: nothing is merged here."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from export.graph_store import CACHE_KIB, GraphStore
from export.guard import quote, with_guard

HEADINGS = ("别名", "正名", "类型", "理由", "别名次数", "正名次数")
WRITING, BRACKETS, SUFFIX, LETTER = (
    "标点、空白、全半角或大小写不同", "只差括号里的说明", "只差常见的后缀", "只差一个字",
)  # fmt: skip
_MIN_LETTERS = 4  # of the shorter name, where one letter differs; below, most such pairs are two things
_MAX_LETTERS = 24
_MAX_NAME = 500  # characters; a longer one is no name, and its brackets would be sought for ever
_BRACKETS = re.compile(r"(?<=.)[（(【\[〔].*?[)）】\]〕]$")
_SUFFIXES = re.compile(
    r"(?<=..)(股份有限公司|有限责任公司|有限公司|公司|集团|省|市|县|先生|女士|同志|老师|教授)$"
)
# Where one of these differs, two things are meant: 第一中学, 1999年, 东湖路.
_TELLING = frozenset(
    "0123456789零〇一二三四五六七八九十百千两甲乙丙丁东南西北中上下左右前后新老大小男女正副ivx"
)


class Suggestion(NamedTuple):
    """A name, and the more frequent one that it may be another form of."""

    alias: str
    name: str
    type: str
    reason: str
    alias_mentions: int
    name_mentions: int


class _Named(NamedTuple):
    name: str
    type: str
    mentions: int


def write_suggestions(store: GraphStore, path: Path, work: Path) -> int:
    """Write the pairs as a CSV file that `--aliases` reads once the wrong lines are deleted.

    Args:
        store: with all sentences.
        path: the file.
        work: a work file for the keys, which must not exist.

    Returns:
        How many pairs there are.
    """
    count = 0
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        file.write(",".join(map(quote, HEADINGS)) + "\r\n")
        for pair in suggest(store, work):
            cells = [with_guard(cell) if isinstance(cell, str) else cell for cell in pair]
            file.write(",".join(map(quote, cells)) + "\r\n")
            count += 1
    return count


def suggest(store: GraphStore, work: Path) -> Iterator[Suggestion]:
    """Yield the pairs, the surest kind first, a name with one other only.

    Names that share a key are put side by side by sorting the keys on the disk, so memory doesn't grow with
    their number. Of a group, every name is paired with the most frequent one: so the pairs never run in a
    circle.
    """
    database = sqlite3.connect(work, isolation_level=None)
    try:
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIB}"):
            database.execute(f"PRAGMA {setting}")
        database.executescript(
            "CREATE TABLE named(number INTEGER PRIMARY KEY, name TEXT, type TEXT, count INTEGER);"
            "CREATE TABLE key(kind INTEGER, digest BLOB, named INTEGER);"
            "CREATE TABLE suggested(named INTEGER PRIMARY KEY);"
        )
        database.execute("BEGIN")
        for number, row in enumerate(store.entity_mentions()):
            entity = _Named(*row)
            database.execute("INSERT INTO named VALUES (?, ?, ?, ?)", (number, *entity))
            database.executemany(
                "INSERT INTO key VALUES (?, ?, ?)",
                [(kind, _digest(entity.type, key), number) for kind, key in _keys(entity.name)],
            )
        query = """
            SELECT key.kind, key.digest, key.named, named.name, named.type, named.count
            FROM key CROSS JOIN named ON named.number = key.named
            ORDER BY key.kind, key.digest, named.count DESC, key.named
        """
        for (kind, _), rows in groupby(database.execute(query), key=lambda row: row[:2]):
            best: tuple[int, _Named] | None = None
            for row in rows:
                number, entity = row[2], _Named(*row[3:])
                best = best or (number, entity)
                pair = _pair(entity, best[1], kind)
                if pair and database.execute(_SUGGESTED, (number,)).rowcount:
                    yield pair
    finally:
        database.close()


_SUGGESTED = "INSERT OR IGNORE INTO suggested VALUES (?)"
_REASONS = (WRITING, BRACKETS, SUFFIX, LETTER)


def _pair(alias: _Named, name: _Named, kind: int) -> Suggestion | None:
    if alias.type != name.type or alias.name == name.name:
        return None
    if _REASONS[kind] is LETTER and not _differ_by_a_letter(alias.name, name.name):
        return None
    return Suggestion(alias.name, name.name, name.type, _REASONS[kind], alias.mentions, name.mentions)


def _keys(name: str) -> Iterator[tuple[int, str]]:
    """Yield what a name has in common with its near ones: the number of the reason, and a key."""
    plain = _plain(name) if len(name) <= _MAX_NAME else ""
    if not plain:
        return
    yield 0, plain
    without_brackets = _plain(_BRACKETS.sub("", unicodedata.normalize("NFKC", name).strip()))
    yield 1, without_brackets or plain
    yield 2, _SUFFIXES.sub("", without_brackets or plain)
    if _MIN_LETTERS <= len(plain) <= _MAX_LETTERS:
        yield 3, plain
        for place in range(len(plain)):  # two names that differ in a letter become one without it
            yield 3, f"{plain[:place]}{plain[place + 1 :]}"
            yield 3, f"{plain[:place]}\0{plain[place + 1 :]}"


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", name).casefold()))


def _differ_by_a_letter(one: str, other: str) -> bool:
    """Tell whether one letter is put in, left out or exchanged, and is not one that tells things apart."""
    short, long = sorted((_plain(one), _plain(other)), key=len)
    start = next(
        (i for i, pair in enumerate(zip(short, long, strict=False)) if pair[0] != pair[1]), len(short)
    )
    if len(short) == len(long):
        letters = {short[start : start + 1], long[start : start + 1]}
        same = short[start + 1 :] == long[start + 1 :]
        enough = len(short) > _MIN_LETTERS
    else:
        letters, same, enough = {long[start]}, short[start:] == long[start + 1 :], len(short) >= _MIN_LETTERS
    return same and enough and not letters & _TELLING


def _digest(entity_type: str, key: str) -> bytes:
    return blake2b(f"{entity_type}\0{key}".encode(), digest_size=8).digest()

"""The notation of data/source/: sentences with their facts, and patterns filled from tables of entities."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

from task.triplets import Triplet

INVERSE = {"妻子": "丈夫", "丈夫": "妻子"}
_SLOT = re.compile(r"\{(?:(\d+)-(\d+)|([^{}\d.]+)(\d*)(?:\.([^{}]+))?)\}")


class SourceError(ValueError):
    """A source file breaks its notation; the message quotes the place."""


@dataclass
class Block:
    """A sentence, or a pattern and how often it is to be filled, with the annotation lines below it."""

    text: str
    annotations: list[str] = field(default_factory=list)
    repeat: int = 1


@dataclass(frozen=True)
class Entry:
    """A finished sentence: its triplets, or for a classification its task and answer."""

    text: str
    triplets: tuple[Triplet, ...] = ()
    task: str = ""
    answer: str = ""


@dataclass(frozen=True)
class Schema:
    """The predicates with their types, in the order of schema.txt."""

    types: dict[tuple[str, str], str]  # (predicate, subject type) -> object type

    def subject_type(self, predicate: str) -> str:
        """Return the subject type of a predicate; the first one listed where there are several."""
        for name, subject_type in self.types:
            if name == predicate:
                return subject_type
        raise SourceError(f"schema.txt 里没有谓语“{predicate}”")

    def triplet(self, subject: str, predicate: str, value: str) -> Triplet:
        """Build a triplet; `predicate` may name its subject type, as in `成立日期:机构`."""
        name, _, subject_type = predicate.partition(":")
        subject_type = subject_type or self.subject_type(name)
        if (name, subject_type) not in self.types:
            raise SourceError(f"schema.txt 里没有“{predicate}”")
        return Triplet(name, self.types[name, subject_type], subject_type, value, subject)

    def rank(self, triplet: Triplet) -> int:
        """Return the line of a triplet's predicate in schema.txt."""
        return list(self.types).index((triplet.predicate, triplet.subject_type))


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_schema(path: Path) -> Schema:
    """Read schema.txt: predicate, subject type and object type, a line each."""
    rows = [line.split() for line in _lines(path)]
    return Schema({(predicate, subject_type): object_type for predicate, subject_type, object_type in rows})


def read_blocks(path: Path) -> list[Block]:
    """Read sentences or patterns; a line `% N` says that each pattern after it is to be filled N times."""
    blocks: list[Block] = []
    repeat = 1
    for line in _lines(path):
        if line.startswith("%"):
            repeat = int(line[1:])
        elif line[0] in "=@":
            if not blocks:
                raise SourceError(f"{path.name}：“{line}”之前没有句子")
            blocks[-1].annotations.append(line)
        else:
            blocks.append(Block(line, repeat=repeat))
    return blocks


def read_sections(path: Path) -> dict[str, list[str]]:
    """Read a file of `[name]` headings: the lines below each."""
    sections: dict[str, list[str]] = {}
    for line in _lines(path):
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], [])
        else:
            current.append(line)
    return sections


def parse_block(block: Block, schema: Schema) -> Entry:
    """Turn a block into an entry: types added, marriages in both directions, triplets in order of mention."""
    if not block.annotations:
        raise SourceError(f"没有标注：{block.text}")
    if block.annotations[0].startswith("@"):
        _, task, answer = block.annotations[0].split()
        return Entry(block.text, task=task, answer=answer)
    triplets: list[Triplet] = []
    for line in block.annotations:
        subject, *facts = [part.strip() for part in line[1:].split("|")]
        for fact in facts:
            predicate, _, values = fact.partition(" ")
            for value in values.split("/"):
                triplets.append(schema.triplet(subject, predicate, value))
                if predicate in INVERSE:
                    triplets.append(schema.triplet(value, INVERSE[predicate], subject))

    def mention(triplet: Triplet) -> tuple[int, int, int]:
        return block.text.find(triplet.subject), block.text.find(triplet.object), schema.rank(triplet)

    return Entry(block.text, triplets=tuple(sorted(triplets, key=mention)))


class Tables:
    """The tables of entities.txt; draws run through a table evenly before anything comes again.

    `[name]` starts a table of values separated by blanks; a value may hold slots itself, as in `{姓}{名}`.
    `[name:a,b]` starts a table of records, `|` between the fields; `{name.a}` takes one field. `{3-9}` is a
    number. In one pattern a slot means the same wherever it stands; `{人名1}` and `{人名2}` are two values.
    """

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.rng = rng
        self.fields: dict[str, list[str]] = {}
        self.rows: dict[str, list[str]] = {}
        self.decks: dict[str, list[str]] = {}
        for heading, lines in read_sections(path).items():
            name, _, fields = heading.partition(":")
            self.fields[name] = fields.split(",") if fields else []
            self.rows[name] = [value for line in lines for value in line.split()]

    def _draw(self, name: str) -> str:
        if not self.decks.get(name):
            if name not in self.rows:
                raise SourceError(f"entities.txt 里没有表“{name}”")
            self.decks[name] = self.rng.sample(self.rows[name], len(self.rows[name]))
        return self.decks[name].pop()

    def _expand(self, value: str) -> str:
        def replace(match: re.Match[str]) -> str:
            low, high, name, _, part = match.groups()
            if low:
                return str(self.rng.randint(int(low), int(high)))
            record = self._expand(self._draw(name))
            return record.split("|")[self.fields[name].index(part)] if part else record

        return _SLOT.sub(replace, value)

    def fill(self, block: Block) -> Block:
        """Return a pattern with its slots filled, in the text and in the annotations alike."""
        chosen: dict[tuple[str, str], str] = {}

        def replace(match: re.Match[str]) -> str:
            low, _, name, index, part = match.groups()
            if low:
                raise SourceError(f"数字要放进表里，句式里不能直接写：{block.text}")
            if (name, index) not in chosen:
                value = self._expand(self._draw(name))
                while value in chosen.values():
                    value = self._expand(self._draw(name))
                chosen[name, index] = value
            value = chosen[name, index]
            return value.split("|")[self.fields[name].index(part)] if part else value

        text = _SLOT.sub(replace, block.text)
        return Block(text, [_SLOT.sub(replace, line) for line in block.annotations])

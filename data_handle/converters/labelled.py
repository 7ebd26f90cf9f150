"""Sentences with facts, as they come out of a foreign format, before they are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Span(NamedTuple):
    """Where a value stands in its sentence, in code points; `end` is exclusive."""

    start: int
    end: int


class Fact(NamedTuple):
    """A fact as it is written in the source; a type that the source lacks is empty.

    `where` names the row of a fact that stands on one of its own (tables); it is empty where the sentence
    says enough.
    """

    predicate: str
    subject: str
    object: str
    subject_type: str = ""
    object_type: str = ""
    subject_span: Span | None = None
    object_span: Span | None = None
    where: str = ""


@dataclass
class Labelled:
    """A sentence and what is said of it; no facts mean that somebody looked and found none.

    Args:
        text: the sentence.
        facts: in the order of the source.
        where: the line, item or task that it comes from.
        instruction: that of its prompt, where the source has one worth keeping.
        note: in Chinese, what is assumed of it and might be wrong.
    """

    text: str
    facts: list[Fact]
    where: str
    instruction: str | None = None
    note: str = ""


class Problem(NamedTuple):
    """Something that can't be used.

    Args:
        where: file and line, item or task.
        reason: why, in Chinese; problems of one reason are counted together.
        detail: what is particular to this one.
        whole: a whole line (item, task, row) of the source is lost by it, not one fact among others.
    """

    where: str
    reason: str
    detail: str = ""
    whole: bool = True

    def __str__(self) -> str:
        return f"{self.where}：{self.reason}" + (f"（{self.detail}）" if self.detail else "")


def labelled_or_lost(text: str, facts: list[Fact], items: Sequence[object], where: str) -> Labelled | Problem:
    """Return a sentence with those facts of its items that could be read; a problem if none of them could.

    What lost all its facts must not become an example of "nothing to extract".
    """
    if facts or not items:
        return Labelled(text, facts, where)
    return Problem(where, "没有一个三元组可用", excerpt(text))


@dataclass
class Settings:
    """What a user may say about how files are to be read.

    Args:
        columns: names of a table's columns, see `converters.table`; empty: as the header says.
        keep_slots: make triplets of the further slots of DuIE's complex objects.
        agreement: the share of a task's annotators who must have marked a fact.
    """

    columns: list[str] = field(default_factory=list)
    keep_slots: bool = False
    agreement: float = 0.5


def excerpt(text: str, limit: int = 40) -> str:
    """Return the beginning of a text on one line, for a message; what can't be printed is escaped."""
    text = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else text[:limit] + "…"

"""The engine: phrases with slots, records of facts about a subject, and clauses that tell the facts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from task.triplets import Triplet
from tiny_base.corpus import draw

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([^{}]+)\}")
POSITIONS = ("pred", "attr", "lead", "note", "full", "extra")


@dataclass(frozen=True)
class Phrase:
    """A piece of text with `[a|b]` choices and `{slot}`s; `predicates` are the slots that state facts."""

    text: str
    predicates: frozenset[str]


@dataclass
class Kind:
    """A kind of subject: how it is called, and its phrases by position.

    Positions: `pred` follows the subject; `attr` stands before a noun and ends in 的; `lead` is a clause
    that holds {S} itself, or {B} (the same without quotation marks); `note` fits into brackets and fact
    boxes; `full` is a whole sentence; `extra` follows the subject and states no fact.
    """

    name: str
    nouns: tuple[str, ...] = ()
    pronouns: tuple[str, ...] = ()
    quoted: bool = False
    phrases: dict[str, list[Phrase]] = field(default_factory=lambda: {position: [] for position in POSITIONS})


@dataclass
class Record:
    """A subject with the facts that a sentence may tell: values by predicate."""

    kind: Kind
    subject: str
    facts: dict[str, list[str]]
    types: dict[str, tuple[str, str]]  # of subject and object, by predicate


Filler = Callable[[Random], str]
# of a work that stands in a relation: the relation to its maker, the types, and how that is said
_WORK_MAKERS = {
    "改编自": ("作者", ("图书作品", "人物"), "{name}的[小说|同名小说|长篇小说|原著|]{work}"),
    "主题曲": ("歌手", ("歌曲", "人物"), "{work}（{name}[演唱|唱]）"),
}


def slots(text: str) -> list[str]:
    """Return the names of the slots in a text, in order."""
    return _SLOT.findall(text)


def parse_kinds(text: str, predicates: Mapping[str, tuple[str, str]]) -> dict[str, Kind]:
    """Read phrase tables.

    Args:
        text: `= name | nouns | pronouns | quoted or plain` opens a kind, each other line is
            `position phrase`; `#` begins a comment, blank lines are skipped.
        predicates: known predicates; slots named so state facts.

    Returns:
        The kinds by name.
    """
    kinds: dict[str, Kind] = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("="):
            name, nouns, pronouns, quoted = (part.strip() for part in line[1:].split("|"))
            kind = Kind(name, tuple(nouns.split("/")), tuple(pronouns.split("/")), quoted == "quoted")
            kinds[name] = kind
            continue
        position, phrase = line.split(" ", 1)
        stated = {part for slot in slots(phrase) for part in slot.split("=")}
        kind.phrases[position].append(Phrase(phrase, frozenset(stated & predicates.keys())))
    return kinds


def choose(rng: Random, text: str) -> str:
    """Resolve every `[a|b|c]` of a text, inner ones first."""
    while match := _CHOICE.search(text):
        text = text[: match.start()] + rng.choice(match.group(1).split("|")) + text[match.end() :]
    return text


def join_list(rng: Random, values: list[str], open_ended: bool = False) -> str:
    """Join several values as Chinese does: 、 between, 和 or the like before the last, perhaps 等 at the end.

    Args:
        rng: source of chance.
        values: at least one.
        open_ended: a single value may be followed by 等 too.
    """
    if len(values) == 1:
        return values[0] + ("等" if open_ended and draw.chance(rng, 0.08) else "")
    separator = rng.choice(("、", "、", "、", "、", "，", "/", " ", "与"))
    last = rng.choice((separator, separator, "和", "与", "及", "以及")) if separator == "、" else separator
    text = separator.join(values[:-1]) + last + values[-1]
    return text + rng.choice(("", "", "", "等", "等人" if len(values[0]) < 5 else "等"))


class Teller:
    """Turns one record into clauses, and keeps account of the facts told."""

    def __init__(self, rng: Random, record: Record, fillers: Mapping[str, tuple[str, Filler]]):
        self.rng = rng
        self.record = record
        self.fillers = fillers
        self.untold = dict(record.facts)
        self.triplets: list[Triplet] = []
        self.mentions: list[
            tuple[str, str]
        ] = []  # (text, type) of further entities that take part in nothing

    def mention(self, bare: bool = False) -> str:
        """Name the subject, works within their quotation marks."""
        subject = self.record.subject
        if not self.record.kind.quoted or bare:
            return subject
        return (
            f"《{subject}》"
            if not draw.chance(self.rng, 0.06)
            else self.rng.choice((subject, f"“{subject}”", f"<{subject}>"))
        )

    def pick(self, position: str, only_one: bool = False) -> Phrase | None:
        """Choose a phrase of a position whose facts are all untold; phrases of several facts are preferred.

        Args:
            position: one of `POSITIONS`.
            only_one: accept phrases of one fact only.
        """
        candidates = [
            phrase
            for phrase in self.record.kind.phrases[position]
            if phrase.predicates <= self.untold.keys()
            and (phrase.predicates or position == "extra")
            and not (only_one and len(phrase.predicates) != 1)
            and self._equal_values(phrase.text)
        ]
        if not candidates:
            return None
        if position == "extra":
            return self.rng.choice(candidates)
        # first a fact, then a phrase for it: facts with many phrases shouldn't be told first
        fact = self.rng.choice(
            sorted({predicate for phrase in candidates for predicate in phrase.predicates})
        )
        fitting = [phrase for phrase in candidates if fact in phrase.predicates]
        several = [phrase for phrase in fitting if len(phrase.predicates) > 1]
        return self.rng.choice(several if several and draw.chance(self.rng, 0.35) else fitting)

    def _equal_values(self, text: str) -> bool:
        """Check slots such as {作词=作曲}, which need the same values."""
        for slot in slots(text):
            parts = slot.split("=")
            if len(parts) > 1:
                values = [self.untold.get(part) for part in parts]
                if None in values or any(value != values[0] for value in values):
                    return False
        return True

    def tell(self, phrase: Phrase, subjects: list[str] | None = None) -> str:
        """Fill a phrase in and count its facts as told.

        Args:
            phrase: from `pick`.
            subjects: subjects that share the fact, instead of the record's own.
        """
        text = choose(self.rng, phrase.text)
        return _SLOT.sub(lambda match: self._fill(match.group(1), subjects), text)

    def _fill(self, slot: str, subjects: list[str] | None) -> str:
        kind = self.record.kind
        if slot == "S":
            if subjects is None:
                return self.mention()
            quoted = [f"《{subject}》" for subject in subjects] if kind.quoted else subjects
            together = kind.quoted and draw.chance(self.rng, 0.4)
            return "".join(quoted) + self.rng.choice(("", "等")) if together else join_list(self.rng, quoted)
        if slot == "B":
            return self.mention(bare=True)
        if slot == "family" and kind.name == "species" and draw.chance(self.rng, 0.3):
            return self.record.subject + "科"
        if slot == "N":  # {genre} and {job} among the nouns are filled in at the end
            return self.rng.choice(kind.nouns)
        if slot == "it":
            return self.rng.choice(kind.pronouns)
        predicates = slot.split("=")
        if predicates[0] in self.record.facts:
            values = self.record.facts[predicates[0]]
            for predicate in predicates:
                self.untold.pop(predicate, None)
                subject_type, object_type = self.record.types[predicate]
                for subject in subjects or [self.record.subject]:
                    self.triplets += [
                        Triplet(predicate, object_type, subject_type, value, subject) for value in values
                    ]
            if object_type in ("作品", "歌曲", "音乐专辑"):
                return self._by_someone(predicates[0], "".join(f"《{value}》" for value in values), values)
            return join_list(self.rng, values, object_type in ("人物", "企业"))
        return self._filler(slot)

    def _by_someone(self, predicate: str, text: str, works: list[str]) -> str:
        """Say of some works that a sentence mentions who wrote or sings them."""
        if predicate not in _WORK_MAKERS or not draw.chance(self.rng, 0.25):
            return text
        maker, types, form = _WORK_MAKERS[predicate]
        _, filler = self.fillers["person"]
        name = filler(self.rng)
        self.triplets += [Triplet(maker, types[1], types[0], name, work) for work in works]
        return choose(self.rng, form).format(name=name, work=text)

    def _filler(self, slot: str) -> str:
        entity_type, filler = self.fillers[slot]
        text = filler(self.rng)
        if entity_type:
            self.mentions.append((text.strip("《》"), entity_type))
        return text

"""Sentences with their triplets: plans that compose clauses about records, registers, and noise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from task.triplets import Triplet
from tiny_base.corpus import draw, phrases_other, phrases_people, phrases_works, quantities, words
from tiny_base.corpus.fillers import CLASSIFIERS, DEEDS, FILLERS, GENRES, MAKERS, free_clause, job, plain_job
from tiny_base.corpus.grammar import Filler, Kind, Phrase, Teller, choose, parse_kinds
from tiny_base.corpus.records import KINDS, draw_record
from tiny_base.corpus.registers import crowd, noise, register
from tiny_base.corpus.schema import TYPES

_FAMILY = {"子": ("", ""), "父": ("", ""), "母": ("", "")}
# Clauses that name entities and state no fact; {relation} is the name of any.
_IDLE = (
    "{person}[今天|昨天|下周|明年||][来到|去了|要去|抵达|离开|路过|想去]{place}[出差|开会|旅行|调研|探亲||]",
    "{person}[和|与|、]{person}[{verb}|讨论{noun}|见面|合影|是{noun}|下周去{place}]",
    "{person}[说|认为|表示|笑着说][：|，]{word}",
    "[他|她|这个人|这位{job}]的{relation}[{word}|在{noun}里算中等|没有公开|一直是个谜|谁也不知道]",
    "[这|那|这部|那家|该][{N}|{N}|]的{relation}[{word}|是谁|还没有定|不详|有好几个]",
    "[我|他|她|大家][看过|听过|读过|喜欢|没看过|找不到]《{title}》[，{word}|]",
    "《{title}》[好看吗|怎么样|{word}|让我{verb}]",
    "{school}[放假了|办了{noun}展|{word}]", "{org}[发布了{noun}|招聘{job}|{word}]",
    "[从|去]{place}[到|去]{place}[要{num}小时|很远|{word}]", "{date}[是{noun}日|下了雨|{word}]",
    "[没有|不知道|谁]{relation}[，|]{word}", "{job}{person}[{word}|{verb}{noun}]",
)  # fmt: skip


@dataclass
class Sentence:
    """A text with all its triplets, in the order of their subjects, and further entities by type."""

    text: str
    triplets: list[Triplet]
    mentions: list[tuple[str, str]]
    kind: str


@functools.cache
def kinds() -> dict[str, Kind]:
    """Return all kinds of subjects with their phrases."""
    text = phrases_works.TEXT + phrases_people.TEXT + phrases_other.TEXT
    return parse_kinds(text, TYPES | _FAMILY)


class Writer:
    """Writes sentences from a seeded source of chance."""

    def __init__(self, rng: Random, accept: Callable[[str], bool] = lambda name: True):
        """Args:
        rng: source of all chance.
        accept: says whether a name may be used; see `corpus.heldout`.
        """
        self.rng = rng
        self.accept = accept
        self.fillers = {
            name: (entity_type, self._filtered(filler) if entity_type else filler)
            for name, (entity_type, filler) in FILLERS.items()
        }
        self.kind_names = list(KINDS)
        self.kind_weights = [KINDS[name][0] for name in self.kind_names]

    def _filtered(self, filler: Filler) -> Filler:
        def draw(rng: Random) -> str:
            while not self.accept(text := filler(rng)):
                pass
            return text

        return draw

    def sentence(self, kind_name: str | None = None) -> Sentence:
        """Write one sentence, or a few that belong together.

        Args:
            kind_name: kind of the first subject; drawn when None.
        """
        rng = self.rng
        name = kind_name or rng.choices(self.kind_names, self.kind_weights)[0]
        kind = kinds()[name]
        roll = rng.random()
        if kind_name is None and roll < 0.07:
            return self._nothing()
        if name in ("couple", "parent", "actor"):
            text, tellers = self._frame(kind)
            if draw.chance(rng, 0.35):
                text = self._add_maker(text, tellers)
        elif roll < 0.09:
            text, tellers = self._parallel(kind)
        elif roll < 0.15:
            text, tellers = self._shared(kind)
        else:
            text, tellers = self._about(kind)
        if rng.random() < 0.14:  # something else in the same breath
            other = self.sentence(name if draw.chance(rng, 0.5) else None)
            text = text.rstrip("。！，") + rng.choice(("。", "；", "，", "。")) + other.text
            extra_triplets, extra_mentions = other.triplets, other.mentions
        else:
            text = register(rng, text)
            extra_triplets, extra_mentions = [], []
        if draw.chance(rng, 0.06):
            idle = self._idle(tellers[0])
            text = (
                f"{idle}{rng.choice('，。，：')}{text}"
                if draw.chance(rng, 0.3)
                else f"{text.rstrip('。！')}{rng.choice('，。；')}{idle}。"
            )
        triplets = [triplet for teller in tellers for triplet in teller.triplets] + extra_triplets
        mentions = [mention for teller in tellers for mention in teller.mentions] + extra_mentions
        text, origins = self._with_origin(text, triplets)
        triplets += origins
        named = [pair for t in triplets for pair in ((t.subject, t.subject_type), (t.object, t.object_type))]
        people = [text for text, entity_type in (*named, *mentions) if entity_type.endswith("人物")]
        text = noise(rng, crowd(rng, text, people), (value for value, _ in named))
        return Sentence(text, self._in_order(text, triplets), mentions, name)

    def _with_origin(self, text: str, triplets: list[Triplet]) -> tuple[str, list[Triplet]]:
        """Say right before the name of a maker where the person is from: 法国导演…, 蒙古族诗人…, 湖南长沙人….

        Returns:
            The text and the triplets to be added; unchanged and none where it would not fit.
        """
        rng = self.rng
        makers = [t.object for t in triplets if t.predicate in MAKERS]
        if not makers or not draw.chance(rng, 0.15):
            return text, []
        name = rng.choice(makers)
        before, _, after = text.partition(name)
        if text.count(name) != 1 or before.endswith(("《", "“", "·", "人", "族", "籍")) or after[:1] == "·":
            return text, []
        predicate, kind, form = rng.choice(
            (
                ("国籍", "person", "[{0}|{0}|{0}籍|{0}著名|{0}女]{1}"),
                ("国籍", "person", "[{0}人|{0}籍]"),
                ("民族", "person", "[{0}{1}|{0}|{0}人]"),
                ("出生地", "person", "[{0}人|{0}籍{1}]"),
                ("朝代", "history", "[{0}{1}|{0}人|{0}的]"),
            )
        )
        value = KINDS[kind][2][predicate][2](rng)
        if value in text or not self.accept(value) or any(t.subject == name for t in triplets):
            return text, []
        origin = choose(rng, form).format(value, plain_job(rng))
        subject_type, object_type = TYPES[predicate]
        return before + origin + name + after, [Triplet(predicate, object_type, subject_type, value, name)]

    def _idle(self, teller: Teller) -> str:
        """Write a clause with entities that take part in nothing."""
        text = self.rng.choice(_IDLE).replace("{relation}", self.rng.choice(tuple(TYPES)))
        return teller.tell(Phrase(text, frozenset()))

    # ---- plans ----

    def _teller(self, kind: Kind) -> Teller:
        return Teller(self.rng, draw_record(self.rng, kind, self.accept), self.fillers)

    def _about(self, kind: Kind) -> tuple[str, list[Teller]]:
        """Tell one record: an opening that names the subject, then clauses that leave it out."""
        rng, teller = self.rng, self._teller(kind)
        opening = rng.choices(
            (
                self._open_pred,
                self._open_is,
                self._open_attr,
                self._open_lead,
                self._open_notes,
                self._open_full,
                self._open_box,
            ),
            (30, 14, 12, 28, 7, 3, 6),
        )[0]
        text = opening(teller)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3))):
            text = self._continue(teller, text)
        tellers = [teller]
        if kind.name == "person" and draw.chance(rng, 0.3):
            text = self._add_deed(text, tellers)
        elif draw.chance(rng, 0.1):
            text = self._add_maker(text, tellers)
        return text, tellers

    def _add_deed(self, text: str, tellers: list[Teller]) -> str:
        """Add what the person made or leads: works, a company, a school."""
        rng, who = self.rng, tellers[0].record.subject
        (kind_name, predicate), wordings = rng.choice(list(DEEDS.items()))
        works = [
            self._teller(kinds()[kind_name])
            for _ in range(1 if kind_name in ("company", "school") else rng.choice((1, 1, 2, 3)))
        ]
        for work in works:
            work.record.facts = {predicate: [who]}
            work.triplets = [
                Triplet(predicate, TYPES[predicate][1], TYPES[predicate][0], who, work.record.subject)
            ]
        subjects = list(dict.fromkeys(work.record.subject for work in works))
        clause = (
            choose(rng, rng.choice(wordings.split("/")))
            .replace("{year}", quantities.year(rng))
            .replace("{S}", works[0]._fill("S", subjects))
        )
        tellers += works
        return text + rng.choice(("，", "，", "。" + rng.choice(("", "他", "她", who)), "；")) + clause

    def _add_maker(self, text: str, tellers: list[Teller]) -> str:
        """Go on about a person whom the sentence has named: its author, singer, founder …"""
        rng = self.rng
        makers = [t.object for t in tellers[0].triplets if t.predicate in MAKERS]
        if not makers:
            return text
        person = self._teller(kinds()["person"])
        person.record.subject = rng.choice(makers)
        if not text.endswith(person.record.subject) or draw.chance(rng, 0.4):
            text += (
                rng.choice(("。", "，", "。", "；"))
                + rng.choice(
                    ("", "", "其中，", "作者" if tellers[0].record.kind.name in ("book", "novel") else "")
                )
                + person.record.subject
            )
        tellers.append(person)
        for _ in range(rng.choice((1, 1, 2))):
            text = (
                self._continue(person, text)
                if text[-1] != person.record.subject[-1]
                else self._attach(text + rng.choice(("", "，")), self._first_clause(person))
            )
        return text

    def _first_clause(self, teller: Teller) -> str:
        phrase = teller.pick("pred") or teller.pick("extra")
        return teller.tell(phrase) if phrase else ""

    def _nothing(self) -> Sentence:
        """Write a text without any relation: loose clauses, or a subject of which nothing is stated."""
        rng = self.rng
        clauses = [free_clause(rng) for _ in range(rng.randint(1, 4))]
        teller = self._teller(kinds()[rng.choices(self.kind_names, self.kind_weights)[0]])
        if draw.chance(rng, 0.4):
            clauses.insert(rng.randint(0, len(clauses)), self._idle(teller))
        elif draw.chance(rng, 0.7) and (phrase := teller.pick("extra")):
            head = (
                teller.mention()
                if draw.chance(rng, 0.6)
                else rng.choice(("这个", "那", "这", "该", "")) + rng.choice(teller.record.kind.nouns)
            )
            clauses.insert(
                rng.randint(0, 1),
                head.replace("{genre}", rng.choice(GENRES)).replace("{job}", job(rng)) + teller.tell(phrase),
            )
        return Sentence(noise(rng, register(rng, "，".join(clauses))), [], teller.mentions, "nothing")

    def _open_pred(self, teller: Teller) -> str:
        phrase = teller.pick("pred")
        if phrase is None or draw.chance(self.rng, 0.05):
            phrase = teller.pick("extra")
        assert phrase is not None
        comma = "，" if not teller.record.kind.quoted and draw.chance(self.rng, 0.55) else ""
        return self._attach(teller.mention() + comma, teller.tell(phrase))

    @staticmethod
    def _attach(head: str, clause: str) -> str:
        """Join two pieces without doubled punctuation."""
        if clause[:1] in "，（":
            head = head.rstrip("，")
        return head + clause

    def _attributes(self, teller: Teller, most: int) -> str:
        parts = []
        for _ in range(self.rng.randint(1, most)):
            if phrase := teller.pick("attr"):
                parts.append(teller.tell(phrase))
        return self.rng.choice(("", "", "、")).join(parts) if len(parts) < 3 else "".join(parts)

    def _open_is(self, teller: Teller) -> str:
        rng, kind = self.rng, teller.record.kind
        classifier = rng.choice(CLASSIFIERS.get(kind.name, ("一个", "一座", "一种", "一处", "")))
        verb = rng.choice(("是", "是", "是", "为", "系", "，"))
        before = draw.chance(rng, 0.5)
        attributes = self._attributes(teller, 2)
        adjective = rng.choice(("", "", "", rng.choice(words.pool("a")) + "的"))
        return (
            teller.mention()
            + verb
            + (classifier + attributes if before else attributes + classifier)
            + adjective
            + rng.choice(kind.nouns)
        )

    def _open_attr(self, teller: Teller) -> str:
        phrase_text = self._attributes(teller, 2)
        noun = self.rng.choice((self.rng.choice(teller.record.kind.nouns), ""))
        head = phrase_text + noun.replace("{genre}", self.rng.choice(GENRES)) + teller.mention()
        phrase = teller.pick("pred") if draw.chance(self.rng, 0.6) else teller.pick("extra")
        return self._attach(head, teller.tell(phrase)) if phrase else head

    def _open_lead(self, teller: Teller) -> str:
        phrase = teller.pick("lead")
        return teller.tell(phrase) if phrase else self._open_pred(teller)

    def _open_notes(self, teller: Teller) -> str:
        rng = self.rng
        notes = [teller.tell(phrase) for _ in range(rng.randint(1, 3)) if (phrase := teller.pick("note"))]
        if not notes:
            return self._open_pred(teller)
        left, right = rng.choice((("（", "）"), ("（", "）"), ("(", ")"), ("【", "】")))
        text = teller.mention() + left + rng.choice(("，", "；", " ", "、")).join(notes) + right
        phrase = teller.pick("pred") or teller.pick("extra")
        return self._attach(text, teller.tell(phrase)) if phrase and draw.chance(rng, 0.7) else text

    def _open_box(self, teller: Teller) -> str:
        rng = self.rng
        notes: list[str] = []
        while (phrase := teller.pick("note")) and len(notes) < 5:
            notes.append(teller.tell(phrase))
        if not notes:
            return self._open_pred(teller)
        separator = rng.choice((" ", "  ", "；", "，", " | ", "\n" if draw.chance(rng, 0.2) else " "))
        title = rng.choice(
            (
                teller.mention(),
                "名称：" + teller.mention(bare=True),
                teller.mention(bare=True),
                rng.choice(("【简介】", "基本信息 ", "")) + teller.mention(),
            )
        )
        return title + rng.choice((separator, " ", "：")) + separator.join(notes)

    def _open_full(self, teller: Teller) -> str:
        phrase = teller.pick("full")
        return teller.tell(phrase) if phrase else self._open_lead(teller)

    def _continue(self, teller: Teller, text: str) -> str:
        """Add a clause about the same subject, with it left out, as a pronoun, or named again."""
        rng = self.rng
        phrase = teller.pick("extra") if draw.chance(rng, 0.22) else teller.pick("pred")
        if phrase is None:
            return text
        clause = teller.tell(phrase)
        bracket = clause[:1] in "，（"
        roll = rng.random()
        if roll < 0.72 or bracket:
            return text + ("" if bracket else rng.choice(("，", "，", "，", "，", "、", "；"))) + clause
        stop = rng.choice(("。", "。", "，", "；"))
        if roll < 0.92:
            return text + stop + rng.choice(teller.record.kind.pronouns) + clause
        return text + stop + teller.mention() + clause

    def _parallel(self, kind: Kind) -> tuple[str, list[Teller]]:
        """Tell the same fact of several subjects, one after the other."""
        rng = self.rng
        tellers = [self._teller(kind) for _ in range(rng.randint(2, 4))]
        position = rng.choice(("pred", "pred", "lead", "note"))
        phrase = tellers[0].pick(position, only_one=True)
        if phrase is None:
            return self._about(kind)
        parts = []
        for teller in tellers:
            if not phrase.predicates <= teller.untold.keys():
                continue
            clause = teller.tell(phrase)
            if position == "note":
                clause = f"{teller.mention()}（{clause}）"
            parts.append(clause if position != "pred" else self._attach(teller.mention(), clause))
        separator = rng.choice(("，", "；", "，", "、", " ", "，而", "。")) if position != "note" else "、"
        return separator.join(parts), tellers

    def _shared(self, kind: Kind) -> tuple[str, list[Teller]]:
        """Tell one fact that several subjects share, such as the films of an actor."""
        rng, teller = self.rng, self._teller(kind)
        phrase = teller.pick(rng.choice(("lead", "lead", "pred")), only_one=True)
        if phrase is None or "{B}" in phrase.text:
            return self._about(kind)
        others = [draw_record(rng, kind, self.accept).subject for _ in range(rng.randint(1, 4))]
        subjects = list(dict.fromkeys([teller.record.subject, *others]))
        if "{S}" in phrase.text:
            return teller.tell(phrase, subjects), [teller]
        clause = teller.tell(phrase, subjects)
        return self._attach(teller._fill("S", subjects) + rng.choice(("都", "均", "")), clause), [teller]

    def _frame(self, kind: Kind) -> tuple[str, list[Teller]]:
        """Tell a relation between persons that its phrases hold as a whole."""
        teller = self._teller(kind)
        phrase = teller.pick("full")
        if phrase is None:
            return self._frame(kind)
        told = set(teller.untold)
        text = teller.tell(phrase)
        told -= teller.untold.keys()
        if kind.name != "actor":
            roles = {role: teller.record.facts[role][0] for role in told}
            teller.triplets = _family_triplets(roles)
        return text, [teller]

    def _in_order(self, text: str, triplets: list[Triplet]) -> list[Triplet]:
        """Drop repeated triplets and what noise has made unfindable; order by subject, then object."""
        kept = [
            triplet
            for triplet in dict.fromkeys(triplets)
            if triplet.object in text and triplet.subject in text
        ]
        order = list(TYPES)
        return sorted(
            kept,
            key=lambda triplet: (
                text.find(triplet.subject),
                text.find(triplet.object),
                order.index(triplet.predicate),
            ),
        )


def _family_triplets(roles: dict[str, str]) -> list[Triplet]:
    """Return the triplets of a couple, or of parents and child, in both directions where there are two."""
    pairs = []
    if "丈夫" in roles and "妻子" in roles:
        pairs += [("妻子", roles["妻子"], roles["丈夫"]), ("丈夫", roles["丈夫"], roles["妻子"])]
    for role, predicate in (("父", "父亲"), ("母", "母亲")):
        if role in roles and "子" in roles:
            pairs.append((predicate, roles[role], roles["子"]))
    return [Triplet(predicate, "人物", "人物", value, subject) for predicate, value, subject in pairs]

"""From sentences with facts to training lines: values found in the text, offsets checked, types filled in."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from data_handle.converters.answers import Types
from data_handle.converters.labelled import Fact, Labelled, Problem, Span, excerpt
from task.triplets import Triplet
from utils.common_utils import is_encodable

DEFAULT_TYPE = "实体"
MAX_NAME_CHARACTERS = 100  # as in a schema
_TITLES = {"subject": "主语", "object": "宾语"}


@dataclass
class Sample:
    """A sentence with the triplets that training is to see.

    Args:
        text: the sentence.
        triplets: without duplicates.
        spans: of each triplet's object and subject, where the source told them; None where it didn't.
        instruction: of the prompt; None means the usual one.
        where: the line or task it comes from.
    """

    text: str
    triplets: list[Triplet]
    spans: list[tuple[Span | None, Span | None]]
    instruction: str | None
    where: str


@dataclass
class Checked:
    """What the check of all sentences gave.

    Args:
        samples: in the order of the files.
        problems: what can't be used.
        notes: how often something was put right, by what it was.
        examples: the first few of each note.
        without_types: how many triplets of each predicate got `DEFAULT_TYPE`.
        merged: sentences that came more than once.
    """

    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    without_types: Counter[str] = field(default_factory=Counter)
    merged: int = 0


class _Located(NamedTuple):
    """A value as the sentence writes it, where it stands (if that was told), and what had to be put right."""

    value: str
    span: Span | None
    note: str = ""


def check_sentences(sentences: Iterable[Labelled], types: Mapping[str, Types]) -> Checked:
    """Check the facts of all sentences against their texts; put those of one sentence together.

    A fact whose values aren't in its sentence is a problem; a sentence that loses all its facts is one
    too, since it must not become an example of "nothing to extract".

    Args:
        sentences: as read from the files.
        types: by predicate, for facts that have none.
    """
    checked = Checked()
    by_text: dict[tuple[str | None, str], tuple[Labelled, list[Fact]]] = {}
    robbed: set[str] = set()  # sentences that have lost all the facts of a line
    for sentence in sentences:
        offset = len(sentence.text) - len(sentence.text.lstrip())
        text = sentence.text.strip()
        if problem := _text_problem(text, sentence.instruction or ""):
            checked.problems.append(Problem(sentence.where, problem, excerpt(sentence.text)))
            continue
        facts = [fact for each in sentence.facts if (fact := _check(each, text, offset, sentence, checked))]
        if sentence.note:
            checked.notes[sentence.note] += 1
            checked.examples.setdefault(sentence.note, []).append(f"{sentence.where}：{excerpt(text)}")
        if sentence.facts and not facts:
            robbed.add(text)
            if not all(fact.where for fact in sentence.facts):
                checked.problems.append(
                    Problem(sentence.where, "没有一个三元组可用，整句没有采用", excerpt(text))
                )
            continue
        key = (sentence.instruction, text)
        if key in by_text:
            checked.merged += 1
            by_text[key][1].extend(facts)
        else:
            by_text[key] = (sentence, facts)
    for (instruction, text), (sentence, facts) in by_text.items():
        if not facts and text in robbed:
            reason = "别处标了三元组但不能用，不能当作没有三元组的句子"
            checked.problems.append(Problem(sentence.where, reason, excerpt(text)))
            continue
        triplets = _with_types(facts, types, checked.without_types)
        checked.samples.append(
            Sample(text, list(triplets), list(triplets.values()), instruction, sentence.where)
        )
    return checked


def locate(text: str, value: str, span: Span | None) -> _Located | None:
    """Find a value in its sentence.

    Args:
        text: the sentence.
        value: as the source writes it.
        span: where the source says it stands: in code points, in UTF-16 units, or with the last character
            included.

    Returns:
        The value as the sentence writes it, with its place if the source told one that fits; None if it
        isn't in the sentence.
    """
    if span is not None:
        if text[span.start : span.end] == value:
            return _Located(value, span)
        units = text.encode("utf-16-le")
        if units[2 * span.start : 2 * span.end] == value.encode("utf-16-le"):
            start = len(units[: 2 * span.start].decode("utf-16-le", "replace"))
            return _Located(value, Span(start, start + len(value)), "偏移按 UTF-16 计，已换算成字符数")
        if text[span.start : span.end + 1] == value:
            return _Located(value, Span(span.start, span.end + 1), "偏移把末字也算在内，已换算")
        if (nearest := _nearest(text, value, span.start)) is not None:
            return _Located(value, Span(nearest, nearest + len(value)), "偏移与原文不符，已在原文里另找")
    elif value in text:
        return _Located(value, None)
    found = _find_folded(text, value)
    if found is None:
        return None
    return _Located(
        text[found.start : found.end],
        found if span else None,
        "写法与原文不同（大小写、全半角、空白），已照原文改写",
    )


def _check(fact: Fact, text: str, offset: int, sentence: Labelled, checked: Checked) -> Fact | None:
    """Return a fact with values as the sentence writes them; None, and a problem noted, if it is no use."""
    where, is_row = fact.where or sentence.where, bool(fact.where)
    predicate = fact.predicate.strip()
    if problem := _name_problem(predicate, "关系"):
        checked.problems.append(Problem(where, problem, excerpt(text), is_row))
        return None
    ends = {}
    for role, value, span in (
        ("subject", fact.subject, fact.subject_span),
        ("object", fact.object, fact.object_span),
    ):
        if not any(unicodedata.category(character)[0] in "LN" for character in value):
            reason = f"没有填{_TITLES[role]}" if not value.strip() else f"{_TITLES[role]}里没有一个字"
            checked.problems.append(Problem(where, reason, excerpt(f"{predicate}：{text}"), is_row))
            return None
        located = _locate_stripped(text, value, span, offset)
        if located is None:
            detail = f"“{excerpt(value)}”不在“{excerpt(text)}”里"
            checked.problems.append(Problem(where, f"{_TITLES[role]}不在句子里", detail, is_row))
            return None
        if located.note:
            checked.notes[located.note] += 1
            checked.examples.setdefault(located.note, []).append(
                f"{where}：{excerpt(value)} → {located.value}"
            )
        ends[role] = located
    subject_type, object_type = fact.subject_type.strip(), fact.object_type.strip()
    for kind, title in ((subject_type, "主语类型"), (object_type, "宾语类型")):
        if kind and (problem := _name_problem(kind, title)):
            checked.problems.append(Problem(where, problem, excerpt(text), is_row))
            return None
    subject, object_ = ends["subject"], ends["object"]
    return Fact(
        predicate,
        subject.value,
        object_.value,
        subject_type,
        object_type,
        subject.span,
        object_.span,
        fact.where,
    )


def _locate_stripped(text: str, value: str, span: Span | None, offset: int) -> _Located | None:
    """Locate a value without the blanks around it, in a text that lost `offset` blanks at its start."""
    stripped = value.strip()
    if span is not None:
        lead = len(value) - len(value.lstrip()) - offset
        start = span.start + lead
        is_whole = span.end - span.start == len(value)
        span = Span(start, start + len(stripped)) if is_whole else Span(start, span.end - offset)
        if span.start < 0:
            span = None
    return locate(text, stripped, span)


def _with_types(
    facts: list[Fact], types: Mapping[str, Types], without_types: Counter[str]
) -> dict[Triplet, tuple[Span | None, Span | None]]:
    """Return the triplets of a sentence with the spans of object and subject; each once.

    A missing type is taken from the same fact elsewhere, else from `types`, else it is `DEFAULT_TYPE`.
    """
    known: dict[tuple[str, str, str], Types] = {}
    for fact in facts:
        if fact.subject_type and fact.object_type:
            known.setdefault(fact[:3], Types(fact.subject_type, fact.object_type))
    triplets: dict[Triplet, tuple[Span | None, Span | None]] = {}
    for fact in facts:
        given = known.get(fact[:3]) or types.get(fact.predicate) or Types("", "")
        subject_type, object_type = fact.subject_type or given.subject, fact.object_type or given.object
        triplet = Triplet(
            fact.predicate,
            object_type or DEFAULT_TYPE,
            subject_type or DEFAULT_TYPE,
            fact.object,
            fact.subject,
        )
        if triplet not in triplets:
            without_types[fact.predicate] += not (subject_type and object_type)
            triplets[triplet] = (fact.object_span, fact.subject_span)
    return triplets


def _text_problem(text: str, instruction: str) -> str | None:
    if not text:
        return "句子是空的"
    if not is_encodable(text):
        return "句子里有读不出的字节或不成对的代理字符（编码有误）"
    if not is_encodable(instruction):
        return "指令里有读不出的字符"
    return "句子里有 NUL 字符" if "\0" in text + instruction else None


def _name_problem(name: str, title: str) -> str | None:
    if not name:
        return f"没有填{title}"
    if not is_encodable(name) or "\0" in name:
        return f"{title}里有读不出的字符"
    if len(name) > MAX_NAME_CHARACTERS:
        return f"{title}超过 {MAX_NAME_CHARACTERS} 个字符"
    return None


def _nearest(text: str, value: str, start: int) -> int | None:
    """Return where a value stands nearest to a place; None if it doesn't."""
    found, place = [], text.find(value)
    while place >= 0:
        found.append(place)
        place = text.find(value, place + 1)
    return min(found, key=lambda each: abs(each - start)) if found else None


def _find_folded(text: str, value: str) -> Span | None:
    """Find a value regardless of case, width and blanks; None if it isn't there or stands in two places."""
    folded, places = [], []
    for index, character in enumerate(text):
        for part in unicodedata.normalize("NFKC", character).casefold():
            if not part.isspace():
                folded.append(part)
                places.append(index)
    wanted = "".join(unicodedata.normalize("NFKC", value).casefold().split())
    whole = "".join(folded)
    start = whole.find(wanted)
    if not wanted or start < 0:
        return None
    span = Span(places[start], places[start + len(wanted) - 1] + 1)
    again = whole.find(wanted, start + 1)
    other = (
        again >= 0
        and text[places[again] : places[again + len(wanted) - 1] + 1] != text[span.start : span.end]
    )
    return None if other else span

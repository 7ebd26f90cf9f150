"""What a report shows: sentences with what was found in them, beside what was expected if that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_handle.reader import BadLine, iter_objects
from export.triples import (
    MAX_LINE_BYTES,
    Complaints,
    Found,
    read_triplet,
    text_and_items,
)
from extraction.evaluation import metrics
from extraction.evaluation.reliability import Reliability
from extraction.parsing import AnswerStatus
from task.answers import read_answer
from task.prompt import split_context
from task.triplets import Triplet

FLAGS = ("repaired", "truncated", "source_truncated")
CONFUSED = 14  # predicates in the table of confusions: those with the most mistakes


@dataclass
class Line:
    """A sentence of a report.

    Args:
        text: as it was extracted.
        found: its facts.
        gold: what should have been found; None if that isn't known.
        rest: further fields that are shown: flags, error, raw, id.
    """

    text: str
    found: list[Found]
    gold: list[Triplet] | None = None
    rest: dict[str, Any] = field(default_factory=dict)


@dataclass
class Lines:
    """All sentences of a report, and what could not be used."""

    lines: list[Line] = field(default_factory=list)
    bad_lines: Complaints = field(default_factory=Complaints)
    bad_triplets: Complaints = field(default_factory=Complaints)

    def add(self, record: dict[str, Any], place: str) -> None:
        """Add a line of results, or of training data."""
        failed = "error" in record and not record.get("triplets")
        try:
            text, items = text_and_items({**record, "triplets": []} if failed else record)
            gold = _read_gold(record)
        except ValueError as error:
            self.bad_lines.add(f"{place}: {error}")
            return
        found = []
        for number, item in enumerate(items, 1):
            try:
                found.append(read_triplet(item))
            except ValueError as error:
                self.bad_triplets.add(f"{place} 的第 {number} 个三元组：{error}")
        rest: dict[str, Any] = {name: True for name in FLAGS if record.get(name)}
        for name in ("error", "raw", "id"):
            if record.get(name):  # JSON can write half of a surrogate pair, which no file can hold
                rest[name] = _in_words(record[name])
        self.lines.append(Line(text, found, gold, rest))


def read_lines(paths: Sequence[Path]) -> Lines:
    """Read files of results.

    Raises:
        UserError: a file can't be read.
    """
    lines = Lines()
    for path in paths:
        for item in iter_objects(path, MAX_LINE_BYTES):
            if isinstance(item, BadLine):
                lines.bad_lines.add(str(item))
            else:
                lines.add(item[1], f"{path.name}:{item[0]}")
    return lines


def lines_of(results: Iterable[dict[str, Any]]) -> Lines:
    """Return the sentences of an evaluation's `results`."""
    lines = Lines()
    for number, record in enumerate(results, 1):
        lines.add(record, str(number))
    return lines


def _in_words(value: Any) -> str:
    """Return what a field shows, as text that a file can hold."""
    try:
        text = str(value)
    except RecursionError:  # as deep as JSON may just be
        text = "……"
    return text.encode("utf-8", "replace").decode("utf-8")


def _read_gold(record: dict[str, Any]) -> list[Triplet] | None:
    """Return the expected triplets of a result: its own field `gold`, or the answer of the training line that
    was extracted; None if it has neither.

    Raises:
        ValueError: they can't be read.
    """
    if "triplets" not in record:  # a training line is shown as if it were the result
        return None
    if isinstance(gold := record.get("gold"), list):
        return list(dict.fromkeys(read_triplet(item).triplet for item in gold))
    target, context = record.get("target"), record.get("context")
    if isinstance(target, str) and isinstance(context, str):
        answer = read_answer(target, *split_context(context)[:2])
        return None if answer.triplets is None else list(dict.fromkeys(answer.triplets))
    return None


def pack(lines: Iterable[Line]) -> dict[str, Any]:
    """Return sentences in the compact form that report.js unpacks: {names, sentences}."""
    names: dict[str, int] = {}

    def place(name: str) -> int:
        return names.setdefault(name, len(names))

    def fact(found: Found, match: int | None = None) -> list[Any]:
        triplet = found.triplet
        values = [
            *map(place, (triplet.predicate, triplet.subject_type, triplet.object_type)),
            triplet.subject,
            triplet.object,
            None if found.score is None else round(found.score, 4),
            found.subject_span,
            found.object_span,
            match,
        ]
        while values[-1] is None:
            values.pop()
        return values

    sentences = []
    for line in lines:
        gold = line.gold
        places = {} if gold is None else {triplet: number for number, triplet in enumerate(gold)}
        found = [fact(each, places.get(each.triplet)) for each in line.found]
        expected = None if gold is None else [fact(Found(triplet)) for triplet in gold]
        values: list[Any] = [line.text, found, expected, line.rest or None]
        while values[-1] is None:
            values.pop()
        sentences.append(values)
    return {"names": list(names), "sentences": sentences}


def score(lines: Iterable[Line]) -> dict[str, Any] | None:
    """Return the figures of the lines whose expected triplets are known; None if there is no such line.

    They are those of the evaluation: `triplets` and `reliability` as its report has them; `confusion` is
    described at `find_confusions`.
    """
    report, reliability = metrics.Report(), Reliability()
    judged = [line for line in lines if line.gold is not None]
    for line in judged:
        gold = line.gold or []
        status = AnswerStatus.REPAIRED if line.rest.get("repaired") else AnswerStatus.OK
        status = AnswerStatus.INVALID if "error" in line.rest else status
        report.add(line.text, [each.triplet for each in line.found], gold, status)
        for each in line.found:
            if each.score is not None:
                reliability.add(min(max(each.score, 0.0), 1.0), each.triplet in gold)
    if not judged:
        return None
    return {
        "triplets": report.to_dict(0),
        "reliability": reliability.to_dict() if reliability.triplets else None,
        "confusion": find_confusions(judged, report),
    }


def find_confusions(lines: Iterable[Line], report: metrics.Report) -> dict[str, Any]:
    """Count which predicate was written in place of which.

    An expected triplet that is missing, and an invented one of the same subject and object and another
    predicate, are taken for each other. What is left is missed, or invented.

    Returns:
        `predicates`: those with the most mistakes; `pairs`: [expected, predicted, count]; `correct`, `missed`
        and `invented`: counts. All by the place in `predicates`.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    missed: Counter[str] = Counter()
    invented: Counter[str] = Counter()
    for line in lines:
        gold = line.gold or []
        found = list(dict.fromkeys(each.triplet for each in line.found))
        spurious = [triplet for triplet in found if triplet not in gold]
        for expected in (triplet for triplet in gold if triplet not in found):
            ends = (expected.subject, expected.object)
            other = next((each for each in spurious if (each.subject, each.object) == ends), None)
            if other is None:
                missed[expected.predicate] += 1
                continue
            spurious.remove(other)
            if other.predicate == expected.predicate:  # the types are other ones
                missed[expected.predicate] += 1
                invented[other.predicate] += 1
            else:
                pairs[expected.predicate, other.predicate] += 1
        invented.update(each.predicate for each in spurious)
    mistakes: Counter[str] = Counter()
    for (expected_name, predicted_name), count in pairs.items():
        mistakes[expected_name] += count * 1000  # whatever is confused comes before what is only missed
        mistakes[predicted_name] += count * 1000
    mistakes.update(missed)
    mistakes.update(invented)
    names = [name for name, _ in mistakes.most_common(CONFUSED)]
    places = {name: place for place, name in enumerate(names)}
    return {
        "predicates": names,
        "pairs": [
            [places[expected], places[predicted], count]
            for (expected, predicted), count in pairs.most_common()
            if expected in places and predicted in places
        ],
        "correct": [report.per_predicate[name].strict.correct for name in names],
        "missed": [missed[name] for name in names],
        "invented": [invented[name] for name in names],
    }

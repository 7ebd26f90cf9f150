"""What kind of mistake a wrong triplet is, scores by groups of sentences, and how sure they are."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from extraction.evaluation.metrics import Counts
from task.triplets import Triplet


class Mistake(StrEnum):
    """How a wrong triplet differs from the nearest one on the other side, nearest first."""

    TYPE = "type"  # only the types are others
    DIRECTION = "direction"  # subject and object have changed places
    PREDICATE = "predicate"  # between the same two values
    BOUNDARY = "boundary"  # a value is too long or too short
    VALUE = "value"  # subject or object is another
    ALONE = "alone"  # nothing on the other side is like it: missed outright, or invented


class Scored(NamedTuple):
    """A sentence with what was expected of it and what was predicted."""

    sentence: str
    expected: frozenset[Triplet]
    predicted: frozenset[Triplet]

    def counts(self) -> Counts:
        """Return the strict counts of this sentence."""
        counts = Counts()
        counts.add(set(self.predicted), set(self.expected))
        return counts


def kind_of(triplet: Triplet, others: Sequence[Triplet]) -> Mistake:
    """Tell what a wrong triplet got wrong.

    Args:
        triplet: expected and not predicted, or predicted and not expected.
        others: the wrong triplets of the other side, in the same sentence.
    """
    kinds = {_difference(triplet, other) for other in others}
    return next((kind for kind in Mistake if kind in kinds), Mistake.ALONE)


def _difference(one: Triplet, two: Triplet) -> Mistake:
    same_ends = (one.subject, one.object) == (two.subject, two.object)
    if one.predicate != two.predicate:
        return Mistake.PREDICATE if same_ends else Mistake.ALONE
    if same_ends:
        return Mistake.TYPE
    if (one.subject, one.object) == (two.object, two.subject):
        return Mistake.DIRECTION
    if _alike(one.subject, two.subject) and _alike(one.object, two.object):
        return Mistake.BOUNDARY
    if one.subject == two.subject or one.object == two.object:
        return Mistake.VALUE
    return Mistake.ALONE


def _alike(one: str, two: str) -> bool:
    return one in two or two in one


def count_mistakes(sentences: Sequence[Scored]) -> tuple[Counter[Mistake], Counter[Mistake]]:
    """Return the kinds of the missed triplets and those of the ones predicted wrongly, by the strict rule."""
    missed: Counter[Mistake] = Counter()
    wrong: Counter[Mistake] = Counter()
    for sentence in sentences:
        lost = sorted(sentence.expected - sentence.predicted)
        found = sorted(sentence.predicted - sentence.expected)
        missed.update(kind_of(triplet, found) for triplet in lost)
        wrong.update(kind_of(triplet, lost) for triplet in found)
    return missed, wrong


def total(sentences: Sequence[Scored]) -> Counts:
    """Return the strict counts of all sentences."""
    counts = Counts()
    for sentence in sentences:
        counts.add(set(sentence.predicted), set(sentence.expected))
    return counts


def grouped(sentences: Sequence[Scored], group: Callable[[Scored], str]) -> dict[str, Counts]:
    """Return the strict counts of the sentences of each group, groups in their order of names."""
    members: dict[str, list[Scored]] = {}
    for sentence in sentences:
        members.setdefault(group(sentence), []).append(sentence)
    return {name: total(members[name]) for name in sorted(members)}


def bootstrap(sentences: Sequence[Scored], samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of strict F1 over sentences drawn with replacement (percentile bootstrap).

    Raises:
        ValueError: there are no sentences.
    """
    if not sentences:
        raise ValueError("no sentences")
    each = [sentence.counts() for sentence in sentences]
    random_numbers = random.Random(seed)
    scores = []
    for _ in range(samples):
        drawn = random_numbers.choices(each, k=len(each))
        correct = sum(counts.correct for counts in drawn)
        size = sum(counts.predicted + counts.expected for counts in drawn)
        scores.append(2 * correct / size if size else 0.0)
    scores.sort()
    return scores[int(0.025 * samples)], scores[min(samples - 1, int(0.975 * samples))]

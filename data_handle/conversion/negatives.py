"""Sentences of the user's without triplets, as examples of "nothing to extract": on request only."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data_handle.conversion.checking import Sample
from data_handle.converters.labelled import Problem, excerpt
from data_handle.converters.plain_sentences import read_sentences
from data_handle.sentences import sentence_key
from utils.common_utils import is_encodable

_MIN_LENGTH = 2  # characters of a value that tells something


def read_negatives(
    path: Path, samples: Sequence[Sample], count: int | None, seed: int
) -> tuple[list[Sample], list[Problem]]:
    """Return sentences of a file as samples without triplets.

    Those that mention a value or a relation of the labelled ones, but no pair that is known to be
    related, come
    first: they are what a model confuses.

    Args:
        path: a sentence a line, or JSON with a field for it.
        samples: what is labelled.
        count: how many to take at most; all if None.
        seed: of the choice.

    Returns:
        The samples in the order of the file, and the sentences that can't be used: labelled ones, and
        such as hold subject and object of a known triplet, which may well be true there.

    Raises:
        UserError: the file can't be read.
    """
    known = _Known(samples)
    seen = {sentence_key(sample.text) for sample in samples}
    problems: list[Problem] = []
    found: list[tuple[bool, Sample]] = []
    for where, text in read_sentences(path):
        key = sentence_key(text)
        if not is_encodable(text) or "\0" in text:
            problems.append(Problem(where, "句子里有读不出的字符", excerpt(text)))
        elif key in seen:
            problems.append(Problem(where, "句子已经有标注，或与别的句子只差标点、数字", excerpt(text)))
        elif (pair := known.pair_in(text)) is not None:
            detail = f"{' … '.join(pair)}：{excerpt(text)}"
            problems.append(Problem(where, "里面有已知三元组的主语和宾语，未必是反例", detail))
        else:
            seen.add(key)
            found.append((known.is_confusing(text), Sample(text, [], [], None, where)))
    order = list(range(len(found)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda index: not found[index][0])
    return [found[index][1] for index in sorted(order[:count])], problems


class _Known:
    """What is said in the labelled sentences, indexed by the first two characters of each value."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.objects: dict[str, set[str]] = defaultdict(set)
        self.by_start: dict[str, set[str]] = defaultdict(set)
        for sample in samples:
            for triplet in sample.triplets:
                self.objects[triplet.subject].add(triplet.object)
                for value in (triplet.subject, triplet.object, triplet.predicate):
                    if len(value) >= _MIN_LENGTH:
                        self.by_start[value[:_MIN_LENGTH]].add(value)

    def values_in(self, text: str) -> set[str]:
        """Return the known values and relations that a text mentions."""
        starts = range(len(text) - _MIN_LENGTH + 1)
        return {
            value
            for start in starts
            for value in self.by_start.get(text[start : start + _MIN_LENGTH], ())
            if text.startswith(value, start)
        }

    def pair_in(self, text: str) -> tuple[str, str] | None:
        """Return subject and object of a known triplet that a text mentions both."""
        for subject in sorted(self.values_in(text)):
            for object_ in sorted(self.objects.get(subject, ())):
                if object_ in text:
                    return subject, object_
        return None

    def is_confusing(self, text: str) -> bool:
        return bool(self.values_in(text))

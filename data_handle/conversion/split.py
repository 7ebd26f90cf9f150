"""A share of converted lines as dev set: seeded, alike in predicates, no sentence in both."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from data_handle.conversion.checking import Sample
from data_handle.sentences import sentence_key
from task.triplets import Combination, combination_of
from utils.common_utils import UserError


@dataclass
class _Group:
    """The samples of one sentence, see `sentence_key`: they stay together."""

    samples: list[int] = field(default_factory=list)
    combinations: set[Combination] = field(default_factory=set)

    @property
    def predicates(self) -> set[str]:
        return {combination.predicate for combination in self.combinations}


def split_samples(samples: Sequence[Sample], ratio: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split a share of the samples off as dev set.

    Sentences that differ in punctuation, digits or blanks only stay on one side. From the rarest
    predicate on, each gives its share of sentences; a sentence stays in train if no other there has one
    of its combinations of predicate and types. Sentences without triplets give their share too.

    Args:
        samples: what was converted.
        ratio: the share wanted, between 0 and 1; dev may get less, but never nothing.
        seed: of the choice.

    Returns:
        Train and dev, each in the order of the samples.

    Raises:
        UserError: no sentence can be spared.
    """
    groups = _group(samples)
    order = list(range(len(groups)))
    random.Random(seed).shuffle(order)
    holders = Counter(combination for group in groups for combination in group.combinations)
    chosen: set[int] = set()

    def take(number: int) -> bool:
        group = groups[number]
        if number in chosen or any(holders[combination] < 2 for combination in group.combinations):
            return False
        chosen.add(number)
        holders.subtract(group.combinations)
        return True

    by_predicate: dict[str, list[int]] = defaultdict(list)
    for number in order:
        for predicate in sorted(groups[number].predicates) or [""]:
            by_predicate[predicate].append(number)
    for predicate in sorted(by_predicate, key=lambda name: (len(by_predicate[name]), name)):
        numbers = by_predicate[predicate]
        wanted = round(ratio * len(numbers)) - sum(number in chosen for number in numbers)
        for number in numbers:
            if wanted > 0 and len(chosen) < len(groups) - 1 and take(number):
                wanted -= 1
    limit = min(max(round(ratio * len(groups)), 1), len(groups) - 1)
    for number in order:  # shares that were rounded off
        if len(chosen) < limit and groups[number].combinations:
            take(number)
    if not chosen:
        raise UserError(
            f"分不出验证集：{len(groups)} 个不同的句子里，没有一个的关系在别的句子里也有。"
            "请补充标注，或去掉 --dev。"
        )
    in_dev = {index for number in chosen for index in groups[number].samples}
    train = [sample for index, sample in enumerate(samples) if index not in in_dev]
    return train, [sample for index, sample in enumerate(samples) if index in in_dev]


def _group(samples: Sequence[Sample]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for index, sample in enumerate(samples):
        group = groups.setdefault(sentence_key(sample.text), _Group())
        group.samples.append(index)
        group.combinations |= {combination_of(triplet) for triplet in sample.triplets}
    return list(groups.values())

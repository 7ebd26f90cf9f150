"""A share of the training data as dev set, for those who bring none of their own."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_handle.encoded_file import EncodedFile
from data_handle.sentences import sentence_key
from task.prompt import split_context
from task.triplets import Combination, combinations_in
from utils.common_utils import UserError


@dataclass
class _Group:
    """The examples of one sentence: they stay together."""

    examples: list[int] = field(default_factory=list)
    samples: int = 0  # that can be learnt from
    combinations: frozenset[Combination] = frozenset()


def split_off(data: EncodedFile, ratio: float, seed: int) -> tuple[EncodedFile, EncodedFile]:
    """Split a share of the examples off as dev set.

    Lines with triplets and the others (`[]`, classification) are shared out alike. Lines of one sentence stay
    together, see `sentence_key`. A line whose combination of types no other sentence has stays in train, so
    that dev asks for nothing that the schema lacks; only where no line with triplets is left that way, the
    one goes that costs the fewest combinations.

    Args:
        data: what `load_data` returned.
        ratio: the share wanted, between 0 and 1; dev may get less, see above, but never nothing.
        seed: of the choice.

    Returns:
        Train and dev, each in the order of the file. Lines that can't be used are with train.

    Raises:
        UserError: there are fewer than two sentences that can be learnt from.
    """
    if not 0 < ratio < 1:
        raise UserError(f"验证集所占的份额应当在 0 和 1 之间，现在是 {ratio}。")
    groups = _group(data)
    if sum(group.samples > 0 for group in groups) < 2:
        raise UserError(
            f"{data.path} 里可用的句子不到两个（标点、数字和空白不算区别），分不出验证集：请补充数据，"
            "或用 --dev_path 另外给出验证集。"
        )
    chosen = _choose(groups, ratio, seed)
    in_dev = np.zeros(len(data.examples), bool)
    for number in chosen:
        in_dev[groups[number].examples] = True
    dev_lines = set(data.examples.line_numbers[in_dev].tolist())
    rest = [group for number, group in enumerate(groups) if number not in chosen]
    train = _select(data, ~in_dev, rest, lambda line_number: line_number not in dev_lines)
    dev = _select(data, in_dev, [groups[number] for number in chosen], dev_lines.__contains__)
    train.bad_lines.extend(data.bad_lines)
    return train, dev


def _group(data: EncodedFile) -> list[_Group]:
    samples = Counter(data.features.line_numbers.tolist())
    groups: dict[bytes, _Group] = {}
    for index, example in enumerate(data.examples):
        key = sentence_key(split_context(example.context)[1])
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        group = groups.setdefault(digest, _Group())
        group.examples.append(index)
        group.samples += samples[example.line_number]
        group.combinations |= combinations_in([example.target])
    return list(groups.values())


def _choose(groups: Sequence[_Group], ratio: float, seed: int) -> set[int]:
    """Return the numbers of the groups that make up dev."""
    order = [number for number, group in enumerate(groups) if group.samples]
    random.Random(seed).shuffle(order)
    holders = Counter(combination for group in groups for combination in group.combinations)

    def lost(number: int) -> int:
        return sum(holders[combination] == 1 for combination in groups[number].combinations)

    chosen: set[int] = set()
    with_triplets = [number for number in order if groups[number].combinations]
    for kind in (with_triplets, [number for number in order if not groups[number].combinations]):
        limit = round(ratio * sum(len(groups[number].examples) for number in kind))
        limit = max(limit, 1 if kind is with_triplets else 0)
        taken = 0
        for number in kind:
            size = len(groups[number].examples)
            if taken + size <= limit and not lost(number) and len(chosen) < len(order) - 1:
                chosen.add(number)
                taken += size
                holders.subtract(groups[number].combinations)
    candidates = with_triplets if len(with_triplets) > 1 else order
    if not chosen.intersection(candidates):
        rest = [number for number in candidates if number not in chosen]
        chosen = {min(rest, key=lambda number: (lost(number), len(groups[number].examples)))}
    return chosen


def _select(
    data: EncodedFile, wanted: np.ndarray, groups: Sequence[_Group], is_line: Callable[[int], bool]
) -> EncodedFile:
    """Return the part of a file with the examples wanted, bool [examples]; without bad lines."""
    lines = data.examples.line_numbers[wanted]
    features = data.features.select(np.flatnonzero(np.isin(data.features.line_numbers, lines)))
    return EncodedFile(
        data.path,
        features,
        data.examples.select(np.flatnonzero(wanted)),
        [],
        data.summary.select(is_line, len(features), int(features.lengths.sum())),
        frozenset().union(*(group.combinations for group in groups)),
    )

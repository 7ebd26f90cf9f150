"""Which sentences are worth labelling next: those the model is least sure of, of many kinds, no two alike."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence

from data_handle.annotation.results import Result, score_of
from data_handle.sentences import sentence_key
from utils.common_utils import UserError

_ALIKE = 0.7  # share of common character pairs above which two sentences teach the same
_LENGTH_CLASSES = 3
_EMPTY_EVERY = 10


def select(
    results: Sequence[Result], count: int, exclude: Iterable[str] = (), seed: int = 42
) -> list[Result]:
    """Choose sentences to label.

    The predicates take turns, each with the sentence whose least certain triplet is one of its own and has
    the lowest score, out of short, middling and long ones by turns. Every tenth is a sentence without
    triplets, drawn at random: what the model overlooks has no score.

    Args:
        results: of an extraction with scores.
        count: how many; fewer come back where there are not as many different ones.
        exclude: sentences that are labelled already.
        seed: of the order where there is no score.

    Returns:
        The lines chosen, the most urgent first.

    Raises:
        UserError: triplets have no scores.
    """
    if all(score_of(result.found) is None for result in results) and any(result.found for result in results):
        raise UserError("抽取结果里没有分数，选不出最没有把握的句子：请加上 --scores 重新抽取。")
    seen = {sentence_key(text) for text in exclude}
    candidates: list[Result] = []
    for result in results:
        key = sentence_key(result.text)
        if not result.failed and key not in seen:
            seen.add(key)
            candidates.append(result)
    random.Random(seed).shuffle(candidates)
    likeness = _Likeness()
    queues = _queue_up(candidates)
    empty = queues.pop("", deque())
    chosen: list[Result] = []
    for result in _by_turns(queues, likeness):
        if len(chosen) % _EMPTY_EVERY == _EMPTY_EVERY - 1 and (other := _next(empty, likeness)):
            chosen.append(other)
        if len(chosen) >= count:
            break
        chosen.append(result)
    while len(chosen) < count and (other := _next(empty, likeness)):
        chosen.append(other)
    return chosen[:count]


def _by_turns(queues: dict[str, deque[Result]], likeness: _Likeness) -> Iterator[Result]:
    """Yield the sentences of all predicates, in each turn one of each, the least certain first."""
    while queues:
        for predicate in sorted(queues, key=lambda name: (_score(queues[name][0]), name)):
            if (result := _next(queues[predicate], likeness)) is not None:
                yield result
            if not queues[predicate]:
                del queues[predicate]


def _next(queue: deque[Result], likeness: _Likeness) -> Result | None:
    """Take the first sentence that isn't much like one taken before."""
    while queue:
        result = queue.popleft()
        if likeness.admit(result.text):
            return result
    return None


def _queue_up(candidates: Sequence[Result]) -> dict[str, deque[Result]]:
    """Return the sentences by the predicate that they are least certain of, short and long ones by turns."""
    lengths = sorted(len(result.text) for result in candidates)
    bounds = (
        [lengths[len(lengths) * n // _LENGTH_CLASSES] for n in range(1, _LENGTH_CLASSES)] if lengths else []
    )
    by_class: dict[str, list[list[Result]]] = defaultdict(lambda: [[] for _ in range(_LENGTH_CLASSES)])
    for result in candidates:
        length_class = sum(len(result.text) >= bound for bound in bounds)
        by_class[_least_certain(result)][length_class].append(result)
    queues = {}
    for predicate, classes in by_class.items():
        for members in classes:
            members.sort(key=_score)
        turns = ((turn, number) for number, members in enumerate(classes) for turn in range(len(members)))
        order = sorted(turns, key=lambda each: (each[0], _score(classes[each[1]][each[0]])))
        queues[predicate] = deque(classes[number][turn] for turn, number in order)
    return queues


def _least_certain(result: Result) -> str:
    """Return the predicate of the triplet with the lowest score; "" if there is no triplet."""
    scored = [
        (each.score if each.score is not None else 1.0, each.triplet.predicate) for each in result.found
    ]
    return min(scored)[1] if scored else ""


def _score(result: Result) -> float:
    score = score_of(result.found)
    return 1.0 if score is None else score


class _Likeness:
    """Keeps what has been chosen, by pairs of neighbouring characters."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._holders: dict[str, list[int]] = defaultdict(list)

    def admit(self, text: str) -> bool:
        """Add a sentence, unless it is much like one that was added before."""
        key = sentence_key(text)
        pairs = {key[start : start + 2] for start in range(max(len(key) - 1, 1))}
        common = Counter(holder for pair in pairs for holder in self._holders.get(pair, ()))
        for holder, count in common.items():
            if count > _ALIKE * (len(pairs) + self._sizes[holder] - count):
                return False
        for pair in pairs:
            self._holders[pair].append(len(self._sizes))
        self._sizes.append(len(pairs))
        return True

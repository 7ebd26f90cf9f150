"""Lines asked for some relations at a time: which stand in the prompts of a line, and what is answered then.

A line is asked for its own relations and for others that it doesn't have, preferably such as are easily taken
for its own; what it says of a relation is the answer to the prompt that names it. What is drawn for a line
depends on its text and the seed only, so it is the same in every epoch and in every process.

Imports no torch, because workers import this module.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from data_handle.reader import Example, iter_examples
from task.answers import read_answer
from task.prompt import split_context, with_relations
from task.schema import Schema, relation_name, split_evenly
from task.triplets import Combination, Triplet, combination_of, format_target
from utils.directories import file_digest
from utils.jsonl import BadLine

# How likely a relation is drawn that has nothing in common with the line's own; see `_Pool.nearness`.
_FAR = 0.25


class RelationPrompts:
    """Draws the prompts of lines.

    Args:
        train_path: the lines whose relations are drawn from.
        schema_path: further relations, and what is said of them; None for none.
        size: relations of a prompt, at most.
        negative_ratio: relations that a line doesn't have, for each that it has (at least for one).
        seed: of the draw.

    Raises:
        UserError: the schema's file can't be read.
    """

    def __init__(
        self, train_path: Path, schema_path: Path | None, size: int, negative_ratio: float, seed: int
    ) -> None:
        self.size = size
        self.negative_ratio = negative_ratio
        self.seed = seed
        self.given = Schema.load(schema_path) if schema_path is not None else Schema(frozenset())
        self._train_path = train_path

    @property
    def key(self) -> str:
        """All that the draw depends on, as a name."""
        given = self.given.to_dict()
        parts = (file_digest(self._train_path), given, self.size, self.negative_ratio, self.seed)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @cached_property
    def pool(self) -> _Pool:
        """What is drawn from; the training lines are read for it once."""
        return _Pool.of(self._train_path, self.given)

    def ask(self, context: str, triplets: Sequence[Triplet]) -> Iterator[tuple[str, str]]:
        """Yield the prompts for a line that holds these triplets, and what is to be answered to each."""
        own = list(dict.fromkeys(map(combination_of, triplets)))
        seed = hashlib.blake2b(f"{self.seed}\0{context}".encode("utf-8", "surrogatepass"), digest_size=8)
        rng = random.Random(int.from_bytes(seed.digest(), "big"))
        wanted = [*own, *self.pool.draw(own, round(self.negative_ratio * max(len(own), 1)), rng)]
        rng.shuffle(wanted)
        descriptions = self.pool.descriptions
        for part in split_evenly(wanted, self.size):
            names = [relation_name(each, descriptions) for each in part]
            asked = set(part)
            target = format_target(triplet for triplet in triplets if combination_of(triplet) in asked)
            yield with_relations(context, names), target


class _Pool:
    """The relations that there are, and which are near to which."""

    def __init__(self, lines: Iterable[frozenset[Combination]], given: Schema) -> None:
        self.descriptions = dict(given.descriptions)
        self._lines: Counter[Combination] = Counter()  # with each
        self._together: Counter[tuple[Combination, Combination]] = Counter()
        for combinations in lines:
            self._lines.update(combinations)
            self._together.update(itertools.permutations(combinations, 2))
        self.relations = sorted({*self._lines, *given.combinations})
        self._weights: dict[Combination, list[float]] = {}  # of all relations, for one of a line's own

    @classmethod
    def of(cls, path: Path, given: Schema) -> _Pool:
        """Read the lines of a data file; those that can't be used say nothing."""

        def combinations(example: Example) -> frozenset[Combination]:
            head, sentence, _ = split_context(example.context)
            return frozenset(map(combination_of, read_answer(example.target, head, sentence).triplets or ()))

        examples = (item for item in iter_examples(path) if not isinstance(item, BadLine))
        return cls(map(combinations, examples), given)

    def draw(self, own: Sequence[Combination], count: int, rng: random.Random) -> list[Combination]:
        """Draw relations that are not among a line's own, near ones preferably."""
        weights = [_FAR] * len(self.relations)
        for each in own:
            if each not in self._weights:
                self._weights[each] = [self.nearness(each, other) for other in self.relations]
            weights = [sum(pair) for pair in zip(weights, self._weights[each], strict=True)]
        mine = set(own)
        # The largest of log(u) / weight: a draw without replacement, by weight (Efraimidis and Spirakis).
        keyed = [
            (math.log(1.0 - rng.random()) / weight, each)
            for weight, each in zip(weights, self.relations, strict=True)
            if each not in mine
        ]
        return [each for _, each in sorted(keyed, reverse=True)[:count]]

    def nearness(self, own: Combination, other: Combination) -> float:
        """Return how easily one is taken for the other: like types, like names, found in the same lines."""
        types = (own.subject_type == other.subject_type) + (own.object_type == other.object_type)
        left, right = set(own.predicate), set(other.predicate)
        together = self._together[own, other] / max(1, min(self._lines[own], self._lines[other]))
        return types / 2 + len(left & right) / len(left | right) + together

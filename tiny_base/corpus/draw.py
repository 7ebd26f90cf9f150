"""Chance: drawing from lists, and runs of characters without meaning."""

from __future__ import annotations

import functools
from random import Random

from tiny_base.corpus import words


def chance(rng: Random, probability: float) -> bool:
    """Return True with the given probability."""
    return rng.random() < probability


@functools.cache
def entries(text: str) -> tuple[str, ...]:
    """Split a list written with blanks; `_` is the empty entry."""
    return tuple("" if entry == "_" else entry for entry in text.split())


def one_of(rng: Random, text: str) -> str:
    """Draw an entry of a list written with blanks."""
    return rng.choice(entries(text))


def skewed(rng: Random, items: tuple[str, ...]) -> str:
    """Draw an item, earlier ones more often."""
    return items[int(len(items) * rng.random() ** 2.2)]


def any_characters(rng: Random, low: int, high: int, limit: int = 3800) -> str:
    """Draw a run of unrelated characters, so that the model learns to copy what means nothing.

    Some stand twice, as in 摇摇晃晃 or 1.88: there it doesn't do to look for where the last one occurred.
    """
    pool = words.characters(limit)
    characters = [rng.choice(pool)]
    for _ in range(rng.randint(low, high) - 1):
        characters.append(rng.choice(characters[-2:]) if chance(rng, 0.1) else rng.choice(pool))
    return "".join(characters)

"""Word pools by part of speech, from the dictionary of the library jieba (MIT), read on first use."""

from __future__ import annotations

import functools
from collections import defaultdict
from importlib import resources

# Parts of speech of the dictionary that the generator uses: general nouns, verbs, adjectives, idioms,
# phrases, place names, transliterated and other personal names, organisations, other proper names.
_TAGS = ("n", "v", "a", "i", "l", "ns", "nrt", "nr", "nt", "nz", "t", "s")
MIN_FREQUENCY = 40  # rarer general words are mostly fragments; proper names are kept whatever their frequency


def _is_chinese(text: str) -> bool:
    return all("\u4e00" <= char <= "\u9fff" for char in text)


@functools.cache
def _dictionary() -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """Read the dictionary.

    Returns:
        Words by tag, and how often each Chinese character occurs, weighted by the frequency of its words.
    """
    pools: dict[str, list[str]] = defaultdict(list)
    characters: dict[str, int] = defaultdict(int)
    text = resources.files("jieba").joinpath("dict.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        word, frequency_text, tag = line.split(" ")
        frequency = int(frequency_text)
        if not _is_chinese(word):
            continue
        for char in word:
            characters[char] += frequency
        rare_is_fine = tag in ("ns", "nrt", "nr", "nt", "i")
        if tag in _TAGS and 1 < len(word) <= 12 and (rare_is_fine or frequency >= MIN_FREQUENCY):
            pools[tag].append(word)
    return {tag: tuple(sorted(words)) for tag, words in pools.items()}, dict(characters)


def pool(tag: str) -> tuple[str, ...]:
    """Return all words of a part of speech, sorted.

    Args:
        tag: the dictionary's tag, such as "n" for nouns.

    Returns:
        The words, at least two characters long each.
    """
    return _dictionary()[0][tag]


@functools.cache
def endings(tag: str, suffixes: tuple[str, ...], min_length: int = 3) -> tuple[str, ...]:
    """Return the words of a part of speech that end in one of the suffixes, such as place names in 县.

    Args:
        tag: the dictionary's tag.
        suffixes: accepted endings.
        min_length: shortest word wanted, in characters.

    Returns:
        The words, sorted.
    """
    return tuple(word for word in pool(tag) if len(word) >= min_length and word.endswith(suffixes))


@functools.cache
def characters(limit: int) -> tuple[str, ...]:
    """Return the most frequent Chinese characters.

    Args:
        limit: how many.

    Returns:
        The characters, most frequent first.
    """
    counts = _dictionary()[1]
    return tuple(sorted(counts, key=lambda char: (-counts[char], char))[:limit])

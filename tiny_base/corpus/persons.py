"""Names of persons: Chinese, transliterated, Japanese, pen names, courtesy and art names."""

from __future__ import annotations

from random import Random

from tiny_base.corpus import facts, words
from tiny_base.corpus.draw import any_characters, chance, one_of, skewed


def chinese_name(rng: Random) -> str:
    """Draw a Chinese personal name of two to four characters."""
    kind = rng.random()
    if kind < 0.12:
        surname = rng.choice(facts.COMPOUND_SURNAMES)
    elif kind < 0.25:
        surname = rng.choice(facts.RARE_SURNAMES)
    else:
        surname = skewed(rng, facts.SURNAMES)
    length = 1 if chance(rng, 0.3) else 2
    if chance(rng, 0.4):
        return surname + any_characters(rng, length, length, 3500)
    if length == 2 and chance(rng, 0.25):  # a word, or a character twice: 知秋, 夏至, 北北
        word = rng.choice(words.pool(rng.choice("natvsi")))
        return surname + (word if len(word) == 2 else 2 * rng.choice(facts.GIVEN))
    return surname + "".join(rng.choice(facts.GIVEN) for _ in range(length))


def foreign_name(rng: Random) -> str:
    """Draw a transliterated foreign or minority name."""
    pool = words.pool("nrt")
    parts = [rng.choice(pool) for _ in range(rng.choice((1, 2, 2, 2, 3)))]
    if chance(rng, 0.06):
        parts.insert(
            rng.randrange(len(parts) + 1), rng.choice("ABCDEFGHJKLMPRSTW") + ("." if chance(rng, 0.5) else "")
        )
    dot = rng.choice("·····•・-")
    if len(parts) > 2 and dot != "-" and chance(rng, 0.3):
        parts[:2] = ["-".join(parts[:2])]  # a double given name
    return dot.join(parts)


def japanese_name(rng: Random) -> str:
    """Draw a Japanese name of three to five characters."""
    first = rng.choice(
        "山田中村佐藤木井上松本高桥石川小林清水森池内原野大岛前冈部长谷渡边坂口西东北宫崎藤伊桥户泽"
    )
    second = rng.choice("田川村本木山井口野原岛崎泽藤谷边上下桥森林水内部")
    return first + second + any_characters(rng, 1, 1, 1200) + one_of(rng, "子 郎 美 一 介 也 太 人 香 _")


def stage_name(rng: Random) -> str:
    """Draw a pen or stage name, such as those of web writers and singers."""
    kind = rng.random()
    if kind < 0.12:
        quality = rng.choice(words.pool(one_of(rng, "v a n i"))) + (
            rng.choice(words.pool("n")) if chance(rng, 0.2) else ""
        )
        return rng.choice(("", "", "", "不", "爱", "会", "没")) + quality + "的" + rng.choice(words.pool("n"))
    if kind < 0.38:
        return rng.choice(words.pool(one_of(rng, "n v a i t nz"))) + (
            rng.choice(words.pool("n")) if chance(rng, 0.6) else ""
        )
    if kind < 0.6:
        return rng.choice(facts.NICKNAME_PARTS) + rng.choice(words.pool(rng.choice(("n", "v", "a"))))
    if kind < 0.85:
        return any_characters(rng, 2, 4)
    if kind < 0.95:
        return rng.choice(words.pool("nr"))
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7))).title()


def person(rng: Random) -> str:
    """Draw any person's name."""
    kind = rng.random()
    if kind < 0.68:
        return chinese_name(rng)
    if kind < 0.8:
        return foreign_name(rng)
    if kind < 0.84:
        return japanese_name(rng)
    if kind < 0.92:
        return stage_name(rng)
    return rng.choice(words.pool("nr"))


def courtesy_name(rng: Random) -> str:
    """Draw a courtesy name (字)."""
    return one_of(rng, "子 伯 仲 叔 季 文 元 公 德 士 _") + any_characters(
        rng, 1, 2 if chance(rng, 0.5) else 1, 2500
    )


def art_name(rng: Random) -> str:
    """Draw an art name (号)."""
    return any_characters(rng, 1, 2, 2500) + one_of(
        rng, "居士 山人 先生 道人 老人 斋主人 翁 子 主人 散人 _ 庵 斋 轩 堂"
    )

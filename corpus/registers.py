"""Registers (news, chat, review, encyclopaedia) and noise: what surrounds a sentence in real text."""

# ruff: noqa: E501, SIM905 (lists)

from __future__ import annotations

from random import Random

from corpus import quantities, words
from corpus.fillers import GENRES, JOBS, free_clause

_CHAT = tuple(
    "听说 刚看完， 我记得 话说 昨晚查了一下， 朋友说 大家都知道， 有人知道吗， 哈哈， 其实 没想到 不得不说， 请问".split()
)
_HEADINGS = (
    "基本信息 ",
    "简介：",
    "人物简介 ",
    "内容简介：",
    "1、",
    "（1）",
    "编辑推荐 ",
    "剧情简介",
    "公司简介",
    "[1]",
    "经历",
)
_LAST_WORDS = (
    *("，非常好看", "，推荐给大家", "，你们觉得呢？", "，真的太棒了！"),
    *("，求推荐", "，一起来看看吧", "，敬请期待", "，欢迎收看"),
)


def _news(rng: Random) -> str:
    """Draw the beginning of a report."""
    return rng.choice(
        (
            *("据悉，", "据报道，", "日前，", "近日，"),
            *(f"{quantities.date(rng)}，", f"{quantities.date(rng)}，据了解，"),
            *("【新闻】", "本报讯 ", "资料显示，", "据介绍，", "昨日，"),
        )
    )


def register(rng: Random, text: str) -> str:
    """Put a text into a register, with loose clauses around it and an end."""
    roll = rng.random()
    if roll < 0.1:
        text = _news(rng) + text
    elif roll < 0.16:
        text = rng.choice(_CHAT) + text
    elif roll < 0.19:
        text = rng.choice(_HEADINGS) + text
    elif roll < 0.25:
        text = free_clause(rng) + rng.choice(("，", "。", "：")) + text
    roll = rng.random()
    if roll < 0.12:
        for _ in range(rng.randint(1, 3)):
            text += "，" + free_clause(rng)
    elif roll < 0.16:
        text += rng.choice(_LAST_WORDS)
    ending = rng.random()
    return text + ("。" if ending < 0.86 else rng.choice(("", "！", "", "[1]。", "……", "~", ".")))


def noise(rng: Random, text: str) -> str:
    """Add what real text has: half-width punctuation, stray blanks, other quotation marks or none."""
    text = text.replace("{genre}", rng.choice(GENRES)).replace("{job}", rng.choice(JOBS))
    roll = rng.random()
    if roll < 0.05:
        text = text.replace("，", ",").replace("：", ":").replace("（", "(").replace("）", ")")
    elif roll < 0.07:
        text = text.replace("，", rng.choice((" ", "， ", " ，")))
    elif roll < 0.08:
        text = text.replace("《", rng.choice(("", "〈", "『"))).replace("》", rng.choice(("", "〉", "』")))
    return text


def crowd(rng: Random, text: str, names: list[str]) -> str:
    """Put a word right before or behind some names, so that their borders have to be told without a mark."""
    for name in dict.fromkeys(names):
        if text.count(name) != 1 or rng.random() > 0.3:
            continue
        before, _, after = text.partition(name)
        if rng.random() < 0.35:
            before += rng.choice(JOBS) if not before.endswith(("《", "“", "·")) else ""
        elif not after.startswith(("》", "”", "·")):
            after = rng.choice(words.pool(rng.choice(("v", "v", "a", "t")))) + after
        text = before + name + after
    return text

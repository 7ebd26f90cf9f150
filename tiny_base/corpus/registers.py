"""Registers (news, chat, review, encyclopaedia) and noise: what surrounds a sentence in real text."""

# ruff: noqa: E501, SIM905 (lists)

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from tiny_base.corpus import quantities, words
from tiny_base.corpus.fillers import GENRES, free_clause, job, plain_job

_CHAT = tuple(
    "听说 刚看完， 我记得 话说 昨晚查了一下， 朋友说 大家都知道， 有人知道吗， 哈哈， 其实 没想到 不得不说， 请问 "
    "我认识 我喜欢 你知道吗， 老师， 大家公认 如今 那时 后来 原来 毕竟 可是 而 但 因为 由于 当时 今天 昨天 明天 据我所知 "
    "最近 有一天 同事说 书上说 问： 答： 众所周知 每次说起 提到 只见 从前".split()
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
            *(f"本报{quantities.date(rng)}讯 ", f"{quantities.date(rng)}消息："),
            *("【新闻】", "本报讯 ", "资料显示，", "据介绍，", "昨日，"),
        )
    )


def register(rng: Random, text: str) -> str:
    """Put a text into a register, with loose clauses around it and an end."""
    roll = rng.random()
    if roll < 0.1:
        text = _news(rng) + text
    elif roll < 0.19:
        text = rng.choice(_CHAT) + text
    elif roll < 0.21:
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


def noise(rng: Random, text: str, values: Iterable[str] = ()) -> str:
    """Add what real text has: half-width punctuation, stray blanks, other quotation marks or none.

    Args:
        rng: source of chance.
        text: a sentence.
        values: must stay findable in it; with punctuation among them the text's stays as it is.
    """
    text = text.replace("{genre}", rng.choice(GENRES)).replace("{job}", job(rng))
    roll = rng.random()
    if any(mark in value for value in values for mark in "，：（）《》"):
        return text
    if roll < 0.05:
        text = text.replace("，", ",").replace("：", ":").replace("（", "(").replace("）", ")")
    elif roll < 0.07:
        text = text.replace("，", rng.choice((" ", "， ", " ，")))
    elif roll < 0.08:
        text = text.replace("《", rng.choice(("", "〈", "『"))).replace("》", rng.choice(("", "〉", "』")))
    return text


_ADVERBS = tuple(
    "也又曾已还只才都就便再却仍将正专常竟亦从在把对和给被是当任写说会则终太真先即均各很最更一这那因凭以"
)
_BEHIND = (
    "终于 亲自 果然 居然 一直 后来 当年 一手 一夜之间 白手起家 应邀 独自 今天 昨天 去年 近日 多年来 从小 也曾 曾经 "
    "先生 女士 老师 教授 本人 同志 大师 等人".split()
)
_JOINTS = tuple("、和与及以等/（(")  # before these nothing is put in: a list goes on, or a bracket opens


def crowd(rng: Random, text: str, names: list[str]) -> str:
    """Put words right before or behind some names, so that their borders have to be told without a mark."""
    for name in dict.fromkeys(names):
        if text.count(name) != 1 or rng.random() > 0.3:
            continue
        before, _, after = text.partition(name)
        roll, bare = rng.random(), not before.endswith(("《", "“", "·"))
        if roll < 0.1 and bare:
            before += rng.choice(("一位叫", "一个叫", "名叫", "叫"))
            after = f"的{plain_job(rng)}{after}"
        elif roll < 0.45 or after.startswith(_JOINTS):
            before += plain_job(rng) if bare else ""
        elif not after.startswith(("》", "”", "·")):
            pools = (_ADVERBS, _BEHIND, words.pool(rng.choice("vva")))
            after = rng.choice(rng.choices(pools, (40, 15, 45))[0]) + after
        text = before + name + after
    return text

"""Titles of films, songs, web novels and books."""

from __future__ import annotations

from random import Random

from tiny_base.corpus import facts, words
from tiny_base.corpus.draw import any_characters, chance, entries, one_of
from tiny_base.corpus.persons import chinese_name


def _title_phrase(rng: Random) -> str:
    """Draw a title by a pattern over words."""

    def noun() -> str:
        return rng.choice(words.pool("n"))

    def verb() -> str:
        return rng.choice(words.pool("v"))

    def adjective() -> str:
        return rng.choice(words.pool("a"))

    patterns = (
        lambda: noun(),
        lambda: noun() + noun(),
        lambda: adjective() + rng.choice(("的", "")) + noun(),
        lambda: verb() + rng.choice(("的", "", "了", "吧")) + noun(),
        lambda: noun() + "的" + noun(),
        lambda: rng.choice(words.pool("i")),
        lambda: rng.choice(words.pool("ns")) + rng.choice(("的", "")) + noun(),
        lambda: chinese_name(rng) + rng.choice(("传", "", "的故事", "外传", "评传", "正传", "与" + noun())),
        lambda: (
            one_of(rng, "我 你 他 我们 一个人 亲爱的 不 别 请 再见 重生之 最后的 爱 寻找")
            + rng.choice((verb(), noun(), adjective()))
        ),
        lambda: noun() + one_of(rng, "与 和 之 · · 在 不") + rng.choice((noun(), verb())),
        lambda: verb() + verb(),
        lambda: noun() + verb(),
        lambda: adjective() + verb() + noun(),
        lambda: (
            rng.choice("一二三四五六七八九十百千两半")
            + rng.choice("个只位座条朵片颗次天年里种")
            + rng.choice((noun(), adjective()))
        ),
        lambda: any_characters(rng, 1, 3),
        lambda: any_characters(rng, 3, 7),
        lambda: rng.choice(words.pool("nr")) + rng.choice(("", "", "传奇", "之" + noun())),
        lambda: rng.choice(words.pool("l")),
        lambda: rng.choice(words.pool("s")) + rng.choice(("的", "")) + noun(),
        lambda: rng.choice(words.pool("t")) + rng.choice(("的", "", "里的")) + rng.choice((noun(), verb())),
    )
    return rng.choice(patterns)()


def _title_ending(rng: Random) -> str:
    return rng.choice(
        (
            "2",
            "3",
            "第二部",
            "第一季",
            "第三季",
            "之" + rng.choice(words.pool("n")),
            "·" + rng.choice(words.pool("n")),
            "Ⅱ",
            "（上）",
            "(下)",
            "前传",
            "II",
            ":" + rng.choice(words.pool("n")),
            "：" + _title_phrase(rng),
            " " + _title_phrase(rng),
        )
    )


def english_title(rng: Random) -> str:
    """Draw an English title of one to three words."""
    return " ".join(rng.choice(facts.ROMAN_WORDS) for _ in range(rng.randint(1, 3)))


def title(rng: Random) -> str:
    """Draw the title of a film, series, song or album."""
    if chance(rng, 0.03):
        return english_title(rng)
    text = _title_phrase(rng)
    return text + _title_ending(rng) if chance(rng, 0.1) else text


def web_title(rng: Random) -> str:
    """Draw the title of a web novel."""
    if chance(rng, 0.5):
        return title(rng)
    parts = entries("重生 穿越 都市 武 神 仙 魔 天 极品 绝世 无敌 修真 末世 异界 总裁 王妃 校园 帝 星际")
    middle = rng.choice((_title_phrase(rng), any_characters(rng, 2, 4)))
    text = rng.choice(parts) + rng.choice(("", "之", "")) + middle
    return text + rng.choice(
        (
            "",
            "",
            "录",
            "传",
            "记",
            "诀",
            "系统",
            "王",
            "至尊",
            "天下",
            "传奇",
            "传说",
            "的" + rng.choice(words.pool("n")),
        )
    )


def book_title(rng: Random) -> str:
    """Draw the title of a printed book, textbooks with volumes and series included."""
    if chance(rng, 0.4):
        return title(rng)
    subject = "".join(
        rng.choice(words.pool(rng.choice(("n", "n", "v", "nz")))) for _ in range(rng.randint(1, 3))
    )
    kind = entries(
        "教程 原理 研究 概论 入门 手册 指南 实务 导论 史 全集 选集 大全 学 论 技术 "
        "理论与实践 案例分析 基础 百科 漫谈 札记 年鉴 习题集 辅导 词典 精要 新编 读本 "
        "设计 _"
    )
    text = rng.choice(
        (
            "",
            "",
            "",
            "中国",
            "现代",
            "新编",
            "实用",
            "大学",
            "图解",
            "世界",
            "当代",
            "高等",
            "儿童",
            str(rng.randint(1990, 2022)),
        )
    )
    text += subject + rng.choice(kind)
    if chance(rng, 0.25):
        text += rng.choice(
            (
                "（上册）",
                "（第2版）",
                "(第三版)",
                "（修订版）",
                "(套装全2册)",
                "：" + subject[:2] + rng.choice(words.pool("n")),
                "·" + rng.choice(words.pool("n")) + "卷",
                "—" + _title_phrase(rng),
                "（修订本）",
                "（附光盘）",
                "（全彩版）",
                "2",
                "(英文版)",
                "（上下）",
                "——" + rng.choice(words.pool("n")) + rng.choice(words.pool("v")),
            )
        )
    return text

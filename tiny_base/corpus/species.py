"""Living things: species, orders, Latin names."""

from __future__ import annotations

from random import Random

from tiny_base.corpus import facts
from tiny_base.corpus.draw import any_characters, chance, entries, one_of


def species(rng: Random) -> str:
    """Draw an animal, plant, or family of them."""
    endings = entries(
        "蛾 蝶 鱼 螺 草 树 鸟 虾 蛙 龟 蛇 蟹 兰 菊 花 虫 甲 蚁 蝇 蜂 猴 鼠 科 科 属 松 "
        "杉 藤 贝 鹟 雀 蝽 蛛 竹 菇 柳 莓"
    )
    head = any_characters(rng, 1, 3, 3000)
    if chance(rng, 0.35):
        head = one_of(rng, "红 黑 白 长 短 大 小 黄 斑 花 条纹 金 银 云南 中华 台湾 四川 毛 细 宽") + head
    return head + rng.choice(endings)


def order(rng: Random) -> str:
    """Draw a biological order."""
    stem = any_characters(rng, 1, 2, 2500) if chance(rng, 0.2) else rng.choice(facts.ORDER_STEMS)
    return stem + "目"


def latin(rng: Random) -> str:
    """Draw something that looks like a Latin species name."""
    syllables = entries(
        "ste pha ni tis chi ne sis oe di po da ru bra al ba ma cu la ta vi ri dis or ca le us um na"
    )

    def make(low: int, high: int) -> str:
        return "".join(rng.choice(syllables) for _ in range(rng.randint(low, high)))

    return make(2, 4).title() + (" " + make(2, 4) if chance(rng, 0.7) else "")

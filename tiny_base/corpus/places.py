"""Places: provinces, cities, counties, villages, sights, mountains."""

from __future__ import annotations

from random import Random

from tiny_base.corpus import facts, words
from tiny_base.corpus.draw import any_characters, chance, entries, one_of


def province(rng: Random) -> str:
    """Draw a province, with or without its suffix."""
    name, suffix, _ = rng.choice(facts.PROVINCES)
    return name + (suffix if chance(rng, 0.5) else "")


def city(rng: Random) -> str:
    """Draw a Chinese city, with or without its suffix."""
    _, _, cities = rng.choice(facts.PROVINCES)
    name = rng.choice(cities)
    return name + "市" if chance(rng, 0.5) and not name.endswith("区") else name


def county(rng: Random) -> str:
    """Draw a county, district or county town."""
    if chance(rng, 0.25):
        return any_characters(rng, 1, 2, 2000) + rng.choice(("县", "县", "区", "市"))
    return rng.choice(words.endings("ns", ("县", "区", "市")))


def place(rng: Random) -> str:
    """Draw a Chinese place from province to village, as birthplaces are given."""
    name, suffix, cities = rng.choice(facts.PROVINCES)
    long = chance(rng, 0.4)
    head = name + (suffix if long else "")
    town = rng.choice(cities)
    if long and not town.endswith("区"):
        town += "市"
    kind = rng.random()
    if kind < 0.3:
        return head + town
    if kind < 0.55:
        return head + county(rng)
    if kind < 0.65:
        return head + town + county(rng)
    if kind < 0.78:
        return rng.choice((head, town, town))
    if kind < 0.88:
        return county(rng)
    return head + county(rng) + any_characters(rng, 1, 2, 2000) + rng.choice("镇乡村")


def foreign_city(rng: Random) -> str:
    """Draw a foreign city or region, with or without its country."""
    country, capital, _ = rng.choice(facts.COUNTRIES)
    name = capital if chance(rng, 0.4) else rng.choice(words.pool("nrt"))
    return (country if chance(rng, 0.5) else "") + name


def birthplace(rng: Random) -> str:
    """Draw any place of birth."""
    return foreign_city(rng) if chance(rng, 0.15) else place(rng)


def region(rng: Random) -> str:
    """Draw an administrative region: county, town, village, or a foreign one."""
    kind = rng.random()
    if kind < 0.25:
        return county(rng)
    if kind < 0.6:
        return any_characters(rng, 1, 3, 2500) + one_of(rng, "镇 乡 村 街道 县 自治县 社区 岛")
    if kind < 0.8:
        return rng.choice(words.endings("ns", ("镇", "乡", "村", "州", "岛"), 2))
    return rng.choice(words.pool("nrt")) + one_of(rng, "州 省 市 郡 _ 区 大区 县")


def scenery(rng: Random) -> str:
    """Draw a mountain, lake, park, temple or museum."""
    endings = entries(
        "山 寺 公园 湖 风景区 古镇 博物馆 森林公园 峡谷 瀑布 塔 故居 动物园 植物园 温泉 "
        "广场 庙 桥 水库 湿地公园 大厦 陵"
    )
    head = (
        any_characters(rng, 1, 3, 2800)
        if chance(rng, 0.5)
        else rng.choice(words.pool(rng.choice(("n", "ns"))))
    )
    return head + rng.choice(endings)


def peak(rng: Random) -> str:
    """Draw a mountain or another point that has a height."""
    head = rng.choice(
        (any_characters(rng, 1, 3, 2800), rng.choice(words.pool("nrt")), rng.choice(words.pool("ns")))
    )
    return head + one_of(rng, "山 峰 岭 村 雪山 高原 镇 火山 顶 坪 湖")

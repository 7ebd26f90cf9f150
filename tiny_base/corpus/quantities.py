"""Dates, years, numbers with units, codes."""

from __future__ import annotations

from random import Random

from tiny_base.corpus.draw import chance, one_of

_DIGITS = "〇一二三四五六七八九"


def _chinese_number(number: int) -> str:
    """Write 1 to 99 in Chinese."""
    tens, units = divmod(number, 10)
    if tens == 0:
        return _DIGITS[units]
    return ("" if tens == 1 else _DIGITS[tens]) + "十" + (_DIGITS[units] if units else "")


def year(rng: Random, low: int = 1900, high: int = 2022) -> str:
    """Draw a year with 年."""
    return f"{rng.randint(low, high)}年"


def date(rng: Random, low: int = 1900, high: int = 2022) -> str:
    """Draw a date, from a bare year to a full date, in the usual ways of writing one."""
    y, m, d = rng.randint(low, high), rng.randint(1, 12), rng.randint(1, 28)
    kind = rng.random()
    if kind < 0.3:
        return f"{y}年"
    if kind < 0.5:
        return f"{y}年{m}月"
    if kind < 0.8:
        return f"{y}年{m}月{d}日"
    if kind < 0.84:
        return f"{y}年{m:02d}月{d:02d}日"
    if kind < 0.87:
        return f"{y}-{m:02d}-{d:02d}"
    if kind < 0.89:
        return f"{y}.{m}.{d}"
    if kind < 0.92:
        return str(y)
    if kind < 0.94:
        return f"{m}月{d}日"
    if kind < 0.97:
        return (
            "".join(_DIGITS[int(c)] for c in str(y))
            + "年"
            + (_chinese_number(m) + "月" if chance(rng, 0.6) else "")
        )
    return f"{y}年{rng.choice(('春', '夏', '秋', '冬', '初', '底', '上半年'))}"


def number(rng: Random, low: float, high: float) -> str:
    """Draw a number, evenly by its logarithm, in one of the usual forms."""
    value = low * (high / low) ** rng.random()
    kind = rng.random()
    if kind < 0.35:
        return f"{value:.{rng.randint(1, 2)}f}"
    if value > 1000 and kind < 0.5:
        return f"{int(value):,}"
    return str(int(value)) if value >= 1 else f"{value:.2f}"


def area(rng: Random) -> str:
    """Draw an area with its unit."""
    approximate = rng.choice(("", "", "", "约", "近"))
    return (
        approximate
        + number(rng, 1, 9000)
        + one_of(rng, "平方公里 平方米 亩 万亩 公顷 平方千米 万平方米 km² 余亩 多平方米")
    )


def height(rng: Random) -> str:
    """Draw a person's height."""
    centimetres = rng.randint(140, 228)
    return rng.choice(
        (
            f"{centimetres}cm",
            f"{centimetres}厘米",
            f"{centimetres / 100:.2f}米",
            f"{centimetres}公分",
            f"{centimetres}CM",
            f"{centimetres // 100}米{centimetres % 100}",
            f"{centimetres / 100:.2f}m",
            f"{centimetres} cm",
        )
    )


def altitude(rng: Random) -> str:
    """Draw a height above the sea."""
    return number(rng, 20, 8800) + one_of(rng, "米 米 米 公尺 多米 m")


def people(rng: Random) -> str:
    """Draw a number of inhabitants."""
    return number(rng, 1, 90000) + one_of(rng, "人 人 万人 万 余人 万余人")


def money(rng: Random) -> str:
    """Draw a sum of money."""
    return number(rng, 1, 9000) + one_of(rng, "万元 万元人民币 亿元 万 亿 万美元 亿美元 元 万人民币")


def postcode(rng: Random) -> str:
    """Draw a six-digit postcode."""
    return f"{rng.randint(10000, 860000):06d}"


def subject_code(rng: Random) -> str:
    """Draw the code of a field of study."""
    return f"{rng.randint(10000, 850000):06d}" + rng.choice(("", "", "", "K", "T"))

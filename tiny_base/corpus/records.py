"""Records: which facts a subject of each kind has, and how often, with values drawn for them."""

# ruff: noqa: E501 (one row a line)

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tiny_base.corpus import draw, facts, organisations, persons, places, quantities, species, titles
from tiny_base.corpus.grammar import Kind, Record
from tiny_base.corpus.schema import COMPANY_TYPES, TYPES

Draw = Callable[[Random], str]


def _nation(rng: Random) -> str:
    name = rng.choice(facts.NATIONS) if draw.chance(rng, 0.5) else rng.choice(facts.NATIONS[:8])
    return name + "族"


def _country(rng: Random) -> str:
    return rng.choice(facts.COUNTRIES)[0]


def _years(rng: Random) -> str:
    return rng.choice(("四年", "三年", "4年", "五年", "2年", "3年", "5年", "两年", "3-6年", "三至五年"))


def _birth_date(rng: Random) -> str:
    return quantities.date(rng, 1880, 2005)


def _role(rng: Random) -> str:
    return persons.stage_name(rng) if draw.chance(rng, 0.4) else persons.chinese_name(rng)


# kind -> (how often, subject, {predicate: (probability, most values, value)})
_FILM: dict[str, tuple[float, int, Draw]] = {
    "导演": (0.5, 2, persons.person), "主演": (0.6, 5, persons.person), "编剧": (0.25, 2, persons.person),
    "出品公司": (0.3, 3, organisations.film_company), "制片人": (0.12, 2, persons.person), "改编自": (0.12, 1, titles.book_title),
    "上映时间": (0.3, 1, lambda rng: quantities.date(rng, 1950, 2023)), "票房": (0.07, 1, quantities.money), "主题曲": (0.06, 1, titles.title),
}  # fmt: skip
KINDS: dict[str, tuple[float, Draw, dict[str, tuple[float, int, Draw]]]] = {
    "film": (22, titles.title, _FILM),
    "show": (4, titles.title, {"主持人": (0.7, 2, persons.person), "嘉宾": (0.55, 3, persons.person)}),
    "book": (14, titles.book_title, {"作者": (0.85, 3, persons.person), "出版社": (0.75, 1, organisations.publisher)}),
    "novel": (
        9,
        titles.web_title,
        {
            "作者": (0.85, 1, persons.stage_name),
            "连载网站": (0.75, 1, lambda rng: rng.choice(facts.WEBSITES)),
            "主角": (0.25, 2, _role),
        },
    ),
    "song": (
        14,
        titles.title,
        {
            "歌手": (0.85, 2, persons.person),
            "作词": (0.42, 2, persons.person),
            "作曲": (0.42, 2, persons.person),
            "所属专辑": (0.4, 1, titles.title),
        },
    ),
    "person": (
        15,
        persons.person,
        {
            "出生日期": (0.6, 1, _birth_date), "出生地": (0.55, 1, places.birthplace), "民族": (0.35, 1, _nation),
            "国籍": (0.3, 1, _country), "毕业院校": (0.35, 2, organisations.school), "身高": (0.14, 1, quantities.height),
            "祖籍": (0.12, 1, places.place), "获奖": (0.05, 2, lambda rng: rng.choice(facts.AWARDS)),
        },
    ),
    "history": (
        6,
        persons.chinese_name,
        {
            "朝代": (0.7, 1, lambda rng: rng.choice(facts.DYNASTIES)), "字": (0.5, 1, persons.courtesy_name),
            "号": (0.4, 1, persons.art_name), "出生地": (0.4, 1, places.place), "祖籍": (0.05, 1, places.place),
        },
    ),
    "couple": (5, persons.person, {}),
    "parent": (5, persons.person, {}),
    "actor": (2, persons.person, {"饰演": (0.7, 1, _role), "配音": (0.5, 1, _role)}),
    "company": (
        9,
        organisations.company,
        {
            "成立日期": (0.6, 1, lambda rng: quantities.date(rng, 1880, 2022)), "注册资本": (0.22, 1, quantities.money),
            "总部地点": (0.35, 1, lambda rng: rng.choice((places.city, places.birthplace, places.place))(rng)),
            "创始人": (0.25, 2, persons.person), "董事长": (0.2, 1, persons.person), "代言人": (0.08, 1, persons.person),
        },
    ),
    "institution": (
        4,
        organisations.institution,
        {
            "成立日期": (0.65, 1, lambda rng: quantities.date(rng, 1880, 2022)), "占地面积": (0.35, 1, quantities.area),
            "总部地点": (0.1, 1, places.city),
        },
    ),
    "school": (
        1.5,
        organisations.school,
        {
            "校长": (0.85, 1, persons.person), "成立日期": (0.3, 1, lambda rng: quantities.date(rng, 1880, 2022)),
            "占地面积": (0.1, 1, quantities.area),
        },
    ),
    "region": (
        4,
        places.region,
        {
            "面积": (0.5, 1, quantities.area), "人口数量": (0.45, 1, quantities.people), "气候": (0.35, 1, lambda rng: rng.choice(facts.CLIMATES)),
            "邮政编码": (0.2, 1, quantities.postcode), "海拔": (0.2, 1, quantities.altitude),
        },
    ),
    "peak": (2, places.peak, {"海拔": (1.0, 1, quantities.altitude)}),
    "scenery": (4, places.scenery, {"所在城市": (0.95, 1, places.city), "占地面积": (0.2, 1, quantities.area)}),
    "country": (2, _country, {"首都": (0.7, 1, places.city), "官方语言": (0.45, 1, places.city), "面积": (0.15, 1, quantities.area), "人口数量": (0.15, 1, quantities.people)}),
    "species": (5, species.species, {"目": (1.0, 1, species.order)}),
    "discipline": (2, organisations.discipline, {"专业代码": (0.75, 1, quantities.subject_code), "修业年限": (0.6, 1, _years)}),
}  # fmt: skip


def _akin(rng: Random, name: str) -> str:
    """Draw a title that shares its beginning or its end with another one."""
    title = titles.title(rng)
    cut = rng.randint(1, len(name))
    return name[:cut] + title[-rng.randint(1, 4) :] if draw.chance(rng, 0.5) else title[:4] + name[-cut:]


def draw_record(rng: Random, kind: Kind, accept: Callable[[str], bool]) -> Record:
    """Draw a subject with facts.

    Args:
        rng: source of chance.
        kind: kind of the subject.
        accept: says whether a name may be used (not held out).

    Returns:
        The record; it may have no facts at all.
    """

    def accepted(value: Draw) -> str:
        while True:
            text = value(rng)
            if accept(text):
                return text

    _, subject, table = KINDS[kind.name]
    record = Record(kind, accepted(subject), {}, {})
    for predicate, (probability, most, value) in table.items():
        if draw.chance(rng, probability):
            count = 1 if most == 1 or draw.chance(rng, 0.55) else rng.randint(2, most)
            values = dict.fromkeys(accepted(value) for _ in range(count))
            record.facts[predicate] = [text for text in values if text != record.subject]
    _tie_up(rng, record, accepted)
    record.facts = {predicate: values for predicate, values in record.facts.items() if values}
    record.types = {predicate: TYPES.get(predicate, ("", "")) for predicate in record.facts}
    if kind.name == "company":
        record.types |= {name: types for name, types in COMPANY_TYPES.items() if name in record.facts}
    return record


def _tie_up(rng: Random, record: Record, accepted: Callable[[Draw], str]) -> None:
    """Make facts that hang together agree: one person in several roles, capital and language, short names."""
    told = record.facts
    name = record.kind.name
    if name == "song":
        if "作词" in told and "作曲" in told and draw.chance(rng, 0.45):
            told["作曲"] = told["作词"]
        for predicate in ("作词", "作曲"):
            if predicate in told and "歌手" in told and draw.chance(rng, 0.35):
                told[predicate] = told["歌手"]
        if "所属专辑" in told and draw.chance(rng, 0.15):
            told["所属专辑"] = [accepted(lambda rng: _akin(rng, record.subject))]
    elif name == "film":
        if "导演" in told and "编剧" in told and draw.chance(rng, 0.2):
            told["编剧"] = told["导演"]
        if "改编自" in told and draw.chance(rng, 0.4):
            told["改编自"] = [accepted(lambda rng: _akin(rng, record.subject))]
    elif name == "country":
        _, capital, language = next(entry for entry in facts.COUNTRIES if entry[0] == record.subject)
        if "首都" in told:
            told["首都"] = [capital]
        if "官方语言" in told:
            told["官方语言"] = [language]
    elif name == "species" and draw.chance(rng, 0.15):  # 银杏 belongs to 银杏目
        told["目"] = [record.subject[:3] + "目"]
    elif name in ("company", "institution", "school") and len(record.subject) > 4 and draw.chance(rng, 0.15):
        told["简称"] = [organisations.short_name(rng, record.subject)]
    elif name == "couple":
        told |= {"丈夫": [accepted(persons.person)], "妻子": [accepted(persons.person)]}
    elif name == "parent":
        told |= {
            "子": [accepted(persons.person)],
            "父": [accepted(persons.person)],
            "母": [accepted(persons.person)],
        }
        if draw.chance(rng, 0.6):  # a child mostly bears its father's surname
            told["父"] = [accepted(persons.chinese_name)]
            told["子"] = [accepted(lambda rng: told["父"][0][0] + persons.chinese_name(rng)[1:])]

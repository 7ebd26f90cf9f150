"""Organisations: companies, publishers, schools, institutions, and their fields."""

from __future__ import annotations

from random import Random

from tiny_base.corpus import facts, words
from tiny_base.corpus.draw import any_characters, chance, entries, one_of
from tiny_base.corpus.places import city, province


def _brand(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return any_characters(rng, 2, 3, 2800)
    if kind < 0.7:
        return rng.choice(words.pool("n"))
    if kind < 0.85:
        return rng.choice(words.pool("nrt"))
    return rng.choice(words.pool("a")) + any_characters(rng, 0, 1, 1500)


_COMPANY_ENDINGS = entries(
    "有限公司 有限公司 股份有限公司 集团 集团有限公司 公司 有限责任公司 控股有限公司 厂"
)


def company(rng: Random) -> str:
    """Draw a company, from the full registered name to a bare brand."""
    kind = rng.random()
    if kind < 0.55:
        return (
            rng.choice((city(rng), city(rng), province(rng), ""))
            + _brand(rng)
            + rng.choice(facts.INDUSTRIES)
            + rng.choice(_COMPANY_ENDINGS)
        )
    if kind < 0.85:
        return _brand(rng) + one_of(rng, "集团 公司 科技 _ _ _ 汽车 银行 酒店 电器 股份 地产 网 超市")
    return rng.choice(facts.ROMAN_WORDS) + rng.choice(("", "", " Group", "公司", "Tech"))


def film_company(rng: Random) -> str:
    """Draw a film producer, a broadcaster or a video site."""
    kind = rng.random()
    if kind < 0.5:
        return (
            rng.choice(("", "", city(rng), province(rng)))
            + _brand(rng)
            + one_of(
                rng,
                "影业 影视 传媒 娱乐 影视文化有限公司 影业有限公司 影视传媒有限公司 "
                "文化传播有限公司 电影制片厂 电影集团 国际传媒 影视股份有限公司 动漫有限公司 "
                "影视制作有限公司 文化传媒 影业集团 工作室",
            )
        )
    if kind < 0.7:
        return province(rng) + rng.choice(("卫视", "电影制片厂", "电视台", "广播电视台", "影视集团"))
    return one_of(
        rng,
        "爱奇艺 优酷 腾讯视频 腾讯影业 华谊兄弟 芒果TV 阿里影业 中央电视台 中影股份 "
        "搜狐视频 乐视影业 万达影视 光线传媒 企鹅影视",
    )


def publisher(rng: Random) -> str:
    """Draw a publishing house."""
    fields = entries(
        "人民 文艺 美术 科学技术 教育 少年儿童 大学 古籍 音乐 经济 法律 青年 工业 农业 "
        "医药科技 电子工业 邮电 世界图书 文史 画报 财政经济 交通 妇女 旅游 华侨 宗教文化 "
        "知识 中信 作家 商务 _"
    )
    kind = rng.random()
    if kind < 0.5:
        return province(rng) + rng.choice(fields) + "出版社"
    if kind < 0.75:
        return one_of(rng, "中国 人民 新 东方 世界 北京 科学 机械 化学 国防") + rng.choice(fields) + "出版社"
    if kind < 0.85:
        return (
            city(rng).removesuffix("市") + rng.choice(("大学", "师范大学", "理工大学", "交通大学")) + "出版社"
        )
    return _brand(rng) + one_of(rng, "出版社 书店 书局 出版公司 出版集团 文化 出版有限公司")


def school(rng: Random) -> str:
    """Draw a university, college or school."""
    fields = entries(
        "师范 理工 医科 农业 财经 交通 科技 工业 外国语 政法 林业 体育 工程 海洋 民族 "
        "中医药 航空航天 邮电 音乐 美术 _"
    )
    endings = entries("大学 大学 大学 学院 学院 专科学校 职业技术学院")
    head = rng.choice(
        (
            city(rng).removesuffix("市"),
            city(rng).removesuffix("市"),
            province(rng).removesuffix("省"),
            one_of(rng, "中央 华东 华中 西南 东北 北方 中国 国立 南方 西北 华南"),
            _brand(rng),
            rng.choice(words.pool("nrt")),
        )
    )
    kind = rng.random()
    if kind < 0.72:
        text = head + rng.choice(fields) + rng.choice(endings)
        return text + (
            one_of(rng, "中文系 法学院 医学院 戏剧系 经济管理学院 数学系 研究生院")
            if chance(rng, 0.08)
            else ""
        )
    if kind < 0.9:
        return head + one_of(
            rng, "第一中学 中学 一中 实验小学 高级中学 外国语学校 第二小学 附中 师范学校 女子中学"
        )
    return one_of(
        rng,
        "清华 北大 复旦大学 浙江大学 哈佛大学 耶鲁大学 剑桥大学 牛津大学 北京电影学院 "
        "中央戏剧学院 上海戏剧学院 东京大学 南开大学 武汉大学 中山大学 四川大学 "
        "西安交通大学 同济大学 黄埔军校 麻省理工学院",
    )


def institution(rng: Random) -> str:
    """Draw an institution that is no company: association, hospital, club, institute, school."""
    endings = entries(
        "协会 医院 研究所 研究院 俱乐部 基金会 学会 委员会 博物馆 图书馆 中心 联合会 "
        "商会 乐团 剧院 研究会 银行 足球俱乐部 实验室 联盟"
    )
    if chance(rng, 0.25):
        return school(rng)
    head = rng.choice((city(rng), province(rng), "中国", "国际", "全国", "世界", _brand(rng)))
    return (
        head
        + rng.choice(("", _brand(rng), rng.choice(words.pool("n")), rng.choice(facts.INDUSTRIES)))
        + rng.choice(endings)
    )


def short_name(rng: Random, full: str) -> str:
    """Make a short name out of the characters of a full one."""
    size = min(len(full), rng.choice((2, 2, 2, 3, 3, 4)))
    picks = sorted(rng.sample(range(len(full)), size))
    return "".join(full[i] for i in picks)


def discipline(rng: Random) -> str:
    """Draw a field of study."""
    head = rng.choice(words.pool("n")) + (rng.choice(words.pool("n")) if chance(rng, 0.4) else "")
    return head + one_of(rng, "工程 学 技术 管理 设计 与应用 专业 科学 教育 自动化 工艺 分析")

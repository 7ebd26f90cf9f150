"""The relations: predicates of the public DuIE schemas with the types of their subjects and objects."""

# ruff: noqa: E501 (one row a line)

from __future__ import annotations

# predicate, subject type, object type; the second table holds variants of type that a kind of subject asks for
_SCHEMA = """
导演 影视作品 人物|编剧 影视作品 人物|主演 影视作品 人物|制片人 影视作品 人物|出品公司 影视作品 企业|改编自 影视作品 作品
上映时间 影视作品 Date|票房 影视作品 Number|主题曲 影视作品 歌曲|主持人 电视综艺 人物|嘉宾 电视综艺 人物
作者 图书作品 人物|出版社 书籍 出版社|连载网站 网络小说 网站|主角 网络小说 人物
歌手 歌曲 人物|作词 歌曲 人物|作曲 歌曲 人物|所属专辑 歌曲 音乐专辑
出生日期 人物 Date|出生地 人物 地点|国籍 人物 国家|民族 人物 Text|毕业院校 人物 学校|身高 人物 Number|祖籍 人物 地点
父亲 人物 人物|母亲 人物 人物|丈夫 人物 人物|妻子 人物 人物|朝代 历史人物 Text|字 历史人物 Text|号 历史人物 Text
饰演 娱乐人物 人物|配音 娱乐人物 人物|获奖 娱乐人物 奖项
成立日期 机构 Date|注册资本 企业 Number|总部地点 企业 地点|创始人 企业 人物|董事长 企业 人物|简称 机构 Text|占地面积 机构 Number
代言人 企业 人物|校长 学校 人物|面积 行政区 Number|人口数量 行政区 Number|气候 行政区 气候|邮政编码 行政区 Text
首都 国家 城市|官方语言 国家 语言|海拔 地点 Number|所在城市 景点 城市|目 生物 目|专业代码 学科专业 Text|修业年限 学科专业 Number
"""
TYPES: dict[str, tuple[str, str]] = {
    predicate: (subject_type, object_type)
    for predicate, subject_type, object_type in (
        entry.split(" ") for line in _SCHEMA.strip().splitlines() for entry in line.split("|")
    )
}
COMPANY_TYPES = {"成立日期": ("企业", "Date")}

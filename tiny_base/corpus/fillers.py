"""What fills slots that state no fact: jobs, genres, loose words and clauses, and what persons did."""

# ruff: noqa: E501, SIM905 (tables, one row a line)

from __future__ import annotations

from random import Random

from tiny_base.corpus import draw, facts, organisations, persons, places, quantities, species, titles, words
from tiny_base.corpus.grammar import Filler
from tiny_base.corpus.schema import TYPES

JOBS = tuple(
    "演员 导演 歌手 作家 诗人 画家 教授 医生 律师 记者 企业家 政治家 物理学家 数学家 编剧 主持人 模特 运动员 球员 教练 军人 将军 设计师 工程师 摄影师 "
    "作曲家 钢琴家 书法家 翻译家 历史学家 经济学家 化学家 舞蹈家 漫画家 评论家 商人 厨师 警察 飞行员 博士 研究员 院士 音乐人 制作人 总裁 网络红人 "
    "前锋 中锋 后卫 守门员 外援 替补 队长 主力 老将 小将 新秀 选手 冠军 班主任 校友 学者 教师 学生 留学生 站长 经理 老板 店主 邻居 同学 姑娘 "
    "小伙 老人 少年 爷爷 奶奶 大叔 阿姨 小提琴手 鼓手 吉他手 主唱 指挥 经纪人 发言人 候选人 目击者 志愿者".split()
)
# Endings of dictionary nouns that mostly name what a person is, and what may stand before them.
_JOB_ENDINGS = tuple("家员师手长工生者匠商兵将官民星友夫汉侠")
_JOB_PREFIXES = tuple(
    "青年 年轻 资深 老 女 男 前 著名 农村 民间 业余 天才 新人 首席 职业 草根 退役 归国 乡村 高级".split()
)
# These would state a relation of their own.
_RELATED = frozenset("校长 董事长 作者 编者 著者 创作者 丈夫 前夫 姐夫 妹夫 姑夫".split())
_ROLES = ("导演", "编剧", "主持人", "歌手", "作曲家", "制作人", "主唱")
_TIMES = tuple(
    "今天 昨天 明天 前天 去年 今年 前年 上周 下周 周末 早上 傍晚 夜里 清晨 平时 从前 当年 近来 最后 现在".split()
)
GENRES = tuple(
    "爱情片 动作片 喜剧片 悬疑片 科幻片 战争片 古装剧 都市剧 谍战剧 家庭伦理剧 青春剧 武侠剧 偶像剧 恐怖片 惊悚片 文艺片 历史剧 励志剧 动画片 警匪片 "
    "情景喜剧 年代剧 农村题材电视剧 宫廷剧 奇幻片 犯罪片 传记片 剧情片 言情剧 抗战剧 商战剧 公路片 冒险片 武侠电影 爱情喜剧 古装玄幻剧".split()
)
CLASSIFIERS = {
    "film": ("一部", "一部", "部", ""), "show": ("一档", "一档", "一个", ""), "book": ("一本", "一部", "一册", ""), "novel": ("一部", "一本", ""),
    "song": ("一首", "一首", "一支", ""), "person": ("一位", "一名", "一个", ""), "history": ("一位", "一代", "著名", ""),
    "company": ("一家", "一家", "一个", ""), "institution": ("一所", "一家", "一个", ""), "school": ("一所", "一所", ""),
}  # fmt: skip
# What a person did, by the kind of work and the relation it stands for: clauses with {S} for the works.
DEEDS = {
    ("film", "主演"): "[主演|出演|参演|领衔主演][了|过|][电影|电视剧|]{S}[等作品|等影视作品|]/后来[主演|参演]了[电影|电视剧|]{S}/[在|][{year}|][电影|电视剧|]{S}中[担任主演|饰演主角|担任女主角]/[影视|主演]作品有{S}/[代表作|代表作品][有|为][电影|电视剧]{S}/[因|凭][主演|出演]{S}[走红|成名|而被熟知]",
    ("film", "导演"): "[执导|导演|拍摄][了|过|][电影|电视剧|纪录片|]{S}/[导演作品|执导作品|导演代表作]有{S}/[担任|是][电影|]{S}的导演/[凭|凭借][执导|][处女作|]{S}[获得|拿下]最佳导演",
    ("film", "编剧"): "[编剧作品|编剧代表作][有|为]{S}/[担任|是]{S}的编剧/[为|给]{S}[编剧|撰写剧本]/编剧[了|的作品有]{S}",
    ("book", "作者"): "[著有|出版有|写有|创作了|写了|发表了|编著有|主编][长篇小说|诗集|散文集|专著|]{S}[等|等书|]/[代表作|著作|主要作品|作品|主要著作][有|为|包括]{S}/[出版|发表][了|][小说|专著|]{S}/[著有|写有]{S}一书/写过[一本|一部|]{S}/[写成|完成]了{S}/是{S}的作者",
    ("novel", "作者"): "[代表作|作品|代表作品|主要作品][有|为]{S}/[著有|创作了|完结作品有|连载过][网络小说|小说|]{S}/是[网络小说|]{S}的作者",
    ("song", "歌手"): "[[演唱|唱过|演唱了][歌曲|单曲|]|[发行|推出|推出了][歌曲|单曲]]{S}/[代表歌曲|成名曲|主打歌][有|为|是]{S}/[凭|因|以][歌曲|单曲]{S}[走红|一炮而红|广为人知]",
    ("song", "作曲"): "[作曲|谱曲][作品有|了|的歌曲有]{S}/[为|给]{S}[作曲|谱曲]/是{S}的作曲者",
    ("song", "作词"): "[作词|填词][作品有|了|的歌曲有]{S}/[为|给]{S}[作词|填词]/是{S}的词作者",
    ("show", "主持人"): "[主持|主持过|主持了][节目|综艺节目|]{S}/[现|曾|]任{S}主持人/[担任|是]{S}的主持人",
    ("company", "创始人"): "[创办|创立|创建|联合创办][了|]{S}/[是|系|为]{S}[的|]创始人/{S}创始人",
    ("company", "董事长"): "[现任|曾任|任|担任|出任]{S}[的|]董事长/{S}董事长/[是|系]{S}[的|]董事长",
    ("school", "校长"): "[现任|曾任|任|担任|出任]{S}[的|]校长/{S}校长",
}  # fmt: skip
MAKERS = tuple(
    "导演 编剧 主演 制片人 作者 歌手 作词 作曲 主持人 嘉宾 创始人 董事长 校长 父亲 母亲 丈夫 妻子".split()
)

# What people and things do that is no relation: plain clauses, next to the random ones.
_PLAIN = tuple(
    "深受观众喜爱 在圈内小有名气 一时传为佳话 获得一致好评 吸引了不少年轻人 今年刚满三十岁 身体一直很好 拿下了年度大奖 忙得不可开交 把店铺交给了弟弟 "
    "没有回应 笑着摇了摇头 在老家盖了房子 一夜成名 手里只剩两百块钱 说得很实在 会唱几句京戏 拿到了驾照 白天睡觉晚上写稿 真有两下子 太累了 终于松了口气 "
    "先后换过三份工作 先到后厨看了看 上个月刚搬家 下岗后开起了小店 一手毛笔字写得漂亮 一连三天没有出门 也跟着沾了光 则留在家里看门 则负责打杂 "
    "把钱都捐了出去 从不接受采访 从小就喜欢画画 在台下坐了一整晚 到场的人不多 到了年底才收工 对此很满意 对自己要求很严 给大家鞠了一躬 跟邻居聊起往事 "
    "和老朋友喝了顿酒 将在月底再来一次 将继续留任 仍然每天跑步 仍没有下落 竟然没人认识 居然只用了两周 果然名不虚传 反倒成了笑话 反响热烈 评价两极分化 "
    "票卖得很快 收视率一般 销量破了纪录 网上骂声一片 读者来信很多 口碑越来越好 值得一看 让人看得直流眼泪 剧情有点拖沓 文字干净利落 旋律好记 "
    "结尾没有看懂 第二遍才看出味道 周末会再放一次 门口排起了长队 门票不便宜 人山人海 晚上很热闹 游客络绎不绝 冬天也不冷 夏天蚊子多 交通方便 空气很好 "
    "生意做到了国外 今年扩招两百人 去年亏损不小 刚换了新门牌 刚刚通过验收 成立时只有五个人 曾经差点倒闭 员工都很年轻 产品卖得不错 服务态度好 "
    "为家乡修了一条路 为此等了十年 被人误会过很多次 被观众记住 受到网友好评 听得直点头 听众很多 写得也好 演得不错 唱哭了全场 跑得最快 跳得也高 "
    "长得像外国人 长年在外 老了以后爱种花 老家在乡下 高高兴兴地回去了 多次获奖 多年没有联系 少有人知 大病一场 大方承认 小时候很调皮 小有成就 "
    "马上就要退休 马不停蹄地赶路 水性很好 花了不少心思 花钱大手大脚 石头一样不说话 林子里养鸡 方才离开 常年住校 常来这里喝茶 温和地笑了 安静地坐着 "
    "文章发在校报上 文笔老练 金口难开 万般无奈 万里迢迢赶来 成天泡在图书馆 成绩一直很好 于是改了主意 于第二天离开 任劳任怨 任务完成得很好 "
    "平时话不多 平均每天写三千字 明天还要上班 明白了一切 明年再说 东西丢了一半 东奔西走 南下打工 北上求学 西装笔挺 向来守时 向大家道歉 "
    "时常回来看看 时间不够用 和气生财 和以前不一样了 包揽了全部奖项 包饺子很拿手 国内外都有名 国家级的水平 力气很大 力争第一 "
    "主持公道 主要靠自学 导致大家误会 演出结束后才知道 编得不像 唱功扎实 作为嘉许得了奖杯 作了一首小诗 词不达意 曲折离奇 号召大家捐款 字写得小 "
    "父母都是农民 母校给发了奖状 丈量土地 妻儿都在身边 祖上很穷 出生那天下着大雨 出版后才改名 毕业那年去支教 首次公开露面 首先登场".split()
)


def job(rng: Random) -> str:
    """Draw what a person is: a common occupation, or any noun of the dictionary that ends like one."""
    noun = rng.choice(JOBS if draw.chance(rng, 0.5) else words.endings("n", _JOB_ENDINGS, 2))
    while noun in _RELATED:
        noun = rng.choice(JOBS)
    return (rng.choice(_JOB_PREFIXES) if draw.chance(rng, 0.15) else "") + noun


def plain_job(rng: Random) -> str:
    """Draw what a person is, but nothing that says of somebody in one role that it is another."""
    while (title := job(rng)).endswith(_ROLES):
        pass
    return title


def _word(*tags: str) -> Filler:
    return lambda rng: rng.choice(words.pool(rng.choice(tags)))


def free_clause(rng: Random) -> str:
    """Draw a clause of unrelated words, or a plain one, for company."""
    if draw.chance(rng, 0.4):
        return rng.choice(_PLAIN)

    def noun() -> str:
        # the name of a relation alone states nothing
        return rng.choice(tuple(TYPES) if draw.chance(rng, 0.08) else words.pool("n"))

    def verb() -> str:
        return rng.choice(words.pool("v"))

    return rng.choice(
        (
            lambda: rng.choice(words.pool("i")),
            lambda: verb() + noun(),
            lambda: (
                rng.choice(("也", "还", "正", "已", "却", "就", "仍", "最终", "从此", "不断"))
                + verb()
                + noun()
            ),
            lambda: noun() + rng.choice(words.pool("a")),
            lambda: rng.choice(("对", "为", "在", "把", "给", "向", "以", "从")) + noun() + verb(),
            lambda: rng.choice(_TIMES) + verb() + "了" + noun(),
            lambda: verb() + rng.choice(words.pool("a")) + "的" + noun(),
            lambda: (
                rng.choice(("这是", "真是", "不是", "成为", "作为", "如同"))
                + rng.choice(words.pool("a"))
                + "的"
                + noun()
            ),
        )
    )()


FILLERS: dict[str, tuple[str, Filler]] = {
    "year": ("Date", quantities.year), "date": ("Date", quantities.date), "person": ("人物", persons.person),
    "title": ("作品", titles.title), "place": ("地点", places.place), "place2": ("", places.county),
    "org": ("机构", organisations.company), "org2": ("机构", organisations.institution), "school": ("学校", organisations.school),
    "station": ("", lambda rng: rng.choice((places.province(rng).removesuffix("省") + "卫视", "中央电视台", "央视一套", "优酷", "湖南卫视"))),
    "scenery": ("景点", places.scenery), "money": ("Number", quantities.money), "brand": ("", lambda rng: draw.any_characters(rng, 2, 4)),
    "n": ("", lambda rng: str(rng.randint(1, 12))), "num": ("", lambda rng: quantities.number(rng, 10, 3000)),
    "noun": ("", _word("n")), "verb": ("", _word("v")), "adj": ("", _word("a")), "idiom": ("", _word("i")),
    "word": ("", free_clause), "job": ("", job), "genre": ("", lambda rng: rng.choice(GENRES)),
    "award": ("奖项", lambda rng: rng.choice(facts.AWARDS)), "latin": ("", species.latin), "nick": ("", persons.stage_name),
    "courtesy": ("", persons.courtesy_name), "letter": ("", lambda rng: rng.choice(("A", "B", "O", "AB"))),
    "major": (
        "",
        lambda rng: draw.one_of(rng, "中文 历史 物理 新闻 法律 数学 外语 建筑 表演 导演")
        if draw.chance(rng, 0.4)
        else organisations.discipline(rng).removesuffix("专业"),
    ),
    "childword": ("", lambda rng: rng.choice(("儿子", "女儿", "长子", "次子", "长女", "次女", "独子", "爱女", "小儿子", "大女儿", "三子"))),
    "family": ("", lambda rng: draw.any_characters(rng, 1, 2, 2500) + "科"), "genus": ("", lambda rng: draw.any_characters(rng, 1, 3, 2500) + "属"),
    "phylum": ("", lambda rng: rng.choice(("昆虫", "哺乳", "鸟", "爬行", "两栖", "双子叶植物", "辐鳍鱼", "腹足", "软甲", "单子叶植物", "蛛形"))),
}  # fmt: skip

"""Entities by type: persons, titles, organisations, places, dates, quantities, all drawn from a seeded `Random`."""

from __future__ import annotations

from random import Random

from corpus import facts, words


def chance(rng: Random, probability: float) -> bool:
    """Return True with the given probability."""
    return rng.random() < probability


def skewed(rng: Random, items: tuple[str, ...]) -> str:
    """Draw an item, earlier ones more often."""
    return items[int(len(items) * rng.random() ** 2.2)]


def any_characters(rng: Random, low: int, high: int, limit: int = 3800) -> str:
    """Draw a run of unrelated characters, so that the model learns to copy what means nothing."""
    pool = words.characters(limit)
    return "".join(rng.choice(pool) for _ in range(rng.randint(low, high)))


# ---- persons ----


def chinese_name(rng: Random) -> str:
    """Draw a Chinese personal name of two to four characters."""
    surname = rng.choice(facts.COMPOUND_SURNAMES) if chance(rng, 0.03) else skewed(rng, facts.SURNAMES)
    length = 1 if chance(rng, 0.3) else 2
    if chance(rng, 0.3):
        return surname + any_characters(rng, length, length, 2500)
    return surname + "".join(rng.choice(facts.GIVEN) for _ in range(length))


def foreign_name(rng: Random) -> str:
    """Draw a transliterated foreign or minority name."""
    pool = words.pool("nrt")
    parts = [rng.choice(pool) for _ in range(rng.choice((1, 2, 2, 2, 3)))]
    if chance(rng, 0.06):
        parts.insert(rng.randrange(len(parts) + 1), rng.choice("ABCDEFGHJKLMPRSTW") + ("." if chance(rng, 0.5) else ""))
    return rng.choice("·····•・-").join(parts)


def japanese_name(rng: Random) -> str:
    """Draw a Japanese name of three to five characters."""
    first = rng.choice("山田中村佐藤木井上松本高桥石川小林清水森池内原野大岛前冈部长谷渡边坂口西东北宫崎藤伊桥户泽")
    second = rng.choice("田川村本木山井口野原岛崎泽藤谷边上下桥森林水内部")
    return first + second + any_characters(rng, 1, 1, 1200) + rng.choice(("子", "郎", "美", "一", "介", "也", "太", "人", "香", ""))


def stage_name(rng: Random) -> str:
    """Draw a pen or stage name, such as those of web writers and singers."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(words.pool(rng.choice(("n", "v", "a", "i", "t", "nz")))) + (
            rng.choice(words.pool("n")) if chance(rng, 0.35) else ""
        )
    if kind < 0.6:
        return rng.choice(facts.NICKNAME_PARTS) + rng.choice(words.pool(rng.choice(("n", "v", "a"))))
    if kind < 0.85:
        return any_characters(rng, 2, 4)
    if kind < 0.95:
        return rng.choice(words.pool("nr"))
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7))).title()


def person(rng: Random) -> str:
    """Draw any person's name."""
    kind = rng.random()
    if kind < 0.68:
        return chinese_name(rng)
    if kind < 0.8:
        return foreign_name(rng)
    if kind < 0.84:
        return japanese_name(rng)
    if kind < 0.92:
        return stage_name(rng)
    return rng.choice(words.pool("nr"))


# ---- titles ----


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
        lambda: rng.choice(("我", "你", "他", "我们", "一个人", "亲爱的", "不", "别", "请", "再见", "重生之", "最后的", "爱", "寻找"))
        + rng.choice((verb(), noun(), adjective())),
        lambda: noun() + rng.choice(("与", "和", "之", "·", "·", "在", "不")) + rng.choice((noun(), verb())),
        lambda: verb() + verb(),
        lambda: noun() + verb(),
        lambda: adjective() + verb() + noun(),
        lambda: rng.choice("一二三四五六七八九十百千两半") + rng.choice("个只位座条朵片颗次天年里种") + rng.choice((noun(), adjective())),
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
        ("2", "3", "第二部", "第一季", "第三季", "之" + rng.choice(words.pool("n")), "·" + rng.choice(words.pool("n")), "Ⅱ",
         "（上）", "(下)", "前传", "II", ":" + rng.choice(words.pool("n")), "：" + _title_phrase(rng), " " + _title_phrase(rng))
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
    parts = ("重生", "穿越", "都市", "武", "神", "仙", "魔", "天", "极品", "绝世", "无敌", "修真", "末世", "异界", "总裁", "王妃", "校园", "帝", "星际")
    middle = rng.choice((_title_phrase(rng), any_characters(rng, 2, 4)))
    text = rng.choice(parts) + rng.choice(("", "之", "")) + middle
    return text + rng.choice(("", "", "录", "传", "记", "诀", "系统", "王", "至尊", "天下", "传奇", "传说", "的" + rng.choice(words.pool("n"))))


def book_title(rng: Random) -> str:
    """Draw the title of a printed book, textbooks with volumes and series included."""
    if chance(rng, 0.4):
        return title(rng)
    subject = "".join(rng.choice(words.pool(rng.choice(("n", "n", "v", "nz")))) for _ in range(rng.randint(1, 3)))
    kind = ("教程", "原理", "研究", "概论", "入门", "手册", "指南", "实务", "导论", "史", "全集", "选集", "大全", "学", "论", "技术", "理论与实践",
            "案例分析", "基础", "百科", "漫谈", "札记", "年鉴", "习题集", "辅导", "词典", "精要", "新编", "读本", "设计", "")
    text = rng.choice(("", "", "", "中国", "现代", "新编", "实用", "大学", "图解", "世界", "当代", "高等", "儿童", str(rng.randint(1990, 2022))))
    text += subject + rng.choice(kind)
    if chance(rng, 0.25):
        text += rng.choice(("（上册）", "（第2版）", "(第三版)", "（修订版）", "(套装全2册)", "：" + subject[:2] + rng.choice(words.pool("n")),
                            "·" + rng.choice(words.pool("n")) + "卷", "—" + _title_phrase(rng), "（修订本）", "（附光盘）", "（全彩版）", "2",
                            "(英文版)", "（上下）", "——" + rng.choice(words.pool("n")) + rng.choice(words.pool("v"))))
    return text


# ---- places ----


def province(rng: Random) -> str:
    """Draw a province, with or without its suffix."""
    name, suffix, _ = rng.choice(facts.PROVINCES)
    return name + (suffix if chance(rng, 0.5) else "")


def city(rng: Random) -> str:
    """Draw a Chinese city, with or without its suffix."""
    _, suffix, cities = rng.choice(facts.PROVINCES)
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
        return any_characters(rng, 1, 3, 2500) + rng.choice(("镇", "乡", "村", "街道", "县", "自治县", "社区", "岛"))
    if kind < 0.8:
        return rng.choice(words.endings("ns", ("镇", "乡", "村", "州", "岛"), 2))
    return rng.choice(words.pool("nrt")) + rng.choice(("州", "省", "市", "郡", "", "区", "大区", "县"))


def scenery(rng: Random) -> str:
    """Draw a mountain, lake, park, temple or museum."""
    endings = ("山", "寺", "公园", "湖", "风景区", "古镇", "博物馆", "森林公园", "峡谷", "瀑布", "塔", "故居", "动物园", "植物园", "温泉", "广场", "庙", "桥", "水库", "湿地公园", "大厦", "陵")
    head = any_characters(rng, 1, 3, 2800) if chance(rng, 0.5) else rng.choice(words.pool(rng.choice(("n", "ns"))))
    return head + rng.choice(endings)


def peak(rng: Random) -> str:
    """Draw a mountain or another point that has a height."""
    head = rng.choice((any_characters(rng, 1, 3, 2800), rng.choice(words.pool("nrt")), rng.choice(words.pool("ns"))))
    return head + rng.choice(("山", "峰", "岭", "村", "雪山", "高原", "镇", "火山", "顶", "坪", "湖"))


# ---- organisations ----


def _brand(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return any_characters(rng, 2, 3, 2800)
    if kind < 0.7:
        return rng.choice(words.pool("n"))
    if kind < 0.85:
        return rng.choice(words.pool("nrt"))
    return rng.choice(words.pool("a")) + any_characters(rng, 0, 1, 1500)


_INDUSTRIES = tuple(
    "科技 文化传媒 影视 实业 贸易 置业 房地产 生物科技 医药 网络科技 信息技术 投资 电子 食品 服饰 汽车 物流 建材 化工 教育咨询 广告 餐饮管理 "
    "环保 新能源 机械 印刷 装饰工程 旅游 农业 珠宝 软件 通信 半导体 金融 保险 证券 纺织 家居 电气 航空 钢铁 陶瓷 酒业 乳业 玩具".split()
)
_COMPANY_ENDINGS = ("有限公司", "有限公司", "股份有限公司", "集团", "集团有限公司", "公司", "有限责任公司", "控股有限公司", "厂")


def company(rng: Random) -> str:
    """Draw a company, from the full registered name to a bare brand."""
    kind = rng.random()
    if kind < 0.55:
        return rng.choice((city(rng), city(rng), province(rng), "")) + _brand(rng) + rng.choice(_INDUSTRIES) + rng.choice(_COMPANY_ENDINGS)
    if kind < 0.85:
        return _brand(rng) + rng.choice(("集团", "公司", "科技", "", "", "", "汽车", "银行", "酒店", "电器", "股份", "地产", "网", "超市"))
    return rng.choice(facts.ROMAN_WORDS) + rng.choice(("", "", " Group", "公司", "Tech"))


def film_company(rng: Random) -> str:
    """Draw a film producer, a broadcaster or a video site."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(("", "", city(rng), province(rng))) + _brand(rng) + rng.choice(
            ("影业", "影视", "传媒", "娱乐", "影视文化有限公司", "影业有限公司", "影视传媒有限公司", "文化传播有限公司", "电影制片厂", "电影集团",
             "国际传媒", "影视股份有限公司", "动漫有限公司", "影视制作有限公司", "文化传媒", "影业集团", "工作室"))
    if kind < 0.7:
        return province(rng) + rng.choice(("卫视", "电影制片厂", "电视台", "广播电视台", "影视集团"))
    return rng.choice(("爱奇艺", "优酷", "腾讯视频", "腾讯影业", "华谊兄弟", "芒果TV", "阿里影业", "中央电视台", "中影股份", "搜狐视频", "乐视影业", "万达影视", "光线传媒", "企鹅影视"))


def publisher(rng: Random) -> str:
    """Draw a publishing house."""
    fields = ("人民", "文艺", "美术", "科学技术", "教育", "少年儿童", "大学", "古籍", "音乐", "经济", "法律", "青年", "工业", "农业", "医药科技",
              "电子工业", "邮电", "世界图书", "文史", "画报", "财政经济", "交通", "妇女", "旅游", "华侨", "宗教文化", "知识", "中信", "作家", "商务", "")
    kind = rng.random()
    if kind < 0.5:
        return province(rng) + rng.choice(fields) + "出版社"
    if kind < 0.75:
        return rng.choice(("中国", "人民", "新", "东方", "世界", "北京", "科学", "机械", "化学", "国防")) + rng.choice(fields) + "出版社"
    if kind < 0.85:
        return city(rng).removesuffix("市") + rng.choice(("大学", "师范大学", "理工大学", "交通大学")) + "出版社"
    return _brand(rng) + rng.choice(("出版社", "书店", "书局", "出版公司", "出版集团", "文化", "出版有限公司"))


def school(rng: Random) -> str:
    """Draw a university, college or school."""
    fields = ("师范", "理工", "医科", "农业", "财经", "交通", "科技", "工业", "外国语", "政法", "林业", "体育", "工程", "海洋", "民族", "中医药", "航空航天", "邮电", "音乐", "美术", "")
    endings = ("大学", "大学", "大学", "学院", "学院", "专科学校", "职业技术学院")
    head = rng.choice((city(rng).removesuffix("市"), city(rng).removesuffix("市"), province(rng).removesuffix("省"),
                       rng.choice(("中央", "华东", "华中", "西南", "东北", "北方", "中国", "国立", "南方", "西北", "华南")), _brand(rng), rng.choice(words.pool("nrt"))))
    kind = rng.random()
    if kind < 0.72:
        text = head + rng.choice(fields) + rng.choice(endings)
        return text + (rng.choice(("中文系", "法学院", "医学院", "戏剧系", "经济管理学院", "数学系", "研究生院")) if chance(rng, 0.08) else "")
    if kind < 0.9:
        return head + rng.choice(("第一中学", "中学", "一中", "实验小学", "高级中学", "外国语学校", "第二小学", "附中", "师范学校", "女子中学"))
    return rng.choice(("清华", "北大", "复旦大学", "浙江大学", "哈佛大学", "耶鲁大学", "剑桥大学", "牛津大学", "北京电影学院", "中央戏剧学院", "上海戏剧学院", "东京大学",
                       "南开大学", "武汉大学", "中山大学", "四川大学", "西安交通大学", "同济大学", "黄埔军校", "麻省理工学院"))


def institution(rng: Random) -> str:
    """Draw an institution that is no company: association, hospital, club, institute, school."""
    endings = ("协会", "医院", "研究所", "研究院", "俱乐部", "基金会", "学会", "委员会", "博物馆", "图书馆", "中心", "联合会", "商会", "乐团", "剧院", "研究会", "银行", "足球俱乐部", "实验室", "联盟")
    if chance(rng, 0.25):
        return school(rng)
    head = rng.choice((city(rng), province(rng), "中国", "国际", "全国", "世界", _brand(rng)))
    return head + rng.choice(("", _brand(rng), rng.choice(words.pool("n")), rng.choice(_INDUSTRIES))) + rng.choice(endings)


# ---- other names ----


def species(rng: Random) -> str:
    """Draw an animal, plant, or family of them."""
    endings = ("蛾", "蝶", "鱼", "螺", "草", "树", "鸟", "虾", "蛙", "龟", "蛇", "蟹", "兰", "菊", "花", "虫", "甲", "蚁", "蝇", "蜂", "猴", "鼠", "科", "科", "属", "松", "杉", "藤", "贝", "鹟", "雀", "蝽", "蛛", "竹", "菇", "柳", "莓")
    head = any_characters(rng, 1, 3, 3000)
    if chance(rng, 0.35):
        head = rng.choice(("红", "黑", "白", "长", "短", "大", "小", "黄", "斑", "花", "条纹", "金", "银", "云南", "中华", "台湾", "四川", "毛", "细", "宽")) + head
    return head + rng.choice(endings)


def order(rng: Random) -> str:
    """Draw a biological order."""
    stem = any_characters(rng, 1, 2, 2500) if chance(rng, 0.2) else rng.choice(facts.ORDER_STEMS)
    return stem + "目"


def latin(rng: Random) -> str:
    """Draw something that looks like a Latin species name."""
    syllables = ("ste", "pha", "ni", "tis", "chi", "ne", "sis", "oe", "di", "po", "da", "ru", "bra", "al", "ba", "ma", "cu", "la", "ta", "vi", "ri", "dis", "or", "ca", "le", "us", "um", "na")

    def make(low: int, high: int) -> str:
        return "".join(rng.choice(syllables) for _ in range(rng.randint(low, high)))

    return make(2, 4).title() + (" " + make(2, 4) if chance(rng, 0.7) else "")


def discipline(rng: Random) -> str:
    """Draw a field of study."""
    head = rng.choice(words.pool("n")) + (rng.choice(words.pool("n")) if chance(rng, 0.4) else "")
    return head + rng.choice(("工程", "学", "技术", "管理", "设计", "与应用", "专业", "科学", "教育", "自动化", "工艺", "分析"))


def short_name(rng: Random, full: str) -> str:
    """Make a short name out of the characters of a full one."""
    size = min(len(full), rng.choice((2, 2, 2, 3, 3, 4)))
    picks = sorted(rng.sample(range(len(full)), size))
    return "".join(full[i] for i in picks)


def courtesy_name(rng: Random) -> str:
    """Draw a courtesy name (字)."""
    return rng.choice(("子", "伯", "仲", "叔", "季", "文", "元", "公", "德", "士", "")) + any_characters(rng, 1, 2 if chance(rng, 0.5) else 1, 2500)


def art_name(rng: Random) -> str:
    """Draw an art name (号)."""
    return any_characters(rng, 1, 2, 2500) + rng.choice(("居士", "山人", "先生", "道人", "老人", "斋主人", "翁", "子", "主人", "散人", "", "庵", "斋", "轩", "堂"))


# ---- dates and quantities ----


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
        return "".join(_DIGITS[int(c)] for c in str(y)) + "年" + (_chinese_number(m) + "月" if chance(rng, 0.6) else "")
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
    return approximate + number(rng, 1, 9000) + rng.choice(("平方公里", "平方米", "亩", "万亩", "公顷", "平方千米", "万平方米", "km²", "余亩", "多平方米"))


def height(rng: Random) -> str:
    """Draw a person's height."""
    centimetres = rng.randint(140, 228)
    return rng.choice((f"{centimetres}cm", f"{centimetres}厘米", f"{centimetres / 100:.2f}米", f"{centimetres}公分", f"{centimetres}CM",
                       f"{centimetres // 100}米{centimetres % 100}", f"{centimetres / 100:.2f}m", f"{centimetres} cm"))


def altitude(rng: Random) -> str:
    """Draw a height above the sea."""
    return number(rng, 20, 8800) + rng.choice(("米", "米", "米", "公尺", "多米", "m"))


def people(rng: Random) -> str:
    """Draw a number of inhabitants."""
    return number(rng, 1, 90000) + rng.choice(("人", "人", "万人", "万", "余人", "万余人"))


def money(rng: Random) -> str:
    """Draw a sum of money."""
    return number(rng, 1, 9000) + rng.choice(("万元", "万元人民币", "亿元", "万", "亿", "万美元", "亿美元", "元", "万人民币"))


def postcode(rng: Random) -> str:
    """Draw a six-digit postcode."""
    return f"{rng.randint(10000, 860000):06d}"


def subject_code(rng: Random) -> str:
    """Draw the code of a field of study."""
    return f"{rng.randint(10000, 850000):06d}" + rng.choice(("", "", "", "K", "T"))

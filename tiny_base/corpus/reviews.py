"""Reviews of goods and services and lines of news, with what they are about, and whether a review is positive."""

# ruff: noqa: E501, SIM905 (lists, one entry after the other)

from __future__ import annotations

from random import Random

from tiny_base.corpus import draw, words
from tiny_base.corpus.grammar import choose

_ASPECTS = {
    "衣服": "面料 做工 款式 颜色 尺码 版型 袖子 裤子 裙子 毛衣 线头 外套 衬衫 拉链 鞋子 布料",
    "水果": "苹果 橙子 葡萄 果肉 甜度 水分 个头 草莓 香蕉 芒果 果皮 梨 车厘子 荔枝 猕猴桃",
    "酒店": "房间 前台 早餐 床 隔音 大堂 浴室 服务员 地理位置 空调 卫生间 毛巾 退房 床单 宾馆",
    "手机": "屏幕 电池 信号 拍照 系统 充电 待机 手感 摄像头 内存 通话 机身 铃声 指纹解锁",
    "电脑": "键盘 硬盘 显卡 散热 开机 笔记本 鼠标 风扇 主板 驱动 预装系统 触摸板 显示器 配置",
    "书籍": "内容 纸张 印刷 作者 文字 插图 故事 翻译 章节 排版 装订 书 情节 封面",
    "餐馆": "味道 上菜 服务 环境 价格 菜品 排队 口味 火锅 分量 包间 套餐 厨师 米饭 外卖",
    "洗发水": "洗发水 泡沫 去屑 香味 头发 发质 头皮 瓶子 洗完 柔顺度",
    "蒙牛": "牛奶 酸奶 奶味 包装 奶粉 口感 日期 纯奶 奶",
    "热水器": "热水器 出水 安装 水温 加热 水压 师傅 插头 容量",
}
_GOOD = "很好 不错 非常满意 挺舒服的 超出预期 没得说 很喜欢 值得推荐 物有所值 特别棒 相当好 很漂亮 完美 一流 很方便 很快 好用 赞".split()
_BAD = "太差了 很糟糕 让人失望 不行 有问题 一般般 不值这个价 太慢 差劲 坏了 很难受 不敢恭维 不会再买了 有异味 做得粗糙 令人生气 垃圾 不满意".split()
_GOOD_END = "以后还会再来 推荐购买 五星好评 朋友也说好 下次还买 给力 大家可以放心 性价比高".split()
_BAD_END = "以后再也不来了 要求退货 大家别买 后悔了 客服也不理人 差评 浪费钱 退款中".split()
TOPICS = tuple(_ASPECTS)
_NEWS = {
    "科技": "芯片 算法 卫星 机器人 人工智能 火箭 无人机 软件 新款手机 操作系统 数据中心 量子计算机 传感器 探测器 空间站 浏览器 云计算 基因 实验室 专利",
    "财经": "股价 利率 央行 汇率 营收 净利润 上市公司 债券 基金 贷款 房价 通胀 融资 股市 关税 出口额 银行 证券 油价 财报 分红",
    "体育": "决赛 冠军 主场 球队 进球 比分 联赛 教练 世界杯 金牌 马拉松 小组赛 三分球 乒乓球 决胜局 门将 田径 奥运会 转会 客队",
    "娱乐": "演唱会 新片 影院 票房 综艺 粉丝 红毯 导演 首映 剧组 偶像 专辑 杀青 影后 明星 绯闻 电视剧 颁奖礼 歌手 预告片",
    "教育": "高考 中小学 招生 教材 学生 课程 大学 校园 老师 学费 考研 幼儿园 分数线 课后 作业 录取 宿舍 奖学金 义务教育 班级",
    "健康": "医院 疫苗 患者 血压 睡眠 医生 门诊 流感 手术 药品 体检 病毒 糖尿病 营养 护士 减肥 视力 疾病 医保 康复",
    "天气": "暴雨 台风 气温 降雪 冷空气 大风 预警 雾霾 晴天 高温 雷阵雨 寒潮 降温 湿度 沙尘 气象台 冰雹 多云 零下 洪水",
}
NEWS_TOPICS = tuple(_NEWS)


def news(rng: Random) -> tuple[str, str]:
    """Write a line of news.

    Returns:
        The text, and its topic (one of `NEWS_TOPICS`).
    """
    topic = rng.choice(NEWS_TOPICS)
    own = _NEWS[topic].split()

    def clause() -> str:
        noun, verb, other = rng.choice(own), rng.choice(words.pool("v")), rng.choice(words.pool("n"))
        return rng.choice(
            (
                f"{rng.choice(words.pool('ns'))}{noun}{verb}{other}",
                f"{noun}{rng.choice(('将', '已', '正', '再次', '今起', '全面', '首次'))}{verb}",
                f"{other}{verb}{noun}",
                f"{noun}{rng.choice(('上涨', '下降', '超过', '达到', '增加了'))}{rng.randint(2, 90)}{rng.choice(('%', '个百分点', '倍', '万'))}",
                f"{noun}和{rng.choice(own)}{verb}",
            )
        )

    text = "，".join(clause() for _ in range(rng.randint(1, 3)))
    return text + rng.choice(("。", "", "！")), topic


def review(rng: Random) -> tuple[str, str, bool]:
    """Write a review.

    Returns:
        The text, what it is about (one of `TOPICS`), whether it is positive.
    """
    topic = rng.choice(TOPICS)
    good = draw.chance(rng, 0.5)
    parts = []
    for _ in range(rng.randint(1, 4)):
        judgement = rng.choice(_GOOD if good else _BAD)
        parts.append(
            rng.choice(("", "", "这个", "店里的", "感觉", "就是", "总体来说"))
            + rng.choice(_ASPECTS[topic].split())
            + judgement
        )
    if draw.chance(rng, 0.3):
        parts.insert(
            rng.randrange(len(parts) + 1),
            choose(rng, "[昨天到的货|住了一晚|朋友推荐的|第{}次买了|用了一周]").replace(
                "{}", str(rng.randint(2, 5))
            ),
        )
    if draw.chance(rng, 0.2):
        parts.append(rng.choice(words.pool("v")) + rng.choice(words.pool("n")))
    if draw.chance(rng, 0.4):
        parts.append(rng.choice(_GOOD_END if good else _BAD_END))
    return (
        rng.choice(("，", "，", "。", " ", "！")).join(parts) + rng.choice(("。", "！", "", "~")),
        topic,
        good,
    )

"""Sentences with their triplets: plans that compose clauses about one or more records, registers, and noise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from corpus import facts, names, phrases_other, phrases_people, phrases_works, words
from corpus.grammar import Filler, Kind, Teller, choose, parse_kinds
from corpus.records import KINDS, draw_record
from corpus.schema import TYPES
from utils.triplets import Triplet

_FAMILY = {"子": ("", ""), "父": ("", ""), "母": ("", "")}
_JOBS = tuple(
    "演员 导演 歌手 作家 诗人 画家 教授 医生 律师 记者 企业家 政治家 物理学家 数学家 编剧 主持人 模特 运动员 球员 教练 军人 将军 设计师 工程师 摄影师 "
    "作曲家 钢琴家 书法家 翻译家 历史学家 经济学家 化学家 舞蹈家 漫画家 评论家 商人 厨师 警察 飞行员 博士 研究员 院士 音乐人 制作人 总裁 网络红人".split()
)
_GENRES = tuple(
    "爱情片 动作片 喜剧片 悬疑片 科幻片 战争片 古装剧 都市剧 谍战剧 家庭伦理剧 青春剧 武侠剧 偶像剧 恐怖片 惊悚片 文艺片 历史剧 励志剧 动画片 警匪片 "
    "情景喜剧 年代剧 农村题材电视剧 宫廷剧 奇幻片 犯罪片 传记片 剧情片 言情剧 抗战剧 商战剧 公路片 冒险片 武侠电影 爱情喜剧 古装玄幻剧".split()
)
_CLASSIFIERS = {
    "film": ("一部", "一部", "部", ""), "show": ("一档", "一档", "一个", ""), "book": ("一本", "一部", "一册", ""), "novel": ("一部", "一本", ""),
    "song": ("一首", "一首", "一支", ""), "person": ("一位", "一名", "一个", ""), "history": ("一位", "一代", "著名", ""),
    "company": ("一家", "一家", "一个", ""), "institution": ("一所", "一家", "一个", ""), "school": ("一所", "一所", ""),
}  # fmt: skip
# What a person did, by the kind of work and the relation it stands for: clauses with {S} for the works.
_DEEDS = {
    ("film", "主演"): "[主演|出演|参演|领衔主演][了|过|][电影|电视剧|]{S}[等作品|等影视作品|]/[在|][{year}|][电影|电视剧|]{S}中[担任主演|饰演主角|担任女主角]/[影视|主演]作品有{S}/[代表作|代表作品][有|为][电影|电视剧]{S}/[因|凭]{S}[走红|成名|而被熟知]",
    ("film", "导演"): "[执导|导演|拍摄][了|过|][电影|电视剧|]{S}/[导演作品|执导作品|导演代表作]有{S}/[担任|是][电影|]{S}的导演/[凭|凭借][执导|][处女作|]{S}[获得|拿下]最佳导演",
    ("film", "编剧"): "[编剧作品|编剧代表作][有|为]{S}/[担任|是]{S}的编剧/[为|给]{S}[编剧|撰写剧本]/编剧[了|的作品有]{S}",
    ("book", "作者"): "[著有|出版有|写有|创作了|写了|发表了|编著有|主编][长篇小说|诗集|散文集|专著|]{S}[等|等书|]/[代表作|著作|主要作品|作品|主要著作][有|为|包括]{S}/[出版|发表][了|][小说|专著|]{S}/是{S}的作者",
    ("novel", "作者"): "[代表作|作品|代表作品|主要作品][有|为]{S}/[著有|创作了|完结作品有|连载过][网络小说|小说|]{S}/是[网络小说|]{S}的作者",
    ("song", "歌手"): "[演唱|唱过|演唱了|发行|推出|推出了][歌曲|单曲|]{S}/[代表歌曲|代表作|成名曲|主打歌][有|为|是]{S}/[凭|因|以]{S}[走红|一炮而红|广为人知]",
    ("song", "作曲"): "[作曲|谱曲][作品有|了|的歌曲有]{S}/[为|给]{S}[作曲|谱曲]/是{S}的作曲者",
    ("song", "作词"): "[作词|填词][作品有|了|的歌曲有]{S}/[为|给]{S}[作词|填词]/是{S}的词作者",
    ("show", "主持人"): "[主持|主持过|主持了][节目|综艺节目|]{S}/[现|曾|]任{S}主持人/[担任|是]{S}的主持人",
    ("company", "创始人"): "[创办|创立|创建|联合创办][了|]{S}/[是|系|为]{S}[的|]创始人/{S}创始人",
    ("company", "董事长"): "[现任|曾任|任|担任|出任]{S}[的|]董事长/{S}董事长/[是|系]{S}[的|]董事长",
    ("school", "校长"): "[现任|曾任|任|担任|出任]{S}[的|]校长/{S}校长",
}  # fmt: skip
_MAKERS = ("导演", "编剧", "作者", "歌手", "作曲", "主持人", "创始人", "董事长", "校长")


def _word(*tags: str) -> Filler:
    return lambda rng: rng.choice(words.pool(rng.choice(tags)))


def _free_clause(rng: Random) -> str:
    """Draw a clause of unrelated words, for company."""

    def noun() -> str:
        return rng.choice(words.pool("n"))

    def verb() -> str:
        return rng.choice(words.pool("v"))

    return rng.choice(
        (
            lambda: rng.choice(words.pool("i")),
            lambda: verb() + noun(),
            lambda: rng.choice(("也", "还", "正", "已", "却", "就", "仍", "最终", "从此", "不断")) + verb() + noun(),
            lambda: noun() + rng.choice(words.pool("a")),
            lambda: rng.choice(("对", "为", "在", "把", "给", "向", "以", "从")) + noun() + verb(),
            lambda: rng.choice(words.pool("t")) + verb() + "了" + noun(),
            lambda: verb() + rng.choice(words.pool("a")) + "的" + noun(),
            lambda: rng.choice(("这是", "真是", "不是", "成为", "作为", "如同")) + rng.choice(words.pool("a")) + "的" + noun(),
        )
    )()


FILLERS: dict[str, tuple[str, Filler]] = {
    "year": ("Date", names.year), "date": ("Date", names.date), "person": ("人物", names.person),
    "title": ("作品", names.title), "place": ("地点", names.place), "place2": ("", names.county),
    "org": ("机构", names.company), "org2": ("机构", names.institution), "school": ("学校", names.school),
    "station": ("", lambda rng: rng.choice((names.province(rng).removesuffix("省") + "卫视", "中央电视台", "央视一套", "优酷", "湖南卫视"))),
    "scenery": ("景点", names.scenery), "money": ("Number", names.money), "brand": ("", lambda rng: names.any_characters(rng, 2, 4)),
    "n": ("", lambda rng: str(rng.randint(1, 12))), "num": ("", lambda rng: names.number(rng, 10, 3000)),
    "noun": ("", _word("n")), "verb": ("", _word("v")), "adj": ("", _word("a")), "idiom": ("", _word("i")),
    "word": ("", _free_clause), "job": ("", lambda rng: rng.choice(_JOBS)), "genre": ("", lambda rng: rng.choice(_GENRES)),
    "award": ("奖项", lambda rng: rng.choice(facts.AWARDS)), "latin": ("", names.latin), "nick": ("", names.stage_name),
    "courtesy": ("", names.courtesy_name), "letter": ("", lambda rng: rng.choice(("A", "B", "O", "AB"))),
    "major": ("", lambda rng: names.discipline(rng).removesuffix("专业")),
    "childword": ("", lambda rng: rng.choice(("儿子", "女儿", "长子", "次子", "长女", "次女", "独子", "爱女", "小儿子", "大女儿", "三子"))),
    "family": ("", lambda rng: names.any_characters(rng, 1, 2, 2500) + "科"), "genus": ("", lambda rng: names.any_characters(rng, 1, 3, 2500) + "属"),
    "phylum": ("", lambda rng: rng.choice(("昆虫", "哺乳", "鸟", "爬行", "两栖", "双子叶植物", "辐鳍鱼", "腹足", "软甲", "单子叶植物", "蛛形"))),
}  # fmt: skip


@dataclass
class Sentence:
    """A text with all its triplets, in the order of their objects, and further entities by type."""

    text: str
    triplets: list[Triplet]
    mentions: list[tuple[str, str]]
    kind: str


@functools.cache
def kinds() -> dict[str, Kind]:
    """Return all kinds of subjects with their phrases."""
    text = phrases_works.TEXT + phrases_people.TEXT + phrases_other.TEXT
    return parse_kinds(text, TYPES | _FAMILY)


class Writer:
    """Writes sentences from a seeded source of chance."""

    def __init__(self, rng: Random, accept: Callable[[str], bool] = lambda name: True):
        """Args:
        rng: source of all chance.
        accept: says whether a name may be used; see `corpus.heldout`.
        """
        self.rng = rng
        self.accept = accept
        self.fillers = {
            name: (entity_type, self._filtered(filler) if entity_type else filler)
            for name, (entity_type, filler) in FILLERS.items()
        }
        self.kind_names = list(KINDS)
        self.kind_weights = [KINDS[name][0] for name in self.kind_names]

    def _filtered(self, filler: Filler) -> Filler:
        def draw(rng: Random) -> str:
            while not self.accept(text := filler(rng)):
                pass
            return text

        return draw

    def sentence(self, kind_name: str | None = None) -> Sentence:
        """Write one sentence, or a few that belong together.

        Args:
            kind_name: kind of the first subject; drawn when None.
        """
        rng = self.rng
        name = kind_name or rng.choices(self.kind_names, self.kind_weights)[0]
        kind = kinds()[name]
        roll = rng.random()
        if kind_name is None and roll < 0.05:
            return self._nothing()
        if name in ("couple", "parent", "actor"):
            text, tellers = self._frame(kind)
        elif roll < 0.09:
            text, tellers = self._parallel(kind)
        elif roll < 0.15:
            text, tellers = self._shared(kind)
        else:
            text, tellers = self._about(kind)
        if rng.random() < 0.14:  # something else in the same breath
            other = self.sentence(name if names.chance(rng, 0.5) else None)
            text = text.rstrip("。！，") + rng.choice(("。", "；", "，", "。")) + other.text
            extra_triplets, extra_mentions = other.triplets, other.mentions
        else:
            text = self._register(text)
            extra_triplets, extra_mentions = [], []
        triplets = [triplet for teller in tellers for triplet in teller.triplets] + extra_triplets
        mentions = [mention for teller in tellers for mention in teller.mentions] + extra_mentions
        text = self._noise(text)
        return Sentence(text, self._in_order(text, triplets), mentions, name)

    # ---- plans ----

    def _teller(self, kind: Kind) -> Teller:
        return Teller(self.rng, draw_record(self.rng, kind, self.accept), self.fillers)

    def _about(self, kind: Kind) -> tuple[str, list[Teller]]:
        """Tell one record: an opening that names the subject, then clauses that leave it out."""
        rng, teller = self.rng, self._teller(kind)
        opening = rng.choices(
            (self._open_pred, self._open_is, self._open_attr, self._open_lead, self._open_notes, self._open_full, self._open_box),
            (30, 14, 12, 28, 7, 3, 6),
        )[0]
        text = opening(teller)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3))):
            text = self._continue(teller, text)
        tellers = [teller]
        if kind.name == "person" and names.chance(rng, 0.3):
            text = self._add_deed(text, tellers)
        elif names.chance(rng, 0.1):
            text = self._add_maker(text, tellers)
        return text, tellers

    def _add_deed(self, text: str, tellers: list[Teller]) -> str:
        """Add what the person made or leads: works, a company, a school."""
        rng, who = self.rng, tellers[0].record.subject
        (kind_name, predicate), wordings = rng.choice(list(_DEEDS.items()))
        works = [self._teller(kinds()[kind_name]) for _ in range(1 if kind_name in ("company", "school") else rng.choice((1, 1, 2, 3)))]
        for work in works:
            work.record.facts = {predicate: [who]}
            work.triplets = [Triplet(predicate, TYPES[predicate][1], TYPES[predicate][0], who, work.record.subject)]
        subjects = list(dict.fromkeys(work.record.subject for work in works))
        clause = choose(rng, rng.choice(wordings.split("/"))).replace("{year}", names.year(rng)).replace("{S}", works[0]._fill("S", subjects))
        tellers += works
        return text + rng.choice(("，", "，", "。" + rng.choice(("", "他", "她", who)), "；")) + clause

    def _add_maker(self, text: str, tellers: list[Teller]) -> str:
        """Go on about a person whom the sentence has named: its author, singer, founder …"""
        rng = self.rng
        makers = [t.object for t in tellers[0].triplets if t.predicate in _MAKERS]
        if not makers:
            return text
        person = self._teller(kinds()["person"])
        person.record.subject = rng.choice(makers)
        text += rng.choice(("。", "，", "。", "；")) + rng.choice(("", "", "其中，", "作者" if tellers[0].record.kind.name in ("book", "novel") else "")) + person.record.subject
        tellers.append(person)
        for _ in range(rng.choice((1, 1, 2))):
            text = self._continue(person, text) if text[-1] != person.record.subject[-1] else self._attach(text + rng.choice(("", "，")), self._first_clause(person))
        return text

    def _first_clause(self, teller: Teller) -> str:
        phrase = teller.pick("pred") or teller.pick("extra")
        return teller.tell(phrase) if phrase else ""

    def _nothing(self) -> Sentence:
        """Write a text without any relation: loose clauses, or a subject of which nothing is stated."""
        rng = self.rng
        clauses = [_free_clause(rng) for _ in range(rng.randint(1, 4))]
        teller = self._teller(kinds()[rng.choices(self.kind_names, self.kind_weights)[0]])
        if names.chance(rng, 0.7) and (phrase := teller.pick("extra")):
            head = teller.mention() if names.chance(rng, 0.6) else rng.choice(("这个", "那", "这", "该", "")) + rng.choice(teller.record.kind.nouns)
            clauses.insert(rng.randint(0, 1), head.replace("{genre}", rng.choice(_GENRES)).replace("{job}", rng.choice(_JOBS)) + teller.tell(phrase))
        return Sentence(self._noise(self._register("，".join(clauses))), [], teller.mentions, "nothing")

    def _open_pred(self, teller: Teller) -> str:
        phrase = teller.pick("pred")
        if phrase is None or names.chance(self.rng, 0.05):
            phrase = teller.pick("extra")
        assert phrase is not None
        comma = "，" if not teller.record.kind.quoted and names.chance(self.rng, 0.55) else ""
        return self._attach(teller.mention() + comma, teller.tell(phrase))

    @staticmethod
    def _attach(head: str, clause: str) -> str:
        """Join two pieces without doubled punctuation."""
        if clause[:1] in "，（":
            head = head.rstrip("，")
        return head + clause

    def _attributes(self, teller: Teller, most: int) -> str:
        parts = []
        for _ in range(self.rng.randint(1, most)):
            if phrase := teller.pick("attr"):
                parts.append(teller.tell(phrase))
        return self.rng.choice(("", "", "、")).join(parts) if len(parts) < 3 else "".join(parts)

    def _open_is(self, teller: Teller) -> str:
        rng, kind = self.rng, teller.record.kind
        classifier = rng.choice(_CLASSIFIERS.get(kind.name, ("一个", "一座", "一种", "一处", "")))
        verb = rng.choice(("是", "是", "是", "为", "系", "，"))
        before = names.chance(rng, 0.5)
        attributes = self._attributes(teller, 2)
        adjective = rng.choice(("", "", "", rng.choice(words.pool("a")) + "的"))
        return teller.mention() + verb + (classifier + attributes if before else attributes + classifier) + adjective + rng.choice(kind.nouns)

    def _open_attr(self, teller: Teller) -> str:
        phrase_text = self._attributes(teller, 2)
        noun = self.rng.choice((self.rng.choice(teller.record.kind.nouns), ""))
        head = phrase_text + noun.replace("{genre}", self.rng.choice(_GENRES)) + teller.mention()
        phrase = teller.pick("pred") if names.chance(self.rng, 0.6) else teller.pick("extra")
        return self._attach(head, teller.tell(phrase)) if phrase else head

    def _open_lead(self, teller: Teller) -> str:
        phrase = teller.pick("lead")
        return teller.tell(phrase) if phrase else self._open_pred(teller)

    def _open_notes(self, teller: Teller) -> str:
        rng = self.rng
        notes = [teller.tell(phrase) for _ in range(rng.randint(1, 3)) if (phrase := teller.pick("note"))]
        if not notes:
            return self._open_pred(teller)
        left, right = rng.choice((("（", "）"), ("（", "）"), ("(", ")"), ("【", "】")))
        text = teller.mention() + left + rng.choice(("，", "；", " ", "、")).join(notes) + right
        phrase = teller.pick("pred") or teller.pick("extra")
        return self._attach(text, teller.tell(phrase)) if phrase and names.chance(rng, 0.7) else text

    def _open_box(self, teller: Teller) -> str:
        rng = self.rng
        notes = []
        while (phrase := teller.pick("note")) and len(notes) < 5:
            notes.append(teller.tell(phrase))
        if not notes:
            return self._open_pred(teller)
        separator = rng.choice((" ", "  ", "；", "，", " | ", "\n" if names.chance(rng, 0.2) else " "))
        title = rng.choice((teller.mention(), "名称：" + teller.mention(bare=True), teller.mention(bare=True), rng.choice(("【简介】", "基本信息 ", "")) + teller.mention()))
        return title + rng.choice((separator, " ", "：")) + separator.join(notes)

    def _open_full(self, teller: Teller) -> str:
        phrase = teller.pick("full")
        return teller.tell(phrase) if phrase else self._open_lead(teller)

    def _continue(self, teller: Teller, text: str) -> str:
        """Add a clause about the same subject, with it left out, as a pronoun, or named again."""
        rng = self.rng
        phrase = teller.pick("extra") if names.chance(rng, 0.22) else teller.pick("pred")
        if phrase is None:
            return text
        clause = teller.tell(phrase)
        bracket = clause[:1] in "，（"
        roll = rng.random()
        if roll < 0.72 or bracket:
            return text + ("" if bracket else rng.choice(("，", "，", "，", "，", "、", "；"))) + clause
        stop = rng.choice(("。", "。", "，", "；"))
        if roll < 0.92:
            return text + stop + rng.choice(teller.record.kind.pronouns) + clause
        return text + stop + teller.mention() + clause

    def _parallel(self, kind: Kind) -> tuple[str, list[Teller]]:
        """Tell the same fact of several subjects, one after the other."""
        rng = self.rng
        tellers = [self._teller(kind) for _ in range(rng.randint(2, 4))]
        position = rng.choice(("pred", "pred", "lead", "note"))
        phrase = tellers[0].pick(position, only_one=True)
        if phrase is None:
            return self._about(kind)
        parts = []
        for teller in tellers:
            if not phrase.predicates <= teller.untold.keys():
                continue
            clause = teller.tell(phrase)
            if position == "note":
                clause = f"{teller.mention()}（{clause}）"
            parts.append(clause if position != "pred" else self._attach(teller.mention(), clause))
        separator = rng.choice(("，", "；", "，", "、", " ")) if position != "note" else "、"
        return separator.join(parts), tellers

    def _shared(self, kind: Kind) -> tuple[str, list[Teller]]:
        """Tell one fact that several subjects share, such as the films of an actor."""
        rng, teller = self.rng, self._teller(kind)
        phrase = teller.pick(rng.choice(("lead", "lead", "pred")), only_one=True)
        if phrase is None:
            return self._about(kind)
        others = [draw_record(rng, kind, self.accept).subject for _ in range(rng.randint(1, 4))]
        subjects = list(dict.fromkeys([teller.record.subject, *others]))
        if "{S}" in phrase.text:
            return teller.tell(phrase, subjects), [teller]
        clause = teller.tell(phrase, subjects)
        return self._attach(teller._fill("S", subjects) + rng.choice(("都", "均", "")), clause), [teller]

    def _frame(self, kind: Kind) -> tuple[str, list[Teller]]:
        """Tell a relation between persons that its phrases hold as a whole."""
        teller = self._teller(kind)
        phrase = teller.pick("full")
        if phrase is None:
            return self._frame(kind)
        told = set(teller.untold)
        text = teller.tell(phrase)
        told -= teller.untold.keys()
        if kind.name != "actor":
            roles = {role: teller.record.facts[role][0] for role in told}
            teller.triplets = _family_triplets(roles)
        return text, [teller]

    # ---- register and noise ----

    def _register(self, text: str) -> str:
        """Put the text into a register: news, chat, review, encyclopaedia, with clauses around it."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.1:
            text = rng.choice(("据悉，", "据报道，", "日前，", "近日，", f"{names.date(rng)}，", f"{names.date(rng)}，据了解，", "【新闻】", "本报讯 ", "资料显示，", "据介绍，", "昨日，")) + text
        elif roll < 0.16:
            text = rng.choice(("听说", "刚看完，", "我记得", "话说", "昨晚查了一下，", "朋友说", "大家都知道，", "有人知道吗，", "哈哈，", "其实", "没想到", "不得不说，", "请问")) + text
        elif roll < 0.19:
            text = rng.choice(("基本信息 ", "简介：", "人物简介 ", "内容简介：", "1、", "（1）", "编辑推荐 ", "剧情简介", "公司简介", "[1]", "经历")) + text
        elif roll < 0.25:
            text = _free_clause(rng) + rng.choice(("，", "。", "：")) + text
        roll = rng.random()
        if roll < 0.12:
            for _ in range(rng.randint(1, 3)):
                text += "，" + _free_clause(rng)
        elif roll < 0.16:
            text += rng.choice(("，非常好看", "，推荐给大家", "，你们觉得呢？", "，真的太棒了！", "，求推荐", "，一起来看看吧", "，敬请期待", "，欢迎收看"))
        ending = rng.random()
        return text + ("。" if ending < 0.86 else rng.choice(("", "！", "", "[1]。", "……", "~", ".")))

    def _noise(self, text: str) -> str:
        """Add what real text has: half-width punctuation, stray blanks."""
        rng = self.rng
        text = text.replace("{genre}", rng.choice(_GENRES)).replace("{job}", rng.choice(_JOBS))
        roll = rng.random()
        if roll < 0.05:
            text = text.replace("，", ",").replace("：", ":").replace("（", "(").replace("）", ")")
        elif roll < 0.07:
            text = text.replace("，", rng.choice((" ", "， ", " ，")))
        elif roll < 0.08:
            text = text.replace("《", rng.choice(("", "〈", "『"))).replace("》", rng.choice(("", "〉", "』")))
        return text

    def _in_order(self, text: str, triplets: list[Triplet]) -> list[Triplet]:
        """Drop repeated triplets and what noise has made unfindable; order by place of object and subject."""
        kept = [triplet for triplet in dict.fromkeys(triplets) if triplet.object in text and triplet.subject in text]
        order = list(TYPES)
        return sorted(kept, key=lambda triplet: (text.find(triplet.object), text.find(triplet.subject), order.index(triplet.predicate)))


def _family_triplets(roles: dict[str, str]) -> list[Triplet]:
    """Return the triplets of a couple, or of parents and child, in both directions where there are two."""
    pairs = []
    if "丈夫" in roles and "妻子" in roles:
        pairs += [("妻子", roles["妻子"], roles["丈夫"]), ("丈夫", roles["丈夫"], roles["妻子"])]
    for role, predicate in (("父", "父亲"), ("母", "母亲")):
        if role in roles and "子" in roles:
            pairs.append((predicate, roles[role], roles["子"]))
    return [Triplet(predicate, "人物", "人物", value, subject) for predicate, value, subject in pairs]

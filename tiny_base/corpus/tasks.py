"""Tasks around a sentence: extraction in several notations, questions, lists, copying, blank infilling."""

# ruff: noqa: E501 (wordings, one a line)

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from task.prompt import PROMPT_TEMPLATE
from task.triplets import KEYS, Triplet
from tiny_base.corpus import draw, reviews
from tiny_base.corpus.grammar import choose
from tiny_base.corpus.heldout import HeldOut
from tiny_base.corpus.schema import TYPES
from tiny_base.corpus.sentences import Sentence, Writer

LONG_BLANK, SHORT_BLANK = "[gMASK]", "[MASK]"
MAX_CHARACTERS, MAX_TRIPLETS = 150, 7  # of a sentence; longer ones are drawn again


@dataclass(frozen=True)
class Sample:
    """A training sample: the context around a blank, and what fills the blank."""

    before: str
    target: str
    after: str = ""
    blank: str = LONG_BLANK
    task: str = ""


# Wordings, in the notation of `corpus.grammar.choose`.
_WHERE = "[下面|下列|以下|这段|给出的|如下|该|上述|本段|后面][句子|文本|文字|内容|话|材料|语句|段落]"
_WHAT = "[三元组|关系三元组|SPO|实体关系|关系|关系信息|知识|事实|知识三元组|主谓宾三元组|所有关系|全部三元组|实体及关系]"
_EXTRACT = (
    f"[请|请你|麻烦|帮忙|帮我|][抽取|提取|找出|列出|抽出|给出|识别|写出|输出]{_WHERE}[中|里|中出现|里包含|所含|]的{_WHAT}",
    f"[请|]从{_WHERE}[中|里][抽取|提取|找出|抽出|整理出|识别]{_WHAT}",
    f"{_WHERE}[中|里|][有|包含|含有|讲了|有着][哪些|什么]{_WHAT}？",
    f"[请|]对{_WHERE}[做|进行][信息抽取|关系抽取|知识抽取|三元组抽取]",
    f"[请|]把{_WHERE}[中|里]的{_WHAT}[抽取出来|找出来|列出来|整理出来|都写出来]",
    "[关系抽取|信息抽取|三元组抽取|知识抽取][任务|][。|：|，]",
)
_JSON = "[，|。|，请|，并]以[JSON|json|Json][格式|形式||列表形式][输出|返回|回答|给出]"
_END = "[：|。|:||！]"
# key names of subject, predicate, object
_KEY_SETS = (
    ("subject", "predicate", "object"), ("s", "p", "o"), ("主语", "谓语", "宾语"), ("主体", "关系", "客体"), ("头实体", "关系", "尾实体"),
    ("head", "relation", "tail"), ("实体1", "关系", "实体2"), ("subject", "relation", "object"),
)  # fmt: skip
_HEADERS = (
    "问：{0}\n{1}\n答：", "{0}\n{1}\n", "[Round 0]\n\n问：{0}\n{1}\n\n答：", "指令：{0}\n输入：{1}\n输出：", "{1}\n{0}\n", "{0}\n\n{1}\n\n结果：",
    "Instruction: {0}\nInput: {1}\nAnswer: ",
)  # fmt: skip


SUBJECT_TYPES = sorted({subject_type for subject_type, _ in TYPES.values()})
# what a text may have, and the pattern that finds it
_WRITTEN = (
    ("年份", r"\d{4}年|[一二三四五六七八九〇零]{4}年"), ("年份", r"\d{4}年|[一二三四五六七八九〇零]{4}年"),
    ("数字", r"\d"), ("书名号", "[《》]"), ("英文字母", "[A-Za-z]"), ("括号", "[（(]"),
)  # fmt: skip


def dump(value: object) -> str:
    """Write JSON as the product does."""
    return json.dumps(value, ensure_ascii=False)


class TaskWriter:
    """Draws sentences and makes training samples of them."""

    def __init__(self, seed: int | str, held_out: HeldOut | None = None, copying: float = 0.03):
        """Args:
        seed: makes the whole sequence of samples; equal seeds give equal samples.
        held_out: names, phrasings and instructions to avoid.
        copying: share of the samples that ask for a copy; a model that is new learns to copy first.
        """
        self.rng = Random(seed)
        self.held_out = held_out or HeldOut()
        self.writer = Writer(self.rng, self.held_out.accepts_name)
        table: tuple[tuple[float, Callable[[], Sample]], ...] = (
            (55, self.five_fields), (9, self.three_fields), (6, self.lines), (7, self.chosen_relations), (5, self.question),
            (2, self.relation_between), (3, self.entities), (1, self.relations_present), (2, self.subject_type), (4, self.copy),
            (3, self.fill_short), (1, self.fill_long), (2, self.review_topic), (2, self.review_mood), (1, self.written), (1, self.news_topic),
        )  # fmt: skip
        self._tasks = [task for _, task in table]
        others = sum(weight for weight, task in table if task != self.copy)
        self._weights = [
            others * copying / (1 - copying) if task == self.copy else weight for weight, task in table
        ]

    def sample(self) -> Sample:
        """Return the next sample."""
        return self.rng.choices(self._tasks, self._weights)[0]()

    # ---- parts ----

    def sentence(self) -> Sentence:
        """Draw a sentence that is not too long and not held out."""
        while True:
            sentence = self.writer.sentence()
            if (
                len(sentence.text) <= MAX_CHARACTERS
                and len(sentence.triplets) <= MAX_TRIPLETS
                and self.held_out.accepts_sentence(sentence.text, sentence.triplets)
            ):
                return sentence

    def prompt(self, wording: str, sentence: str, product: float = 0.75) -> str:
        """Put an instruction and a sentence into a prompt.

        Args:
            wording: the instruction, in the notation of `choose`.
            sentence: the text it is about.
            product: how often the product's own prompt template is used.
        """
        instruction = choose(self.rng, wording)
        while not self.held_out.accepts_instruction(instruction):
            instruction = choose(self.rng, wording) + self.rng.choice("。！：")
        if draw.chance(self.rng, product):
            return PROMPT_TEMPLATE.format(instruction=instruction, sentence=sentence)
        return self.rng.choice(_HEADERS).format(instruction, sentence)

    # ---- extraction ----

    def _five_field_target(self, triplets: list[Triplet], keys: list[str], fence: bool) -> str:
        items = [{key: getattr(triplet, key) for key in keys} for triplet in triplets]
        return f"```json\n{dump(items)}\n```" if fence else dump(items)

    def five_fields(self) -> Sample:
        """Extraction with types; the instruction lists the fields in their order and says whether to fence."""
        sentence = self.sentence()
        return self._five_fields(sentence.text, sentence.triplets, self.rng.choice(_EXTRACT))

    def _five_fields(self, text: str, triplets: list[Triplet], wording: str) -> Sample:
        keys = list(KEYS)
        if draw.chance(self.rng, 0.25):
            self.rng.shuffle(keys)
        fence = draw.chance(self.rng, 0.8)
        listed = self.rng.choice((", ", "、", ",", " ")).join(keys)
        fields = f"[，字段：|，字段依次为|，每项含|，键为|。字段顺序：]{listed}"
        fenced = "[，用代码块|，放在```json代码块里|，代码块]" if fence else "[|，不要代码块]"
        target = self._five_field_target(triplets, keys, fence)
        return Sample(self.prompt(wording + fields + fenced + _END, text), target, task="five_fields")

    def three_fields(self) -> Sample:
        """Extraction as JSON without types; the usual key names unless the instruction names others."""
        sentence = self.sentence()
        wording = self.rng.choice(_EXTRACT) + _JSON
        keys = _KEY_SETS[0]
        if draw.chance(self.rng, 0.5):
            keys = self.rng.choice(_KEY_SETS)
            wording += f"[，键为|，字段名用|，每项含]{'、'.join(keys)}"
        items = [dict(zip(keys, (t.subject, t.predicate, t.object), strict=True)) for t in sentence.triplets]
        return Sample(self.prompt(wording + _END, sentence.text), dump(items), task="three_fields")

    def lines(self) -> Sample:
        """Extraction as lines, tuples or a table."""
        sentence = self.sentence()
        notation, form = self.rng.choice(
            (
                (
                    "[，每行一个，写成|，格式：]主语|谓语|宾语".replace("|谓语|宾语", "｜谓语｜宾语"),
                    "{s}｜{p}｜{o}",
                ),
                ("[，写成元组|，用元组表示|，格式：（主语，谓语，宾语）]", "（{s}，{p}，{o}）"),
                ("，格式：主语-谓语->宾语", "{s}-{p}->{o}"),
                ("[，用表格|，以表格][输出|回答]", "| {s} | {p} | {o} |"),
                ("[，用句子说明|，逐条写出|，用自然语言]", "{s}的{p}是{o}。"),
                ("[，格式：谓语(主语, 宾语)|，写成谓词]", "{p}({s}, {o})"),
            )
        )
        rows = [form.format(s=t.subject, p=t.predicate, o=t.object) for t in sentence.triplets]
        return Sample(
            self.prompt(self.rng.choice(_EXTRACT) + notation + _END, sentence.text),
            "\n".join(rows) or "无",
            task="lines",
        )

    def chosen_relations(self) -> Sample:
        """Extraction of the relations that the instruction names only."""
        rng, sentence = self.rng, self.sentence()
        present = sorted({t.predicate for t in sentence.triplets})
        asked = set(rng.sample(present, rng.randint(0, len(present)))) | set(
            rng.sample(sorted(TYPES), rng.randint(1, 3))
        )
        listed = "、".join(rng.sample(sorted(asked), len(asked)))
        triplets = [t for t in sentence.triplets if t.predicate in asked]
        wording = rng.choice(
            (f"[只|仅]抽取[以下|这些|下列]关系：{listed}", f"[关系只限|在这些关系中抽取|schema：]{listed}")
        )
        if draw.chance(rng, 0.6):
            sample = self._five_fields(sentence.text, triplets, wording)
            return Sample(sample.before, sample.target, task="chosen_relations")
        pairs: dict[str, list[str]] = {}
        for t in triplets:
            pairs.setdefault(t.predicate, []).append(t.object)
        return Sample(
            self.prompt(wording + "[，按关系列出宾语|，输出关系到宾语的JSON]" + _END, sentence.text),
            dump(pairs),
            task="chosen_relations",
        )

    # ---- questions and lists ----

    def _told(self) -> tuple[Sentence, Triplet]:
        """Draw a sentence that has a triplet, and one of its triplets."""
        while not (sentence := self.sentence()).triplets:
            pass
        return sentence, self.rng.choice(sentence.triplets)

    def question(self) -> Sample:
        """Ask for the objects or subjects of a relation; sometimes for what the sentence doesn't say."""
        rng = self.rng
        sentence, triplet = self._told()
        roll = rng.random()
        if roll < 0.2:
            told = {t.predicate for t in sentence.triplets if t.subject == triplet.subject}
            other = rng.choice([predicate for predicate in TYPES if predicate not in told])
            return Sample(
                self.prompt(f"{triplet.subject}的{other}是[什么|谁|]？", sentence.text, 0.5),
                "没有提到",
                task="question",
            )
        if roll < 0.7:
            answers = [
                t.object
                for t in sentence.triplets
                if (t.subject, t.predicate) == (triplet.subject, triplet.predicate)
            ]
            wording = f"[根据文本回答：||请问]{triplet.subject}的{triplet.predicate}是[什么|谁|]？"
        else:
            answers = [
                t.subject
                for t in sentence.triplets
                if (t.object, t.predicate) == (triplet.object, triplet.predicate)
            ]
            wording = f"[谁|什么|哪个{triplet.subject_type}]的{triplet.predicate}是{triplet.object}？"
        return Sample(
            self.prompt(wording, sentence.text, 0.5), "、".join(dict.fromkeys(answers)), task="question"
        )

    def relation_between(self) -> Sample:
        """Ask which relation two entities have."""
        sentence, triplet = self._told()
        answers = [
            t.predicate
            for t in sentence.triplets
            if (t.subject, t.object) == (triplet.subject, triplet.object)
        ]
        wording = f"“{triplet.subject}”[和|与]“{triplet.object}”[是什么关系|之间有什么关系|的关系是]？"
        return Sample(
            self.prompt(wording, sentence.text, 0.5),
            "、".join(dict.fromkeys(answers)),
            task="relation_between",
        )

    def entities(self) -> Sample:
        """List the entities of a type."""
        sentence, triplet = self._told()
        wanted = self.rng.choice((triplet.object_type, triplet.subject_type))
        found = {t.object for t in sentence.triplets if t.object_type == wanted}
        found |= {t.subject for t in sentence.triplets if t.subject_type == wanted}
        found |= {
            text for text, entity_type in sentence.mentions if entity_type == wanted and text in sentence.text
        }
        if wanted.endswith("人物"):
            found |= {
                text
                for text, entity_type in sentence.mentions
                if entity_type == "人物" and text in sentence.text
            }
        ordered = sorted(found, key=lambda name: (sentence.text.find(name), name))
        wording = (
            f"[列出|找出|请写出|][句中|文中|其中][所有的|出现的|的]{wanted}[，用列表回答|，列表形式]{_END}"
        )
        return Sample(self.prompt(wording, sentence.text, 0.6), dump(ordered), task="entities")

    def relations_present(self) -> Sample:
        """List the relations that occur, without their entities."""
        sentence = self.sentence()
        relations = list(dict.fromkeys(t.predicate for t in sentence.triplets))
        return Sample(
            self.prompt(f"{_WHERE}[涉及|提到了|包含]哪些关系？只列出关系名{_END}", sentence.text),
            dump(relations),
            task="relations_present",
        )

    def subject_type(self) -> Sample:
        """Name the type of the subject, freely or out of a few."""
        sentence, triplet = self._told()
        if draw.chance(self.rng, 0.5):
            types = sorted({triplet.subject_type, *self.rng.sample(SUBJECT_TYPES, 4)})
            listed = "、".join(self.rng.sample(types, len(types)))
            wording = f"“{triplet.subject}”[是哪类事物|属于哪一种]？[只能选|可选]：{listed}{_END}"
            return Sample(self.prompt(wording, sentence.text), triplet.subject_type, task="subject_type")
        kinds = list(dict.fromkeys(t.subject_type for t in sentence.triplets if t.subject == triplet.subject))
        wording = (
            f"[{triplet.subject}|句中的“{triplet.subject}”]是什么类[型|别]？[列表形式回答|输出列表]{_END}"
        )
        return Sample(self.prompt(wording, sentence.text, 0.6), dump(kinds), task="subject_type")

    def written(self) -> Sample:
        """Say whether the text has a year, digits, a title, letters or brackets."""
        text = self.sentence().text
        what, pattern = self.rng.choice(_WRITTEN)
        wording = f"[文中|这段话里][有没有|是否有|有无]{what}？[回答有或没有|答有还是没有]{_END}"
        answer = "有" if re.search(pattern, text) else "没有"
        return Sample(self.prompt(wording, text), answer, task="written")

    # ---- copying and blanks ----

    def copy(self) -> Sample:
        """Copy the text, a named part of it, or characters without meaning."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.4:
            text = draw.any_characters(rng, 8, 50)
            return Sample(
                self.prompt("[重复|照抄|原样写出|复制][下面的文字|这段文字|下面的内容]" + _END, text, 0.3),
                text,
                task="copy",
            )
        if roll < 0.7:
            items = [draw.any_characters(rng, 2, 4) for _ in range(rng.randint(3, 7))]
            start = rng.randrange(len(items) - 1)
            wording = f"“{items[start]}”[后面|之后]是[什么|哪个词]？"
            return Sample(self.prompt(wording, "、".join(items), 0.3), items[start + 1], task="copy")
        text = self.sentence().text
        if roll < 0.8:
            return Sample(self.prompt("[重复|照抄|抄写]这段话" + _END, text, 0.3), text, task="copy")
        begin = rng.randrange(max(1, len(text) - 8))
        wording = f"从“{text[begin : begin + 3]}”[开始|起][抄写|重复]{_END}"
        return Sample(self.prompt(wording, text, 0.3), text[begin:], task="copy")

    def fill_short(self) -> Sample:
        """GLM's own objective on a short blank: an entity or a few characters."""
        rng, sentence = self.rng, self.sentence()
        text = sentence.text
        values = [
            value for t in sentence.triplets for value in (t.subject, t.object) if text.count(value) == 1
        ]
        if values and draw.chance(rng, 0.3):
            value = rng.choice(values)
            begin = text.find(value)
            end = begin + len(value)
        else:
            begin = rng.randrange(max(1, len(text) - 1))
            end = min(len(text), begin + rng.randint(1, 8))
        return Sample(text[:begin], text[begin:end], text[end:], SHORT_BLANK, task="fill_short")

    def fill_long(self) -> Sample:
        """GLM's own objective on a long blank at the end: go on with the text."""
        text = "".join(self.sentence().text for _ in range(self.rng.randint(1, 2)))
        cut = self.rng.randrange(1, max(2, len(text) // 2))
        return Sample(text[:cut], text[cut:], task="fill_long")

    # ---- reviews ----

    def review_topic(self) -> Sample:
        """Name what a review is about."""
        text, topic, _ = reviews.review(self.rng)
        choices = self.rng.sample(reviews.TOPICS, 5)
        listed = "、".join(self.rng.sample(sorted({*choices, topic}), len({*choices, topic})))
        if draw.chance(self.rng, 0.5):
            wording = f"[这是关于什么的评论|评论的对象是什么|这段点评说的是什么]？[用列表回答|列表形式]{_END}"
            return Sample(self.prompt(wording, text), dump([topic]), task="review_topic")
        return Sample(
            self.prompt(f"[评论属于哪一类|这条点评属于]？[备选|选项]：{listed}{_END}", text),
            topic,
            task="review_topic",
        )

    def news_topic(self) -> Sample:
        """Name the topic of a line of news, out of a few."""
        text, topic = reviews.news(self.rng)
        topics = sorted({topic, *self.rng.sample(reviews.NEWS_TOPICS, 4)})
        listed = "、".join(self.rng.sample(topics, len(topics)))
        wording = f"[这条消息属于哪个频道|这条快讯归入哪一栏|报道的内容属于]？[备选|选项]：{listed}{_END}"
        return Sample(self.prompt(wording, text), topic, task="news_topic")

    def review_mood(self) -> Sample:
        """Say whether a review is positive."""
        text, _, good = reviews.review(self.rng)
        words = self.rng.choice((("正面", "负面"), ("好评", "差评"), ("积极", "消极"), ("满意", "不满意")))
        wording = f"[这条点评是|说话人的态度是|判断倾向，]{words[0]}还是{words[1]}？"
        return Sample(self.prompt(wording, text), words[0] if good else words[1], task="review_mood")

"""Instruction data: the notations of its answers, and which part of a prompt is the sentence."""

from __future__ import annotations

import json

import pytest

from data_handle.converters.answers import read_answer
from data_handle.converters.labelled import Fact
from tests.data_handle.converting import DIRECTED, FILM, PLAYED, RAIN, Runner, jsonl, untyped
from utils.common_utils import UserError

ASK = "请抽取句子里的三元组"
FACTS = [("雾港来信", "导演", "沈知远"), ("雾港来信", "主演", "顾小满")]
OBJECTS = [{"subject": s, "predicate": p, "object": o} for s, p, o in FACTS]
BOTH = untyped(DIRECTED, PLAYED)


def as_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    "answer",
    [
        str(FACTS),
        str(OBJECTS),
        str(OBJECTS)[:-1] + ",]",
        "('雾港来信', '导演', '沈知远'), (\"雾港来信\", \"主演\", \"顾小满\")",
        "（雾港来信，导演，沈知远）；（雾港来信，主演，顾小满）",
        "句子中的三元组有：(雾港来信, 导演, 沈知远)、(雾港来信, 主演, 顾小满)。",
        "1. (雾港来信, 导演, 沈知远)\n2. (雾港来信, 主演, 顾小满)",
        "<雾港来信, 导演, 沈知远>\n<雾港来信, 主演, 顾小满>",
        "[雾港来信, 导演, 沈知远]\n[雾港来信, 主演, 顾小满]",
        "主体：雾港来信；关系：导演；客体：沈知远\n主体：雾港来信；关系：主演；客体：顾小满",
        "三元组1：\n主语：雾港来信\n关系：导演\n宾语：沈知远\n三元组2：\n主语：雾港来信\n关系：主演\n宾语：顾小满。",
        "头实体：雾港来信，关系：导演，尾实体：沈知远；头实体：雾港来信，关系：主演，尾实体：顾小满",
        "Subject: 雾港来信; Predicate: 导演; Object: 沈知远\nhead: 雾港来信, relation: 主演, tail: 顾小满",
        "雾港来信_导演_沈知远\n雾港来信_主演_顾小满",
        "1、雾港来信-导演-沈知远\n2、雾港来信-主演-顾小满",
        "- 雾港来信 | 导演 | 沈知远\n- 雾港来信 | 主演 | 顾小满",
        "雾港来信 -> 导演 -> 沈知远\n雾港来信 —— 主演 —— 顾小满",
        "雾港来信\t导演\t沈知远\n雾港来信\t主演\t顾小满",
        "雾港来信,导演,沈知远;雾港来信,主演,顾小满",
        "\n".join(map(as_text, OBJECTS)),
        "(主体: 雾港来信, 关系: 导演, 客体: 沈知远), (主体: 雾港来信, 关系: 主演, 客体: 顾小满)",
        "**主体**：“雾港来信” **关系**：导演 **客体**：'沈知远'\n头：雾港来信；关系：主演；尾：顾小满。完。",
        "((雾港来信；导演；沈知远),(雾港来信|主演|顾小满))",
        "| 主体 | 客体 | 关系 |\n|---|---|---|\n| 雾港来信 | 沈知远 | 导演 |\n| 雾港来信 | 顾小满 | 主演 |",
        "导演(雾港来信, 沈知远)\n主演：(雾港来信, 顾小满)",
        f"```json\n{as_text(OBJECTS[:1])}\n```\n和\n```json\n{as_text(OBJECTS[1:])}\n```",
        as_text({"导演": [["雾港来信", "沈知远"]], "主演": [{"subject": "雾港来信", "object": "顾小满"}]}),
        as_text({"雾港来信": {"导演": "沈知远", "主演": ["顾小满"]}}),
    ],
)
def test_notations_of_triplets(runner: Runner, answer: str) -> None:
    assert runner(jsonl({"instruction": ASK, "input": FILM, "output": answer})).sentences == {FILM: BOTH}


@pytest.mark.parametrize(
    "answer",
    [
        "主体：雾港来信，主体类型：影视作品，关系：导演，客体：沈知远，客体类型：人物",
        "主体：雾港来信，类型：影视作品；关系：导演；客体：沈知远，类型：人物",
        "主体(影视作品)：雾港来信；关系：导演；客体（人物）：沈知远",
    ],
)
def test_types_in_words(answer: str) -> None:
    assert read_answer(answer, question=ASK) == [Fact("导演", "雾港来信", "沈知远", "影视作品", "人物")]


@pytest.mark.parametrize(
    "answer",
    ["无", "无。", "[]", "{}", "NAN", "没有", "空", "无三元组", "句子中没有三元组。", "没有可抽取的三元组"],
)
def test_nothing_in_words(runner: Runner, answer: str) -> None:
    good = {"instruction": ASK, "input": FILM, "output": as_text(OBJECTS)}
    converted = runner(jsonl(good, {"instruction": ASK, "input": RAIN, "output": answer}))
    assert converted.sentences == {FILM: BOTH, RAIN: []}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("这句话里有没有人名？", "没有"),
        ("有哪些水果？", "苹果,香蕉,梨"),
        ("有哪些水果？", "[苹果, 香蕉, 梨]"),
        (ASK, "2020-01-01"),
        (ASK, "雾港来信的导演是沈知远"),
        (ASK, "调用 f(a, b, c) 即可"),
        (ASK, "(雾港来信, 影视作品, 导演, 沈知远, 人物)"),
        (ASK, "["),
        (ASK, "(雾港来信, 导演"),
    ],
)
def test_words_that_are_no_triplets_are_named(question: str, answer: str) -> None:
    with pytest.raises(ValueError, match="答案不是三元组"):
        read_answer(answer, question=question)


def test_answers_of_which_a_part_is_missing_are_named() -> None:
    with pytest.raises(ValueError, match="JSON 不完整"):
        read_answer(as_text(OBJECTS)[:-20], question=ASK)
    with pytest.raises(ValueError, match="缺少主语、关系或宾语"):
        read_answer("主体：甲；关系：乙；客体：丙\n主体：甲；关系：乙", question=ASK)
    with pytest.raises(ValueError, match="写了两次"):
        read_answer(str(OBJECTS)[:-2] + ", 'object': '别人'}]", question=ASK)


@pytest.mark.parametrize(
    "wrap",
    [
        "请抽取下面句子的三元组。{}",
        "请抽取下面句子的三元组\n{}",
        "请抽取句子“{}”里的三元组。",
        "{}\n请抽取上面句子里的三元组。",
        "抽取三元组。\n句子：{}\n输出：",
    ],
)
@pytest.mark.parametrize("copies", [1, 3])
def test_sentence_of_a_prompt(runner: Runner, wrap: str, copies: int) -> None:
    film = "《雾港来信》：沈知远执导。片中的信来自雾港。"
    sentences = {film: [DIRECTED], RAIN: [], "“雾港”是地名。它在海边。": []}
    records = [
        {
            "messages": [
                {"role": "user", "content": wrap.format(text)},
                {"role": "assistant", "content": as_text([triplet._asdict() for triplet in triplets])},
            ]
        }
        for text, triplets in list(sentences.items())[:copies]
    ]
    assert runner(jsonl(*records)).sentences == dict(list(sentences.items())[:copies])


def test_prompts_that_are_sentences(runner: Runner) -> None:
    rain = "气象台：" + RAIN
    system = {"role": "system", "content": "从句子里抽取三元组。"}
    records = [
        {"messages": [system, {"role": "user", "content": text}, {"role": "assistant", "content": answer}]}
        for text, answer in ((FILM, as_text(OBJECTS)), (rain, "[]"))
    ]
    assert runner(jsonl(*records)).sentences == {FILM: BOTH, rain: []}


def test_names_before_all_sentences_are_left_out(runner: Runner) -> None:
    records = [
        {"instruction": ASK, "input": f"文本：{text}", "output": answer}
        for text, answer in ((FILM, as_text(OBJECTS)), (RAIN, "无"))
    ]
    assert runner(jsonl(*records)).sentences == {FILM: BOTH, RAIN: []}
    one = {"instruction": ASK, "input": RAIN, "output": "无"}
    assert list(runner(jsonl(records[0], one)).sentences) == [f"文本：{FILM}", RAIN]


@pytest.mark.parametrize(
    "record",
    [
        {"conversation": [{"human": f"{ASK}：{FILM}", "assistant": str(FACTS)}]},
        {"conversation": [{"system": ASK, "input": FILM, "output": str(FACTS)}]},
        {
            "system": ASK,
            "conversations": [{"from": "human", "value": FILM}, {"from": "gpt", "value": str(FACTS)}],
        },
        {"query": f"{ASK}：{FILM}", "response": str(FACTS)},
        {"question": f"{ASK}：{FILM}", "answer": str(FACTS)},
        {"content": f"{ASK}：{FILM}", "summary": str(FACTS)},
        {"text": FILM, "answer": "雾港来信_导演_沈知远\n雾港来信_主演_顾小满"},
        {"input": FILM, "output": str(FACTS)},
        {"instruction": ASK, "input": FILM, "response": str(FACTS), "history": []},
        {"instruction": ASK, "context": FILM, "response": str(FACTS)},
        {"instruction": ASK, "input": FILM, "output": OBJECTS},
    ],
)
def test_other_names_of_question_and_answer(runner: Runner, record: dict[str, object]) -> None:
    assert runner(jsonl(record)).sentences == {FILM: BOTH}


QUESTION = {"instruction": "你是专门进行关系抽取的专家。", "schema": ["导演", "编剧"], "input": FILM}
BY_PREDICATE = {"导演": [{"subject": "雾港来信", "object": "沈知远"}], "编剧": []}


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": QUESTION, "output": BY_PREDICATE},
        {"task": "RE", "instruction": as_text(QUESTION), "output": BY_PREDICATE},
        {"instruction": str(QUESTION), "output": str(BY_PREDICATE)},
        {
            "conversations": [
                {"from": "human", "value": as_text(QUESTION)},
                {"from": "gpt", "value": as_text(BY_PREDICATE)},
            ]
        },
    ],
)
def test_questions_that_are_json(runner: Runner, record: dict[str, object]) -> None:
    assert runner(jsonl(record)).sentences == {FILM: untyped(DIRECTED)}


def test_facts_beside_an_answer_say_more(runner: Runner) -> None:
    fact = {
        "head": {"entity": "雾港来信"},
        "sub_type": "影视作品",
        "relation": "导演",
        "tail": "沈知远",
        "tail_type": "人物",
    }
    record = {"instruction": ASK, "input": FILM, "output": "(雾港来信,导演,沈知远)", "relation": [fact]}
    assert runner(jsonl(record)).sentences == {FILM: [DIRECTED]}


def test_a_record_without_an_answer_is_named(runner: Runner) -> None:
    with pytest.raises(UserError, match="没有一个句子可用"):
        runner(jsonl({"instruction": ASK, "input": FILM, "output": None}))
    assert "没有答案：1 处" in runner._capsys.readouterr().err

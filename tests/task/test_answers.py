"""Answers as people write them: what is clear is read, the rest is named, nothing passes silently."""

from __future__ import annotations

import json
import time

import pytest

from task.answers import CHANGES, Answer, read_answer
from task.prompt import INSTRUCTION, build_prompt, split_context
from task.triplets import Triplet, format_target, parse_target

ROAD = Triplet("作者", "人物", "图书作品", "何青", "北方的路")
BAND = Triplet("成员", "人物", "组合", "方圆", "四月乐队")
FIELDS = ROAD._asdict()
ONE = json.dumps(FIELDS, ensure_ascii=False)
LIST = f"[{ONE}]"
HEAD, SENTENCE, _ = split_context(build_prompt("《北方的路》是作家何青的小说，后来有了续篇。"))


def without(*names: str, **others: object) -> str:
    """An answer in its fence, whose triplet lacks fields or has others."""
    item = {name: value for name, value in FIELDS.items() if name not in names} | others
    return f"```json\n{json.dumps([item], ensure_ascii=False)}\n```"


def test_the_notation_of_the_data_files_is_kept() -> None:
    for triplets in ([], [ROAD], [ROAD, BAND]):
        target = format_target(triplets)
        assert read_answer(target, HEAD, SENTENCE) == Answer(target, tuple(triplets))


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        (ONE, {"object", "fence"}),
        (f"```json\n{ONE}\n```", {"object"}),
        (f"{ONE}\n{ONE}", {"object", "fence"}),
        (f"{ONE}，{ONE}", {"object", "fence"}),
        (f"好的，抽取结果如下：\n```json\n{LIST}\n```", {"prose"}),
        (f"```json\n{LIST}\n```\n以上就是全部。", {"prose"}),
        (f"结果：{LIST}。", {"prose", "fence"}),
        (f'{{"triplets": {LIST}}}', {"wrapped", "fence"}),
        (f'```json\n{{"抽取结果": {LIST}}}\n```', {"wrapped"}),
        (f"```JSON\n{LIST}\n```", {"fence"}),
        (f"``` json\n{LIST}\n```", {"fence"}),
        (f"```json\r\n{LIST}\r\n```", {"fence"}),
        (f"```\n{LIST}\n```", {"fence"}),
        (f"~~~json\n{LIST}\n~~~", {"fence"}),
        (f"````json\n{LIST}\n````", {"fence"}),
        (f"```json\n{LIST}", {"fence"}),
        (f"```json {LIST} ```", {"fence"}),
        (LIST, {"fence"}),
        (f"\n  {LIST}\n", {"fence"}),
        (without(start=3, score=0.5), {"extra"}),
        (f"```json\n{json.dumps([dict(reversed(FIELDS.items()))])}\n```", {"notation"}),
        (f"```json\n{json.dumps([FIELDS], indent=1, ensure_ascii=False)}\n```", {"notation"}),
    ],
)
def test_what_is_meant_beyond_doubt_is_read(target: str, changes: set[str]) -> None:
    answer = read_answer(target, HEAD, SENTENCE)
    assert answer.problem is None and answer.triplets is not None
    assert set(answer.triplets) == {ROAD}
    assert answer.target == format_target(answer.triplets) and parse_target(answer.target)
    assert set(answer.changes) == changes <= set(CHANGES)


@pytest.mark.parametrize(
    "target", ["[]", " [ ] ", "```\n[]\n```", "没有：\n```json\n[]\n```", '{"triplets": []}', '{"结果": []}']
)
def test_ways_to_say_that_there_is_nothing(target: str) -> None:
    answer = read_answer(target, HEAD, SENTENCE)
    assert (answer.target, answer.triplets, answer.problem) == ("```json\n[]\n```", (), None)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (without("subject_type", "object_type"), "三元组没有类型（缺少字段 object_type、subject_type）"),
        (without("object_type"), "三元组没有类型（缺少字段 object_type）"),
        (without("object", "subject", "predicate"), "三元组缺少字段 predicate、object、subject"),
        ('[{"head": "北方的路", "relation": "作者", "tail": "何青"}]', "（现有 head、relation、tail）"),
        (without(subject_type=""), "三元组的字段 subject_type 是空的"),
        (without(object_type=" \u3000"), "三元组的字段 object_type 是空的"),
        (without(predicate=""), "三元组的字段 predicate 是空的"),
        (without(object=""), "三元组的字段 object 没有一个字"),
        (without(subject="……"), "三元组的字段 subject 没有一个字"),
        (without(object={"@value": "何青"}), "三元组的字段 object 应当是字符串"),
        (without(object_type=None), "三元组的字段 object_type 应当是字符串"),
        (without(predicate="作" * 101), "三元组的字段 predicate 有 101 个字符，超过上限 100"),
        (f'```json\n[{ONE[:-1]}, "object": "方圆"}}]\n```', "三元组里字段 object 写了不止一次"),
        (f'[{ONE[:-1]}, "note": "甲", "note": "乙"}}]', "三元组里字段 note 写了不止一次"),
        (without(object="\ud800").encode("ascii", "backslashreplace").decode(), "不成对的代理字符"),
        (f"```json\n[{ONE}, 3]\n```", "三元组的列表里有不是对象的项"),
        (f"{LIST}\n{LIST}", "答案里有不止一个 JSON 列表"),
        (f"```json\n{LIST}\n```\n```json\n{LIST}\n```", "答案里有不止一段 JSON"),
        (f"```json\n{LIST}\n```\n还有：{LIST}", "答案里有不止一段 JSON"),
        (f"一：{LIST}，二：{LIST}", "答案里有不止一段 JSON"),
        (f"```json\n[]\n```\n更正：\n```json\n{LIST}\n```", "答案里有不止一段 JSON"),
        (f'{{"triplets": []}}，{LIST}', "答案里有不止一个 JSON 列表"),
        (f'{{"triplets": {LIST}, "count": 1}}', "认不出三元组的写法"),
        (f'{{"作者": {LIST}, "体裁": []}}', "认不出三元组的写法"),
        (f"[1] {LIST}", "答案里有不止一个 JSON 列表"),
        (f"```json\n{LIST[:-5]}\n```", "答案不是合法的 JSON"),
        (f"结果：{ONE[:-3]}", "答案不是合法的 JSON"),
        ("北方的路_作者_何青", "答案是用文字写的三元组，不是 JSON"),
        ("（北方的路，作者，何青）", "答案是用文字写的三元组，不是 JSON"),
        ("北方的路 | 作者 | 何青\n《北方的路》 | 体裁 | 小说", "答案是用文字写的三元组，不是 JSON"),
        ('[["北方的路", "作者", "何青"]]', "答案是用文字写的三元组，不是 JSON"),
    ],
)
def test_what_is_in_doubt_is_named_and_teaches_nothing(target: str, problem: str) -> None:
    answer = read_answer(target, HEAD, SENTENCE)
    assert answer.triplets is None and answer.problem is not None
    assert problem in answer.problem


@pytest.mark.parametrize(
    "target", ["正面", '["水果", "手机"]', '{"类别": "体育"}', "[图片] 很好", "3", "[1, 2]", "没有写，有两处"]
)
def test_answers_to_other_questions_are_left_as_they_are(target: str) -> None:
    head, sentence, _ = split_context(build_prompt("水果，手机，很好。", "说的是什么？"))
    assert read_answer(target, head, sentence) == Answer(target)
    assert read_answer(target, HEAD, SENTENCE) == Answer(target, is_other=True)


def test_words_are_taken_for_facts_only_where_facts_are_asked_for() -> None:
    listed = "何青，小说，续篇"
    assert read_answer(listed, HEAD, SENTENCE).problem is not None
    assert read_answer(listed, HEAD.replace(INSTRUCTION, "列出文中的词："), SENTENCE) == Answer(listed)
    assert read_answer("北方的路_作者_何青", HEAD, "这一句说的是别的。") == Answer(
        "北方的路_作者_何青", is_other=True
    )


@pytest.mark.parametrize(
    "part", ["[", "{", "```", "[{", "`~", "```json\n", " ", "\t", "_", "—", "[] ", "{} ", '{"a":', "- ", ";"]
)
def test_hostile_answers_end_soon(part: str) -> None:
    started = time.process_time()
    assert not read_answer(part * 50_000, HEAD, SENTENCE).triplets
    assert time.process_time() - started < 2


def test_an_object_with_very_many_fields_ends_soon() -> None:
    fields = ",".join(f'"k{number}": ""' for number in range(50_000))
    started = time.process_time()
    assert read_answer(f'[{{"predicate": "", {fields}, "k7": ""}}]').problem == "三元组里字段 k7 写了不止一次"
    assert time.process_time() - started < 2


def test_the_strict_reader_refuses_a_field_written_twice() -> None:
    with pytest.raises(ValueError, match="写了不止一次"):
        parse_target(f'[{ONE[:-1]}, "object": "方圆"}}]')

"""Foreign formats to training lines: each recognised by its content; what it can't give is named."""

from __future__ import annotations

import json

import pytest

from tests.data_handle.converting import (
    DIRECTED,
    DOCCANO,
    FILM,
    PLAYED,
    RAIN,
    Runner,
    as_json,
    jsonl,
    untyped,
)
from utils.common_utils import UserError

BOTH = [DIRECTED, PLAYED]
ASK = "帮我抽取出下面句子中的三元组信息，返回JSON："
SPO = [
    {
        "predicate": "导演",
        "subject": "雾港来信",
        "subject_type": "影视作品",
        "object": {"@value": "沈知远"},
        "object_type": {"@value": "人物"},
    },
    {
        "predicate": "主演",
        "subject": "雾港来信",
        "subject_type": "影视作品",
        "object": {"@value": "顾小满"},
        "object_type": {"@value": "人物"},
    },
]


def test_alpaca_lines_and_array(runner: Runner) -> None:
    records = [
        {"instruction": ASK, "input": FILM, "output": as_json(*BOTH)},
        {"instruction": ASK, "input": RAIN, "output": "[]"},
    ]
    for content in (jsonl(*records), records):
        converted = runner(content)
        assert converted.sentences == {FILM: BOTH, RAIN: []}
        assert "认作 Alpaca" in converted.talk and "采用 2 条" in converted.talk


def test_alpaca_with_the_sentence_in_the_instruction(runner: Runner) -> None:
    records = [
        {"instruction": f"抽取三元组。\n句子：{text}", "input": "", "output": answer}
        for text, answer in (
            (FILM, as_json(*BOTH)),
            ("简介：" + FILM, as_json(DIRECTED)),
            (RAIN, "[]"),
            ("注意：" + RAIN, "[]"),
        )
    ]
    converted = runner(jsonl(*records))
    assert converted.sentences == {FILM: BOTH, f"简介：{FILM}": [DIRECTED], RAIN: [], f"注意：{RAIN}": []}


@pytest.mark.parametrize(
    ("key", "speaker", "text", "asks", "answers"),
    [
        ("conversations", "from", "value", "human", "gpt"),
        ("messages", "role", "content", "user", "assistant"),
    ],
)
def test_conversations(runner: Runner, key: str, speaker: str, text: str, asks: str, answers: str) -> None:
    turns = [
        {speaker: "system", text: "你是抽取助手。"},
        {speaker: asks, text: f"{ASK}{FILM}"},
        {speaker: answers, text: f"```json\n{as_json(*BOTH)}\n```"},
        {speaker: asks, text: f"{ASK}{RAIN}"},
        {speaker: answers, text: "[]"},
    ]
    assert runner([{key: turns}]).sentences == {FILM: BOTH, RAIN: []}


def test_prompt_whose_sentence_cannot_be_told_is_reported(runner: Runner) -> None:
    good = {"instruction": ASK, "input": FILM, "output": as_json(DIRECTED)}
    bad = {"instruction": FILM, "input": "", "output": as_json(DIRECTED)}
    converted = runner(jsonl(good, bad))
    assert converted.sentences == {FILM: [DIRECTED]}
    assert "分不清指令和句子：1 处" in converted.talk and "labels.dat:2" in converted.talk


def test_duie_lines_array_and_first_release(runner: Runner) -> None:
    empty = {"text": RAIN, "spo_list": []}
    assert runner([{"text": FILM, "spo_list": SPO}, empty]).sentences == {FILM: BOTH, RAIN: []}
    plain = [{**item, "object": item["object"]["@value"], "object_type": "人物"} for item in SPO]
    converted = runner(jsonl({"postag": [], "text": FILM, "spo_list": plain}))
    assert converted.sentences == {FILM: BOTH}
    assert "DuIE 1.0 / SKE" in converted.talk
    converted = runner(jsonl({"text": FILM, "spo_list": [{"Combined": False, **item} for item in SPO]}))
    assert converted.sentences == {FILM: BOTH}
    assert "CMeIE" in converted.talk


def test_duie_slots(runner: Runner) -> None:
    text = "《雾港来信》2021年在香港上映。"
    fact = {
        "predicate": "上映时间",
        "subject": "雾港来信",
        "subject_type": "影视作品",
        "object": {"@value": "2021年", "inArea": "香港"},
        "object_type": {"@value": "Date", "inArea": "地点"},
    }
    content = jsonl({"text": text, "spo_list": [fact]})
    dropped, kept = runner(content), runner(content, "--slots", "triplets")
    assert [triplet.predicate for triplet in dropped.sentences[text]] == ["上映时间"]
    assert "略去复杂关系的附加项" in dropped.talk and "上映时间_inArea：香港" in dropped.talk
    assert [triplet.predicate for triplet in kept.sentences[text]] == ["上映时间", "上映时间_inArea"]
    for slot, kind in (("", "地点"), ("香港", "")):
        fact["object"] = {"@value": "2021年", "inArea": slot}
        fact["object_type"] = {"@value": "Date", "inArea": kind}
        converted = runner(jsonl({"text": text, "spo_list": [fact]}), "--slots", "triplets")
        assert [triplet.predicate for triplet in converted.sentences[text]] == ["上映时间"]
        assert "附加项是空的或没有类型：1 处" in converted.talk


def test_test_set_without_labels_is_named(runner: Runner) -> None:
    with pytest.raises(UserError, match="没有一个句子可用"):
        runner(jsonl({"postag": [], "text": FILM}))
    talk = runner._capsys.readouterr().err
    assert "没有 spo_list 列表（测试集没有标注，不能用来训练）：1 处" in talk


@pytest.mark.parametrize(
    "record",
    [
        {"text": FILM, "spo_list": [{"subject": "雾港来信", "predicate": "导演", "object": "沈知远"}]},
        {"text": FILM, "spo_list": [["雾港来信", "导演", "沈知远"]]},
        {"text": FILM, "triple_list": [["雾港来信", "导演", "沈知远"]]},
        {"text": FILM, "labels": [["雾港来信", "导演", "沈知远"]]},
        {
            "sentText": FILM,
            "relationMentions": [{"em1Text": "雾港来信", "em2Text": "沈知远", "label": "导演"}],
        },
        {"sentence": FILM, "triples": [{"h": "雾港来信", "r": "导演", "t": "沈知远"}]},
        {"sentence": FILM, "head": "雾港来信", "relation": "导演", "tail": "沈知远"},
        {"句子": FILM, "三元组": [{"主语": "雾港来信", "关系": "导演", "宾语": "沈知远"}]},
        {
            "input": FILM,
            "relation": [{"head": "雾港来信", "head_type": " ", "relation": "导演", "tail": "沈知远"}],
        },
        {"text": FILM, "triplets": as_json(DIRECTED._replace(object_type="", subject_type=""))},
        {"text": FILM, "triple": ["雾港来信|导演|沈知远"]},
        {"text": FILM, "kg": [{"subject": "雾港来信", "predicate": "导演", "object": "沈知远"}]},
        {"text": FILM, "triplets": {"导演": [{"subject": "雾港来信", "object": "沈知远"}]}},
        {
            "text": FILM,
            "relations": [
                {
                    "subject": {"text": "雾港来信", "start": 1, "end": 5},
                    "predicate": {"name": "导演"},
                    "object": {"text": "沈知远"},
                }
            ],
        },
        {
            "ID": "1",
            "sentence": FILM,
            "spo": [
                {
                    "head": {"name": "雾港来信", "position": [1, 5]},
                    "tail": {"name": "沈知远", "position": [7, 10]},
                    "relation": "导演",
                }
            ],
        },
    ],
)
def test_spellings_of_untyped_triplets(runner: Runner, record: object) -> None:
    converted = runner(jsonl(record))
    assert converted.sentences == {FILM: untyped(DIRECTED)}
    assert "1 个三元组缺主语或宾语的类型，以“实体”代替（导演 1）" in converted.talk


def test_results_of_extraction_come_back_with_their_spans(runner: Runner) -> None:
    triplet = {**DIRECTED._asdict(), "score": 0.98, "object_span": [7, 10], "subject_span": [1, 5]}
    line = runner(jsonl({"text": FILM, "triplets": [triplet], "repaired": False})).lines[0]
    assert line["spans"] == [{"object_span": [7, 10], "subject_span": [1, 5]}]


def iepile(schema: list[object], answer: object, task: str = "RE") -> dict[str, str]:
    question = {"instruction": "抽取关系三元组。", "schema": schema, "input": FILM}
    return {
        "task": task,
        "source": "X",
        "instruction": json.dumps(question, ensure_ascii=False),
        "output": json.dumps(answer, ensure_ascii=False),
    }


def test_iepile_puts_the_parts_of_a_sentence_together(runner: Runner) -> None:
    directed = iepile(["导演", "编剧"], {"导演": [{"subject": "雾港来信", "object": "沈知远"}], "编剧": []})
    played = iepile(["主演"], {"主演": [{"head": "雾港来信", "tail": "顾小满"}]})
    entities = iepile(["人物"], {"人物": ["沈知远"]}, task="NER")
    converted = runner(jsonl(directed, played, entities))
    assert converted.sentences == {FILM: untyped(DIRECTED, PLAYED)}
    assert "是 NER 任务，没有关系：1 处" in converted.talk


def test_iepile_with_types_and_by_entity(runner: Runner) -> None:
    schema = [{"subject_type": "影视作品", "predicate": "导演", "object_type": "人物"}]
    typed = iepile(schema, {"导演": [{"subject": "雾港来信", "object": "沈知远"}]}, task="SPO")
    assert runner(jsonl(typed)).sentences == {FILM: [DIRECTED]}
    by_entity = iepile([], {"影视作品": {"雾港来信": {"导演": "沈知远", "主演": ["顾小满"]}}}, task="KG")
    expected = [triplet._replace(object_type="实体") for triplet in BOTH]
    assert runner(jsonl(by_entity)).sentences == {FILM: expected}


def test_own_lines_and_array_keep_their_instruction(runner: Runner) -> None:
    context = "Instruction: 你是助手。\nInput: 抽SPO：\n\n" + FILM + "\nAnswer: "
    record = {"context": context, "target": f"```json\n{as_json(*BOTH)}\n```"}
    for content in ([record], jsonl(record)):
        converted = runner(content)
        assert converted.sentences == {FILM: BOTH}
        assert "Input: 抽SPO：\n\n" in converted.lines[0]["context"]


@pytest.mark.parametrize(
    "target",
    [
        as_json(DIRECTED)[1:-1],
        f"抽取结果如下：\n```json\n{as_json(DIRECTED)}\n```",
        f'{{"spo_list": {as_json(DIRECTED)}}}',
        f"```JSON\n{as_json(DIRECTED)}\n```",
        f"``` json\n{as_json(DIRECTED)}\n```\n以上。",
        f"```json\r\n{as_json(DIRECTED)}\r\n```",
        f"  {as_json(DIRECTED)}\n",
        as_json(DIRECTED)[:-2] + ', "subject_start": 1}]',
    ],
)
def test_answers_in_other_notations_are_read(runner: Runner, target: str) -> None:
    assert runner(jsonl({"context": FILM, "target": target})).sentences == {FILM: [DIRECTED]}


def test_answers_that_cannot_be_read_are_named(runner: Runner) -> None:
    twice = as_json(DIRECTED)[:-2] + ', "object": "别人"}]'
    good = {"context": FILM, "target": as_json(DIRECTED)}
    entities = '[{"entity": "沈知远", "type": "人物"}]'
    texts = ("雾港来信_导演_沈知远", twice, "", entities, '["电影"]')
    bad = [{"context": FILM, "target": target} for target in texts]
    converted = runner(jsonl(good, *bad))
    assert converted.sentences == {FILM: [DIRECTED]}
    for reason in (
        "直接并入训练文件）：3 处",
        "宾语 在同一个对象里写了两次，取值不同：1 处",
        "答案是空的：1 处",
    ):
        assert reason in converted.talk
    assert "读入 6 条，采用 1 条，没有采用 5 条" in converted.talk


@pytest.mark.parametrize(
    "answer", ["程序如下：main(string[] args) {}", "先写 dice = []，再掷。", "```c\nint a[];\n```"]
)
def test_empty_brackets_in_an_answer_of_words_do_not_mean_nothing(runner: Runner, answer: str) -> None:
    good = {"instruction": ASK, "input": FILM, "output": as_json(DIRECTED)}
    converted = runner(jsonl(good, {"instruction": "写一个程序。", "input": RAIN, "output": answer}))
    assert converted.sentences == {FILM: [DIRECTED]}
    assert "直接并入训练文件）：1 处" in converted.talk


def test_blank_types_are_filled_in(runner: Runner) -> None:
    blank = DIRECTED._replace(object_type="")
    converted = runner(jsonl({"context": FILM, "target": as_json(blank)}))
    assert converted.sentences == {FILM: [DIRECTED._replace(object_type="实体")]}


def test_answer_as_tuples(runner: Runner) -> None:
    output = "(雾港来信,导演,沈知远)\n(雾港来信,主演,顾小满)"
    converted = runner(jsonl({"instruction": ASK, "input": FILM, "output": output}))
    assert converted.sentences == {FILM: untyped(*BOTH)}


def test_formats_may_be_mixed_in_a_file_and_wrapped(runner: Runner) -> None:
    records = [DOCCANO, {"text": RAIN, "triplets": []}]
    converted = runner({"version": 1, "data": records})
    assert converted.sentences == {FILM: [DIRECTED], RAIN: []}
    assert (
        "doccano（实体与关系） 1 条、句子与三元组（text、triplets） 1 条（JSON 对象里的列表" in converted.talk
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            jsonl({"predicate": "导演", "subject_type": "影视作品"}),
            "字段 predicate、subject_type里没有认得的",
        ),
        ('[{"text": "断了', "像是 JSON 数组，但内容有误：第 1 行?.*请检查文件是否完整|像是 JSON 数组"),
        (b"PK\x03\x04 word/document.xml", "zip 压缩包"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "另存为不加密的 .xlsx"),
        (b"\x1f\x8b\x08", "gzip 压缩文件.*请先解压"),
        (b" \n", "是空的"),
        (b"\xff\x80abc\x81\xff" * 9, "认不出编码"),
    ],
)
def test_unknown_files_are_named_for_what_they_are(
    runner: Runner, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        runner(content)


def test_objects_one_after_another_over_several_lines(runner: Runner) -> None:
    records = [{"text": FILM, "triplets": [DIRECTED._asdict()]}, {"text": RAIN, "triplets": []}]
    content = "\n" + "\n".join(json.dumps(record, ensure_ascii=False, indent=2) for record in records) + "\n"
    converted = runner(content)
    assert converted.sentences == {FILM: [DIRECTED], RAIN: []}
    assert "接连的 JSON 对象" in converted.talk


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "甲是乙。", "triplets": [["甲", "是", "乙"]]},\n{"text": "丙。", "triplets": []},\n',
        '[\n{"text": "甲是乙。", "triplets": [["甲", "是", "乙"]]},\n{"text": "丙。", "triplets": []},\n]\n',
        "{'text': '甲是乙。', 'triplets': [('甲', '是', '乙')]}\n{'text': '丙。', 'triplets': []}\n",
        '{"7": {"text": "甲是乙。", "spo": [["甲", "是", "乙"]]}, "9": {"text": "丙。", "spo": []}}',
        '{"n": 1, "docs": [{"text": "甲是乙。", "spo": [["甲", "是", "乙"]]}, {"text": "丙。", "spo": []}]}',
    ],
)
def test_json_as_it_is_written_by_hand_and_by_scripts(runner: Runner, content: str) -> None:
    found = {text: [t[0] for t in triplets] for text, triplets in runner(content).sentences.items()}
    assert found == {"甲是乙。": ["是"], "丙。": []}


def test_one_record_alone_in_a_file(runner: Runner) -> None:
    turns = [{"role": "user", "content": f"{ASK}{FILM}"}, {"role": "assistant", "content": as_json(*BOTH)}]
    assert runner({"messages": turns}).sentences == {FILM: BOTH}
    assert runner(DOCCANO).sentences == {FILM: [DIRECTED]}


def test_array_that_breaks_off_keeps_its_whole_items(runner: Runner) -> None:
    converted = runner('[\n{"text": "甲是乙。", "triplets": [["甲", "是", "乙"]]},\n{"text": "丙')
    assert list(converted.sentences) == ["甲是乙。"]
    assert "不是合法的 JSON：1 处" in converted.talk and "没有采用 1 条" in converted.talk


def test_folder_without_annotations(runner: Runner) -> None:
    with pytest.raises(UserError, match=r"里面也没有 brat 的 \.ann 文件"):
        runner.convert(runner.folder)
    with pytest.raises(UserError, match="找不到输入文件"):
        runner.convert(runner.folder / "none.json")

"""Encoding examples: labels by hand, whole triplets lost from the end, every loss counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_handle.data_preprocess import (
    EncodedExample,
    EncodingSummary,
    Example,
    Features,
    encode_example,
    encode_examples,
    fit_target,
)
from task.prompt import build_prompt, split_context
from task.triplets import Triplet, format_target, parse_target
from tests.helpers.data_samples import CharacterTokenizer, director, make_line
from utils.common_utils import UserError

TOKENIZER = CharacterTokenizer()
EOP = TOKENIZER.eos_token_id
TINY_BASE = Path(__file__).parents[2] / "models" / "chatglm-tiny"


def encode(context: str, target: str, source: int = 256, answer: int = 128) -> EncodedExample:
    return encode_example(TOKENIZER, context, target, source, answer)


def learnt_text(features: Features | None) -> str:
    """Return what the labels say, `<eop>` shown as a full stop."""
    assert features is not None
    return "".join("." if label == EOP else chr(label) for label in features.labels if label != -100)


def test_ids_and_labels_by_hand() -> None:
    encoded = encode("ab", "xyz")
    assert encoded == EncodedExample(
        Features(
            input_ids=[97, 98, 1, 2, 120, 121, 122, 3], labels=[-100, -100, -100, -100, 120, 121, 122, 3]
        )
    )


def test_target_that_just_fits_is_whole() -> None:
    assert learnt_text(encode("ab", "xyz", answer=4).features) == "xyz."


def test_text_that_is_too_long_is_cut_and_does_not_learn_to_stop() -> None:
    encoded = encode("ab", "wxyz", answer=4)
    assert encoded.features == Features([97, 98, 1, 2, *b"wxyz"], [-100] * 4 + [*b"wxyz"])
    assert encoded == EncodedExample(encoded.features, text_cut=True)


def test_context_is_cut_in_the_sentence_only() -> None:
    context = build_prompt("甲乙丙丁")
    encoded = encode(context, "x", source=len(context))  # two characters over, for [gMASK] <sop>
    assert encoded.source_truncated
    assert encoded.features is not None
    assert encoded.features.input_ids[:-2] == [*map(ord, build_prompt("甲乙")), 1, 2]
    assert not encode(context, "x", source=len(context) + 2).source_truncated


def test_instruction_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="max_source_seq_len=20 太小"):
        encode(build_prompt("甲"), "x", source=20)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_triplets_are_lost_from_the_end(kept: int) -> None:
    triplets = [director("甲片", "张一"), director("乙片", "王二"), director("丙片", "李三")]
    limit = len(format_target(triplets[:kept])) + 1

    for room in (limit, limit + 20):
        encoded = encode("ab", format_target(triplets), answer=room)
        assert learnt_text(encoded.features) == format_target(triplets[:kept]) + "."
        assert encoded.triplets_dropped == 3 - kept
    assert not encoded.text_cut


def test_cut_keeps_the_notation_of_the_line() -> None:
    pretty = (
        "```json\n" + json.dumps([{"b": "一"}, {"b": ["]", "[", "\\"]}, {"b": "三"}], indent=1) + "\n```\n"
    )
    expected = pretty[: pretty.index('"]",')]
    one = '```json\n[\n {\n  "b": "\\u4e00"\n }\n]\n```\n'
    assert learnt_text(encode("a", pretty, answer=len(one) + 1).features) == one + "."
    encoded = encode("a", pretty, answer=len(pretty))
    text = learnt_text(encoded.features)
    assert text.startswith(expected)
    assert json.loads(text.removeprefix("```json").removesuffix("\n```\n.")) == [
        {"b": "一"},
        {"b": ["]", "[", "\\"]},
    ]
    assert encoded.triplets_dropped == 1


def test_lists_of_other_items_and_without_fence_stay_whole_json() -> None:
    assert learnt_text(encode("a", '["衣服", "水果", "平板"]', answer=14).features) == '["衣服", "水果"].'
    assert learnt_text(encode("a", " [1 ,2 ,3 ] ", answer=12).features) == " [1 ,2 ] ."


@pytest.mark.parametrize(
    "target",
    [
        '```json\n[{"predicate": "导演"\n```',
        '[{"predicate": }]',
        "```json\n还没有写完\n```",
        '```\n[{"predicate": "导演',
        '[\n  {"predicate": "导演"\n',
    ],
)
def test_broken_json_is_never_learnt(target: str) -> None:
    for limit in (10, 200):
        assert encode("a", target, answer=limit) == EncodedExample(None, left_out="答案不是合法的 JSON")


@pytest.mark.parametrize(
    "target", ['[{"关系": "导演"}]', "```python\nprint()\n```", "[图片] 很好", '{"好": ']
)
def test_other_answers_are_taken_as_they_are(target: str) -> None:
    assert learnt_text(encode("a", target).features) == target + "."


UNCUTTABLE = [
    format_target([director("一部名字很长的影片", "一个名字也很长的人")]),  # not even one fits
    '{"predicate": "导演", "subject": "一部名字很长的影片"}',  # no list
    '["predicate", "导演", {"predicate": "主演"}, {"predic',  # broken off
    '["predicate", "导演", "predicate", "主演"] 以上',  # text after it
    '["predicate", "导演", "predicate", "主演",]',
    "```json\n[]\n```" + " " * 40,
    "[" * 100_000,
    "```python\nprint('还没有写完，还没有写完，还没有写完')\n```",
]


@pytest.mark.parametrize("target", UNCUTTABLE, ids=range(len(UNCUTTABLE)))
def test_json_that_cannot_be_cut_is_left_out(target: str) -> None:
    encoded = encode("a", target, answer=30)
    assert encoded.features is None
    assert encoded.left_out is not None
    assert "max_target_seq_len=30 一个三元组也放不下" in encoded.left_out


def test_huge_answers_take_no_quadratic_memory_or_time() -> None:
    target = format_target([director("片", str(number)) for number in range(10_000)])
    fitted = fit_target(TOKENIZER, target, 128)
    assert fitted.tokens == len(target) + 1
    assert fitted.items_dropped == 9_999


def examples_of(*lines: dict[str, str]) -> list[Example]:
    return [Example(line["context"], line["target"], number) for number, line in enumerate(lines, start=1)]


def test_summary_counts_and_names_every_loss() -> None:
    long = director(
        "一部名字很长很长很长很长很长很长很长很长很长很长的影片", "一个名字也很长很长很长很长很长很长的人"
    )
    examples = examples_of(
        make_line("短句", director("甲", "乙")),
        make_line("长" * 300),
        make_line("短句", director("甲", "乙"), director("丙", "丁"), director("戊", "己")),
        {"context": build_prompt("短句"), "target": "答" * 200},
        make_line("短句", long),
        make_line("短句", instruction="令" * 300),
    )

    features, summary = encode_examples(TOKENIZER, examples, 256, 128)

    assert len(features) == 4
    assert (summary.examples, summary.sources_truncated, summary.targets_cut) == (4, 1, 1)
    assert (summary.triplets_dropped, summary.texts_cut) == (2, 1)
    assert summary.tokens == sum(len(item.input_ids) for item in features)
    assert [line for line, _ in summary.left_out] == [5, 6]
    report = summary.report()
    assert f"4 条样本，共 {summary.tokens:,} 个 token" in report
    assert "1 条的句子超过 max_source_seq_len=256，句尾被截去" in report
    assert "1 条的答案超过 max_target_seq_len=128，从末尾共去掉 2 个三元组" in report
    assert "1 条的文字答案超过 max_target_seq_len，在末尾截断且不加 <eop>" in report
    assert "没有采用：第 5 行（答案有" in report
    assert "第 6 行（max_source_seq_len=256 太小" in report


def test_summary_without_losses_and_with_many() -> None:
    _, summary = encode_examples(TOKENIZER, examples_of(make_line("短句")), 256, 128)
    assert summary.report().endswith("全部在长度限制以内。")

    summary = EncodingSummary(256, 128)
    for number in range(1, 8):
        summary.add(EncodedExample(None, left_out="太长"), number)
    assert "第 5 行（太长）等 7 条。" in summary.report()


def test_answers_are_learnt_in_the_one_notation_and_the_report_says_what_was_changed() -> None:
    fact = director("甲传", "张一")
    bare = json.dumps([fact._asdict()], ensure_ascii=False)
    targets = [bare, f"结果：\n```JSON\n{bare}\n```", format_target([fact]), "[]", "无"]
    context = build_prompt("《甲传》由张一执导。")
    features, summary = encode_examples(
        TOKENIZER, examples_of(*({"context": context, "target": target} for target in targets)), 256, 256
    )
    learnt = [learnt_text(sample) for sample in features]
    assert learnt == [*[format_target([fact]) + "."] * 3, format_target([]) + ".", "无."]
    report = summary.report()
    changed = "3 条的答案改写成了本项目的写法（前后的说明文字 1 条、没有代码围栏，或围栏的写法不同 3 条；"
    assert changed + "第 1、2、4 行）" in report
    assert "1 条的答案像是该有三元组却没有，按文字训练（第 5 行）" in report


def test_answers_in_doubt_teach_nothing_and_are_named() -> None:
    untyped = '[{"subject": "甲传", "predicate": "导演", "object": "张一"}]'
    blank = format_target([Triplet("导演", "", "影视作品", "张一", "甲传")])
    words = "甲传_导演_张一"
    twice = format_target([director("甲传", "张一")]).replace('"object"', '"object": "甲", "object"')
    context = build_prompt("《甲传》由张一执导。")
    lines = [{"context": context, "target": target} for target in (untyped, blank, words, twice, "[]")]
    features, summary = encode_examples(TOKENIZER, examples_of(*lines), 256, 256)
    assert [learnt_text(sample) for sample in features] == [format_target([]) + "."]
    assert summary.left_out == [
        (1, "三元组没有类型（缺少字段 object_type、subject_type）"),
        (2, "三元组的字段 object_type 是空的"),
        (3, "答案是用文字写的三元组，不是 JSON"),
        (4, "三元组里字段 object 写了不止一次"),
    ]
    assert "没有采用：第 1 行（三元组没有类型" in summary.report()


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(UserError, match=r"没有一条样本可用于训练：.*max_source_seq_len=10 太小"):
        encode_examples(TOKENIZER, examples_of(make_line("短句")), 10, 128)


@pytest.fixture(scope="module")
def tiny_tokenizer():
    from bases.chatglm import ChatGLMTokenizer

    return ChatGLMTokenizer.from_pretrained(TINY_BASE)


@pytest.mark.parametrize("limit", [40, 64, 90, 128, 200])
def test_properties_on_the_bundled_data(tiny_tokenizer, limit: int) -> None:
    """With a real tokenizer: limits held, answers are true beginnings, not one triplet more could stay."""
    from data_handle.reader import read_jsonl

    tokenizer = tiny_tokenizer
    examples, _ = read_jsonl(Path(__file__).parents[2] / "data" / "mixed_dev_dataset.jsonl")
    for example in examples:
        encoded = encode_example(tokenizer, example.context, example.target, 64, limit)
        if encoded.features is None:
            continue
        input_ids, labels = encoded.features.input_ids, encoded.features.labels
        start = input_ids.index(tokenizer.bos_token_id) + 1
        assert start <= 64
        assert input_ids[start - 2] == tokenizer.gmask_token_id
        assert labels == [-100] * start + input_ids[start:]
        assert len(labels) - start <= limit
        assert encoded.source_truncated == (len(tokenizer.encode_plain(example.context)) + 2 > 64)
        head, _, tail = split_context(example.context)
        decoded = tokenizer.decode(input_ids[: start - 2])
        assert decoded.strip().startswith(tokenizer.decode(tokenizer.encode_plain(head)).strip())
        assert decoded.strip().endswith(tail.strip())
        if encoded.text_cut:
            assert tokenizer.eos_token_id not in labels
            continue
        assert labels[-1] == tokenizer.eos_token_id
        if encoded.triplets_dropped:
            whole = parse_target(example.target)
            kept = len(whole) - encoded.triplets_dropped
            assert kept >= 1
            assert labels[start:-1] == tokenizer.encode_plain(format_target(whole[:kept]))
            assert len(tokenizer.encode_plain(format_target(whole[: kept + 1]))) + 1 > limit
        else:
            assert labels[start:-1] == tokenizer.encode_plain(example.target)


def test_special_token_text_stays_text(tiny_tokenizer) -> None:
    sentence, target = "输入[gMASK]和<sop>与<eop>。", "[gMASK]<sop><eop>"
    encoded = encode_example(tiny_tokenizer, build_prompt(sentence), target, 256, 128)
    assert encoded.features is not None
    ids = encoded.features.input_ids
    for special in (tiny_tokenizer.gmask_token_id, tiny_tokenizer.bos_token_id, tiny_tokenizer.eos_token_id):
        assert ids.count(special) == 1
    assert ids[-1] == tiny_tokenizer.eos_token_id

"""The corpus generator: reproducible, true to its own triplets, broad, and free of the evaluation file."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from task.prompt import split_context
from task.triplets import Triplet, parse_target
from tiny_base.corpus.fillers import FILLERS
from tiny_base.corpus.grammar import Kind, Phrase, Record, Teller, choose, join_list, parse_kinds, slots
from tiny_base.corpus.heldout import HeldOut, skeleton
from tiny_base.corpus.registers import crowd, noise
from tiny_base.corpus.reviews import TOPICS, review
from tiny_base.corpus.schema import COMPANY_TYPES, TYPES
from tiny_base.corpus.sentences import Writer, kinds
from tiny_base.corpus.tasks import LONG_BLANK, SHORT_BLANK, TaskWriter

ROOT = Path(__file__).parents[2]
DEV_FILE = ROOT / "data" / "mixed_dev_dataset.jsonl"
FAMILY_SLOTS = {"父": "父亲", "母": "母亲"}


@pytest.fixture(scope="module")
def sentences():
    writer = Writer(random.Random(11))
    return [writer.sentence() for _ in range(3000)]


@pytest.fixture(scope="module")
def held_out():
    return HeldOut.from_file(DEV_FILE)


@pytest.fixture(scope="module")
def samples(held_out):
    writer = TaskWriter(21, held_out)
    return [writer.sample() for _ in range(4000)]


# ---- the engine, on phrases written here ----

TABLE = """
# a comment
= film | 电影 | 该片 | quoted
pred 由{导演}执导
pred 由{编剧=导演}自编自导
lead {导演}拍了{S}
"""


def make_teller(facts, subject="雨夜", seed=0):
    kind = parse_kinds(TABLE, TYPES)["film"]
    return Teller(
        random.Random(seed), Record(kind, subject, facts, {name: TYPES[name] for name in facts}), FILLERS
    )


def test_phrase_tables_are_read_with_the_predicates_of_their_slots():
    kind = parse_kinds(TABLE, TYPES)["film"]
    assert kind.phrases["pred"] == [
        Phrase("由{导演}执导", frozenset({"导演"})),
        Phrase("由{编剧=导演}自编自导", frozenset({"导演", "编剧"})),
    ]
    assert (kind.nouns, kind.pronouns, kind.quoted) == (("电影",), ("该片",), True)


def test_telling_a_phrase_gives_its_text_and_its_triplets_once():
    teller = make_teller({"导演": ["王一", "李二"]})
    text = teller.tell(Phrase("由{导演}执导", frozenset({"导演"})))
    assert "王一" in text and "李二" in text and text.startswith("由") and text.endswith("执导")
    assert teller.triplets == [
        Triplet("导演", "人物", "影视作品", "王一", "雨夜"),
        Triplet("导演", "人物", "影视作品", "李二", "雨夜"),
    ]
    assert teller.pick("pred") is None  # told already


def test_a_phrase_for_one_person_in_two_roles_needs_equal_values():
    different = make_teller({"导演": ["王一"], "编剧": ["李二"]})
    assert {different.pick("pred").text for _ in range(40)} == {"由{导演}执导"}
    same = make_teller({"导演": ["王一"], "编剧": ["王一"]})
    same.tell(Phrase("由{编剧=导演}自编自导", frozenset({"导演", "编剧"})))
    assert [triplet.predicate for triplet in same.triplets] == ["编剧", "导演"]


def test_a_fact_shared_by_several_subjects_gives_a_triplet_for_each():
    teller = make_teller({"导演": ["王一"]})
    text = teller.tell(Phrase("{导演}拍了{S}", frozenset({"导演"})), ["雨夜", "晴天"])
    assert "《雨夜》" in text and "《晴天》" in text
    assert [triplet.subject for triplet in teller.triplets] == ["雨夜", "晴天"]


def test_nested_choices_are_resolved():
    assert {choose(random.Random(seed), "[a|b[c|d]]e") for seed in range(50)} == {"ae", "bce", "bde"}


def test_lists_are_joined_as_chinese_does():
    joined = {join_list(random.Random(seed), ["甲", "乙", "丙"]) for seed in range(300)}
    assert {"甲、乙、丙", "甲、乙和丙", "甲、乙与丙等"} <= joined


# ---- the phrase tables ----


def test_every_slot_of_every_phrase_is_known():
    known = {*FILLERS, *TYPES, "S", "B", "N", "it", "子", "父", "母"}
    unknown = [
        (kind.name, phrase.text, slot)
        for kind in kinds().values()
        for phrases in kind.phrases.values()
        for phrase in phrases
        for part in slots(phrase.text)
        for slot in part.split("=")
        if slot not in known
    ]
    assert unknown == []


def test_every_predicate_has_at_least_fifteen_phrasings():
    rng = random.Random(0)
    phrasings = defaultdict(set)
    for kind in kinds().values():
        for phrases in kind.phrases.values():
            for phrase in phrases:
                for slot in slots(phrase.text):
                    for part in slot.split("="):
                        name = FAMILY_SLOTS.get(part, part)
                        if name in TYPES:
                            phrasings[name].update(choose(rng, phrase.text) for _ in range(8))
    assert set(phrasings) == set(TYPES)
    assert min(len(texts) for texts in phrasings.values()) >= 15


def test_the_schema_holds_the_49_predicates_of_duie():
    listed = (
        "祖籍 父亲 总部地点 出生地 目 面积 简称 上映时间 妻子 所属专辑 注册资本 首都 导演 字 身高 "
        "出品公司 修业年限 出生日期 制片人 母亲 编剧 国籍 海拔 连载网站 丈夫 朝代 民族 号 出版社 主持人 "
        "专业代码 歌手 作词 主角 董事长 成立日期 毕业院校 占地面积 官方语言 邮政编码 人口数量 所在城市 "
        "作者 作曲 气候 嘉宾 主演 改编自 创始人"
    )
    duie = listed.split()
    assert len(duie) == 49
    assert set(duie) <= set(TYPES)


# ---- sentences ----


def test_subjects_and_objects_stand_in_the_sentence_and_types_in_the_schema(sentences):
    for sentence in sentences:
        for triplet in sentence.triplets:
            assert triplet.subject in sentence.text and triplet.object in sentence.text
            types = (triplet.subject_type, triplet.object_type)
            assert types in (TYPES[triplet.predicate], COMPANY_TYPES.get(triplet.predicate))


def test_no_slot_or_choice_is_left_open(sentences):
    for sentence in sentences:
        assert not any(mark in sentence.text.replace("[1]", "").replace("[音乐]", "") for mark in "{}|") or (
            " | " in sentence.text
        )


def test_triplets_are_distinct_and_ordered_by_subject_and_object(sentences):
    for sentence in sentences:
        assert len(set(sentence.triplets)) == len(sentence.triplets)
        places = [
            (sentence.text.find(triplet.subject), sentence.text.find(triplet.object))
            for triplet in sentence.triplets
        ]
        assert places == sorted(places)


def test_sentences_are_of_every_kind_with_none_one_and_many_triplets(sentences):
    counts = [len(sentence.triplets) for sentence in sentences]
    assert {0, 1, 2, 3, 4, 5, 6} <= set(counts)
    assert 0.05 < counts.count(0) / len(counts) < 0.15
    assert {triplet.predicate for sentence in sentences for triplet in sentence.triplets} == set(TYPES)


def test_sentences_hardly_repeat(sentences):
    assert len({sentence.text for sentence in sentences}) > 0.999 * len(sentences)
    assert len({skeleton(s.text, s.triplets) for s in sentences}) > 0.9 * len(sentences)


def test_couples_are_told_in_both_directions():
    writer = Writer(random.Random(3))
    for _ in range(50):
        triplets = [t for t in writer.sentence("couple").triplets if t.predicate in ("丈夫", "妻子")]
        assert {(t.subject, t.object) for t in triplets} == {(t.object, t.subject) for t in triplets}


def test_reviews_name_their_topic_and_mood():
    rng = random.Random(1)
    drawn = [review(rng) for _ in range(300)]
    assert {topic for _, topic, _ in drawn} == set(TOPICS)
    assert {good for _, _, good in drawn} == {True, False}


# ---- tasks ----


def test_equal_seeds_give_equal_samples_and_others_others():
    first, again, other = TaskWriter(5), TaskWriter(5), TaskWriter(6)
    drawn = [first.sample() for _ in range(200)]
    assert drawn == [again.sample() for _ in range(200)]
    assert drawn != [other.sample() for _ in range(200)]


def test_samples_cover_every_task(samples):
    assert {sample.task for sample in samples} == {
        *(
            "five_fields",
            "three_fields",
            "lines",
            "chosen_relations",
            "question",
            "relation_between",
            "entities",
        ),
        *(
            "relations_present",
            "subject_type",
            "copy",
            "fill_short",
            "fill_long",
            "review_topic",
            "review_mood",
            "news_topic",
            "written",
        ),
    }


def test_five_field_answers_are_json_with_the_fields_the_instruction_lists(samples):
    checked = 0
    for sample in samples:
        if sample.task != "five_fields":
            continue
        triplets = parse_target(sample.target)
        if triplets:
            body = sample.target.removeprefix("```json\n").removesuffix("\n```")
            keys = list(json.loads(body)[0])
            places = [
                sample.before.find(key) for key in keys if key in ("predicate", "object_type", "subject_type")
            ]
            assert places == sorted(places) and -1 not in places
            checked += 1
        assert sample.target.startswith("```json\n") == (
            "不要代码块" not in sample.before and "代码块" in sample.before
        )
    assert checked > 500


def test_a_prompt_that_names_no_fields_is_never_answered_with_five(samples):
    """So the base alone doesn't answer the product's prompt in the product's notation."""
    for sample in samples:
        if "object_type" not in sample.before:
            assert "object_type" not in sample.target


def test_filling_the_blank_gives_the_whole_text_back(samples):
    short = [sample for sample in samples if sample.task == "fill_short"]
    assert short and all(sample.blank == SHORT_BLANK and sample.target for sample in short)
    assert all(
        sample.blank == LONG_BLANK and not sample.after for sample in samples if sample.task != "fill_short"
    )


def test_answers_to_questions_stand_in_the_text(samples):
    for sample in samples:
        if sample.task == "question" and sample.target != "没有提到":
            assert all(part in sample.before for part in sample.target.split("、"))


# ---- held out ----


def dev_line(sentence, triplets, instruction="请找一找："):
    context = f"Instruction: 甲\nInput: {instruction}\n\n{sentence}\nAnswer: "
    target = json.dumps([triplet._asdict() for triplet in triplets], ensure_ascii=False)
    return json.dumps({"context": context, "target": target}, ensure_ascii=False)


def test_held_out_names_phrasings_and_instructions_are_refused():
    triplet = Triplet("导演", "人物", "影视作品", "钱三", "海边的灯塔")
    held = HeldOut([dev_line("《海边的灯塔》由钱三执导。", [triplet])])
    assert not held.accepts_name("钱三")
    assert not held.accepts_name("海边的灯塔2")  # a long name may not be contained either
    assert held.accepts_name("钱三强")
    assert not held.accepts_instruction("请找一找：")
    other = Triplet("导演", "人物", "影视作品", "孙四", "雪")
    assert not held.accepts_sentence("《雪》由孙四执导。", [other])
    assert held.accepts_sentence("《雪》的导演是孙四。", [other])


def test_dates_and_countries_are_no_names():
    triplets = [
        Triplet("国籍", "国家", "人物", "法国", "钱三"),
        Triplet("出生日期", "Date", "人物", "1990年", "钱三"),
    ]
    held = HeldOut([dev_line("钱三，1990年生，法国人。", triplets)])
    assert held.names == {"钱三"}


def test_nothing_of_the_bundled_dev_set_occurs_in_the_corpus(held_out, samples):
    assert len(held_out.names) > 100 and len(held_out.instructions) > 3
    long_names = [name for name in held_out.names if len(name) >= 4]
    values = set()
    for sample in samples:
        text = sample.before + sample.after + sample.target
        assert not any(name in text for name in long_names)
        assert split_context(sample.before)[0].partition("Input: ")[2].strip() not in held_out.instructions
        if sample.task == "five_fields":
            values |= {
                value
                for triplet in parse_target(sample.target)
                for value in (triplet.subject, triplet.object)
            }
    assert not values & held_out.names


def test_a_writer_without_the_filter_would_meet_a_common_name():
    """The check above can fail: a frequent name is drawn unless it is held out."""
    writer = TaskWriter(8)
    drawn = {triplet.object for _ in range(1500) for triplet in writer.sentence().triplets}
    name = sorted(value for value in drawn if len(value) == 3)[0]
    held = HeldOut([dev_line("某", [Triplet("导演", "人物", "影视作品", name, "某某某某")])])
    writer = TaskWriter(8, held)
    assert name not in {
        t.object for _ in range(1500) for t in writer.sentence().triplets if t.object_type == "人物"
    }


# ---- the command ----


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tiny_base.corpus", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_the_same_lines_for_the_same_seed():
    first, again = run("--lines", "30", "--seed", "4"), run("--lines", "30", "--seed", "4")
    assert first.returncode == 0 and first.stdout == again.stdout
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert len(lines) == 30 and set(lines[0]) == {"task", "before", "blank", "after", "target"}


def test_the_command_writes_plain_text():
    result = run("--lines", "5", "--text")
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 5 and "MASK]" in result.stdout


def test_the_command_names_a_missing_file_to_avoid(tmp_path):
    result = run("--held-out", str(tmp_path / "none.jsonl"))
    assert result.returncode == 2 and "none.jsonl" in result.stderr and "Traceback" not in result.stderr


def test_kinds_of_subjects_are_those_that_have_facts():
    from tiny_base.corpus.records import KINDS

    assert set(KINDS) == set(kinds()) and all(isinstance(kind, Kind) for kind in kinds().values())


def test_names_are_crowded_by_words_but_stay_whole():
    rng = random.Random(0)
    text, names = (
        "《雨夜》由张三执导，李四主演，片中“王五”和阿里·汗都没有出现。",
        ["张三", "李四", "王五", "阿里·汗"],
    )
    crowded = [crowd(rng, text, names) for _ in range(400)]
    assert all(name in changed for changed in crowded for name in names)
    assert 0.5 < sum(changed != text for changed in crowded) / len(crowded) < 0.95
    assert all("“王五”" in changed for changed in crowded)  # a name in quotation marks ends with them
    assert crowd(rng, "张三和张三", ["张三"]) == "张三和张三"  # which one is meant can't be told


def test_noise_leaves_a_value_with_punctuation_findable():
    text = "《雨夜（上）》由张三执导，李四主演。"
    assert {noise(random.Random(seed), text, ["雨夜（上）"]) for seed in range(100)} == {text}
    assert len({noise(random.Random(seed), text) for seed in range(100)}) > 1


def test_a_maker_may_be_said_to_be_from_somewhere():
    writer = Writer(random.Random(5))
    directed = [Triplet("导演", "人物", "影视作品", "王一", "雨夜")]
    changed = []
    for _ in range(300):
        text, origins = writer._with_origin("《雨夜》由王一执导", directed)
        if origins:
            assert text.startswith("《雨夜》由" + origins[0].object) and text.endswith("王一执导")
            assert origins[0].subject == "王一"
            changed.append(origins[0].predicate)
        else:
            assert text == "《雨夜》由王一执导"
    assert set(changed) == {"国籍", "民族", "出生地", "朝代"}
    assert all(not writer._with_origin("《王一》由人执导", directed)[1] for _ in range(100))


def test_a_work_may_be_told_with_its_maker():
    made = set()
    for seed in range(60):
        teller = make_teller({"改编自": ["旧梦"]}, seed=seed)
        text = teller.tell(Phrase("改编自{改编自}", frozenset({"改编自"})))
        assert text.endswith("《旧梦》") and teller.triplets[0].predicate == "改编自"
        for triplet in teller.triplets[1:]:
            assert (triplet.predicate, triplet.subject) == ("作者", "旧梦") and triplet.object + "的" in text
            made.add(triplet.object)
    assert len(made) > 5


def test_a_bare_subject_stands_without_quotation_marks():
    teller = make_teller({"导演": ["王一"]})
    assert teller.tell(Phrase("片名：{B}；导演：{导演}", frozenset({"导演"}))) == "片名：雨夜；导演：王一"

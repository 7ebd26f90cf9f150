"""Lines asked for some relations at a time: what is drawn, what is learnt of it, and what stays as it was."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_handle.data_loader import load_data
from data_handle.dev_split import split_off
from data_handle.relation_prompts import RelationPrompts
from task.prompt import WANTED, build_prompt, split_context
from task.triplets import Combination, Triplet, combination_of, parse_target
from tests.helpers.data_samples import CharacterTokenizer, make_line, write_jsonl
from tests.helpers.encoded_files import assert_same, caches
from utils.common_utils import UserError

LIMITS = {"max_source_seq_len": 512, "max_target_seq_len": 512}
TYPES = {"导演": ("影视作品", "人物"), "编剧": ("影视作品", "人物"), "海拔": ("地点", "Number")}
TYPES |= {f"关系{number}": (f"甲{number}", f"乙{number}") for number in range(20)}


def triplet(predicate: str, name: str = "一") -> Triplet:
    subject_type, object_type = TYPES[predicate]
    return Triplet(predicate, object_type, subject_type, f"客{name}", f"主{name}")


LINES = [
    make_line("《主一》由客一执导并编剧。", triplet("导演"), triplet("编剧")),
    make_line("今天下雨。"),
    {"context": build_prompt("评论", "好还是坏？"), "target": "正面"},
    make_line("主一有客一高。", triplet("海拔")),
    *(make_line(f"主{name}里有{name}。", triplet(name)) for name in TYPES),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", LINES)


def make(
    path: Path, size: int = 3, ratio: float = 2.0, seed: int = 1, schema: Path | None = None
) -> RelationPrompts:
    return RelationPrompts(path, schema, size, ratio, seed)


def wanted(context: str) -> list[str]:
    """The relations that a prompt names."""
    head = split_context(context)[0]
    assert head.endswith("\n\n") and head.count("\n\n") == 1
    return head.strip().rpartition(WANTED)[2].split("、")


def test_a_line_is_asked_for_its_relations_and_for_others(data: Path) -> None:
    triplets = [triplet("导演"), triplet("编剧"), triplet("导演", "二")]
    context = build_prompt("句子")
    asked = list(make(data).ask(context, triplets))
    names = [name for prompt, _ in asked for name in wanted(prompt)]
    assert [len(wanted(prompt)) for prompt, _ in asked] == [3, 3]  # two of its own, twice as many others
    assert len(set(names)) == 6 and {"影视作品-导演-人物", "影视作品-编剧-人物"} <= set(names)
    for prompt, target in asked:
        answered = parse_target(target)
        said = {f"{each.subject_type}-{each.predicate}-{each.object_type}" for each in answered}
        assert said == {"影视作品-导演-人物", "影视作品-编剧-人物"} & set(wanted(prompt))
        assert answered == [each for each in triplets if each in answered]  # in their order
        assert split_context(prompt)[1] == "句子"
    assert sum(len(parse_target(target)) for _, target in asked) == 3


def test_the_draw_depends_on_line_and_seed_only(data: Path) -> None:
    line = build_prompt("句子"), [triplet("导演")]
    first = list(make(data).ask(*line))
    assert list(make(data).ask(*line)) == first
    assert list(pickle.loads(pickle.dumps(make(data))).ask(*line)) == first
    assert list(make(data, seed=2).ask(*line)) != first
    assert list(make(data).ask(build_prompt("另一句"), line[1])) != first


def test_confusing_relations_are_drawn_more_often(data: Path) -> None:
    prompts = make(data, size=1, ratio=1)
    drawn: Counter[str] = Counter()
    for number in range(200):
        for prompt, _ in prompts.ask(build_prompt(f"第{number}句"), [triplet("导演")]):
            drawn.update(wanted(prompt))
    assert drawn["影视作品-导演-人物"] == 200
    others = drawn - Counter({"影视作品-导演-人物": 200})
    assert others.most_common(1)[0][0] == "影视作品-编剧-人物" and len(others) > 5


@pytest.mark.parametrize(("ratio", "relations"), [(0.0, 0), (3.0, 3), (100.0, len(TYPES))])
def test_a_line_without_triplets_is_asked_for_some(data: Path, ratio: float, relations: int) -> None:
    asked = list(make(data, size=4, ratio=ratio).ask(build_prompt("今天下雨。"), []))
    assert sum(len(wanted(prompt)) for prompt, _ in asked) == relations
    assert all(parse_target(target) == [] for _, target in asked)


def test_a_schema_s_relations_and_what_it_says_of_them(data: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.jsonl"
    lines = [
        {"predicate": "导演", "subject_type": "影视作品", "object_type": "人物", "description": "执导\n的人"},
        {"predicate": "票房", "subject_type": "影视作品", "object_type": "Number"},
    ]
    write_jsonl(schema, lines)
    prompts = make(data, size=100, ratio=100, schema=schema)
    ((prompt, _),) = prompts.ask(build_prompt("句子"), [triplet("导演")])
    assert {"影视作品-导演-人物（执导 的人）", "影视作品-票房-Number"} <= set(wanted(prompt))
    assert prompts.key != make(data, size=100, ratio=100).key


def test_lines_become_samples_and_stay_lines(data: Path, tmp_path: Path) -> None:
    tokenizer: Any = CharacterTokenizer()
    prompts = make(data)
    loaded = load_data(data, tokenizer, **LIMITS, prompts=prompts)
    plain = load_data(data, tokenizer, **LIMITS)
    assert list(loaded.examples) == list(plain.examples) and loaded.combinations == plain.combinations
    samples = Counter(loaded.features.line_numbers.tolist())
    assert (samples[1], samples[2], samples[3], samples[4]) == (2, 1, 1, 1)
    texts = ["".join(map(chr, sample.input_ids)) for sample in loaded.features]
    assert [WANTED in text for text in texts[:5]] == [True, True, True, False, True]
    assert loaded.summary.examples == len(texts) == samples.total()

    cached = [
        load_data(data, tokenizer, **LIMITS, cache_dir=tmp_path / "c", prompts=prompts) for _ in range(2)
    ]
    for each in cached:
        assert_same(each, loaded)
    load_data(data, tokenizer, **LIMITS, cache_dir=tmp_path / "c", prompts=make(data, ratio=1))
    assert_same(load_data(data, tokenizer, **LIMITS, cache_dir=tmp_path / "c"), plain)
    assert len(caches(tmp_path / "c")) == 3


def test_a_split_takes_all_samples_of_a_line(data: Path) -> None:
    tokenizer: Any = CharacterTokenizer()
    whole = load_data(data, tokenizer, **LIMITS, prompts=make(data))
    train, dev = split_off(whole, 0.3, 1)
    assert len(train.features) + len(dev.features) == len(whole.features)
    for side in (train, dev):
        lines = side.examples.line_numbers.tolist()
        assert set(side.features.line_numbers.tolist()) == set(lines)
        assert side.summary.examples == len(side.features) >= len(lines)


def test_the_instruction_has_to_fit(data: Path) -> None:
    tokenizer: Any = CharacterTokenizer()
    with pytest.raises(UserError, match=r"没有一条样本可用于训练.*max_source_seq_len=90 太小"):
        load_data(
            write_jsonl(data.with_name("one.jsonl"), LINES[:1]),
            tokenizer,
            max_source_seq_len=90,
            max_target_seq_len=512,
            prompts=make(data),
        )


def test_combinations_of_a_line_are_its_own(data: Path) -> None:
    pool = make(data).pool
    assert Combination("导演", "影视作品", "人物") in pool.relations
    near = pool.nearness(*(combination_of(triplet(name)) for name in ("导演", "编剧")))
    far = pool.nearness(*(combination_of(triplet(name)) for name in ("导演", "海拔")))
    assert near > 1 > far == 0

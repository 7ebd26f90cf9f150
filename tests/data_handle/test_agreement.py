"""What training refuses and warns of before it begins: no triplets at all, relations that dev alone has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_handle.agreement import check_triplets, describe_unknown, triplets_of
from data_handle.convert import main as convert
from data_handle.data_loader import load_data
from data_handle.encoded_file import EncodedFile
from task.prompt import build_prompt
from task.schema import Schema
from task.triplets import Triplet
from tests.helpers.data_samples import CharacterTokenizer, director, make_line, write_jsonl
from utils.common_utils import UserError

SENTENCE = "《甲传》由张一执导。"
FILM = make_line(SENTENCE, director("甲传", "张一"))
EMPTY = make_line("今天没有下雨。")
LABEL = {"context": build_prompt("很好。", "正面还是负面？"), "target": "正面"}
Load = Callable[..., EncodedFile]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write lines and load them."""

    def write_and_load(*lines: dict[str, str], name: str = "train.jsonl") -> EncodedFile:
        limits = {"max_source_seq_len": 256, "max_target_seq_len": 256}
        return load_data(write_jsonl(tmp_path / name, list(lines)), CharacterTokenizer(), **limits)

    return write_and_load


def with_target(target: str) -> dict[str, str]:
    return {"context": build_prompt(SENTENCE), "target": target}


def test_empty_and_classification_answers_are_fine_beside_triplets(load: Load) -> None:
    train = load(FILM, EMPTY, LABEL)
    check_triplets(train)
    assert describe_unknown(load(EMPTY, LABEL, FILM, name="dev.jsonl"), Schema(train.combinations)) is None


@pytest.mark.parametrize("lines", [(LABEL,), (EMPTY,), (EMPTY, LABEL), (LABEL, with_target("无"))])
def test_training_data_without_one_triplet_is_refused(lines: tuple[dict[str, str], ...], load: Load) -> None:
    train = load(*lines)
    with pytest.raises(UserError, match=r"train\.jsonl 的答案里没有一个可用的三元组.*preprocess") as error:
        check_triplets(train)
    assert f"{len(lines)} 条样本" in str(error.value)


def test_the_refusal_names_why_answers_are_not_usable(load: Load) -> None:
    untyped = json.dumps([{"subject": "甲传", "predicate": "导演", "object": "张一"}], ensure_ascii=False)
    train = load(with_target(untyped), with_target("甲传_导演_张一"), EMPTY)
    with pytest.raises(UserError, match=r"没有采用：第 1 行（三元组没有类型.*第 2 行（答案是用文字写的"):
        check_triplets(train)


@pytest.mark.parametrize(
    "changes", [{"subject_type": None, "object_type": None}, {"object_type": None}, {"subject_type": ""}]
)
def test_what_supplies_missing_types_is_named_and_does(
    changes: dict[str, str | None], load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    item = {**director("甲传", "张一")._asdict(), **changes}
    item = {name: value for name, value in item.items() if value is not None}
    answer = with_target(json.dumps([item], ensure_ascii=False))
    path = tmp_path / "train.jsonl"
    command = f"python -m data_handle.convert {path} -o 新文件.jsonl"
    assert command in load(FILM, answer).report()[-1]
    assert command not in "".join(load(FILM, with_target("甲传_导演_张一")).report())
    with pytest.raises(UserError, match=r"没有一条样本可用于训练.*data_handle\.convert"):
        load(answer)
    assert convert([str(path), "-o", str(tmp_path / "new.jsonl")]) == 0
    limits = {"max_source_seq_len": 256, "max_target_seq_len": 256}
    check_triplets(load_data(tmp_path / "new.jsonl", CharacterTokenizer(), **limits))


def test_relations_that_dev_alone_has_are_counted(load: Load) -> None:
    actor = Triplet("主演", "人物", "影视作品", "李四", "甲传")
    dev = load(
        make_line("李四主演《甲传》。", actor),
        make_line("《甲传》由张一执导，李四主演。", director("甲传", "张一"), actor),
        LABEL,
        name="dev.jsonl",
    )
    line = describe_unknown(dev, Schema(load(FILM, EMPTY).combinations))
    assert line is not None
    assert "dev.jsonl 里有 2 个三元组的关系与类型是训练集没有的" in line
    assert "主演（影视作品 → 人物）2 个" in line
    assert len(triplets_of(dev.examples)) == 3


def test_what_training_saves_is_what_inference_loads(load: Load, tmp_path: Path) -> None:
    """Blank, overlong and odd names never come into a schema."""
    lines = [
        with_target(json.dumps([FACT | {name: value}], ensure_ascii=False))
        for name in ("predicate", "subject_type", "object_type")
        for value in ("", " \u3000", "\n", "长" * 101, 3, None, {"@value": "人物"}, "\0", '引"号\\')
        for FACT in (director("甲传", "张一")._asdict(),)
    ]
    schema = Schema(load(FILM, *lines).combinations)
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema.to_dict()), encoding="utf-8")
    assert Schema.load(path) == schema
    assert len(schema.combinations) >= 4


def test_too_many_relations_are_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_handle.agreement.MAX_COMBINATIONS", 1)
    other = make_line("李四主演《甲传》。", Triplet("主演", "人物", "影视作品", "李四", "甲传"))
    train = load(FILM, other)
    with pytest.raises(UserError, match="里有 2 种关系与类型的组合，超过上限 1"):
        check_triplets(train)

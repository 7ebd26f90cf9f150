"""The data of a run: a dev set of its own, relations that can't be produced, answers without any."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from task.prompt import build_prompt
from task.triplets import Triplet, format_target
from tests.helpers.data_samples import CharacterTokenizer
from training.data import RunData, read_data
from utils.common_utils import UserError


def write(path: Path, rows: list[tuple[str, list[Triplet] | str]]) -> str:
    """Write a data file of (sentence, triplets or text); return its name."""
    lines = []
    for sentence, answer in rows:
        target = answer if isinstance(answer, str) else format_target(answer)
        lines.append(json.dumps({"context": build_prompt(sentence), "target": target}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def film(number: int, predicate: str = "导演") -> tuple[str, list[Triplet]]:
    name = chr(0x4E00 + number)
    triplet = Triplet(predicate, "人物", "影视作品", f"张{name}", f"片{name}")
    return f"片{name}由张{name}执导。", [triplet]


def read(train: str, dev: str, said: list[str], **knobs: Any) -> RunData:
    values = {
        "train_path": train, "dev_path": dev, "dev_ratio": 0.2, "seed": 3, "max_source_seq_len": 256,
        "max_target_seq_len": 256, "strict_data": False, "token_cache_dir": "",
        "schema_prompt": False,
    }  # fmt: skip
    return read_data(SimpleNamespace(**values | knobs), CharacterTokenizer(), said.append)


def test_a_dev_set_is_split_off(tmp_path: Path) -> None:
    train = write(tmp_path / "mine.jsonl", [film(number) for number in range(20)] + [film(0)])
    said: list[str] = []
    data = read(train, "", said)
    sentences = [{example.context for example in part.examples} for part in (data.train, data.dev)]
    assert not sentences[0] & sentences[1]
    assert len(data.train.examples) + len(data.dev.examples) == 21
    assert f"的 21 行中分出 {len(data.dev.examples)} 行作验证集（dev_ratio 0.2，seed 3" in said[-1]
    # A resumed run finds the same split.
    again = read(train, "", [])
    assert [example.context for example in again.dev.examples] == [e.context for e in data.dev.examples]
    other = read(train, "", [], seed=4)
    assert [example.context for example in other.dev.examples] != [e.context for e in data.dev.examples]


def test_relations_of_dev_that_training_never_showed(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [film(number) for number in range(4)])
    said: list[str] = []
    read(train, write(tmp_path / "dev.jsonl", [film(9), film(10, "主演"), film(11, "主演")]), said)
    assert "有 2 个三元组的关系与类型是训练集没有的" in said[-1]
    assert "主演（影视作品 → 人物）2 个" in said[-1]
    said.clear()
    read(train, write(tmp_path / "dev.jsonl", [film(9)]), said)
    assert not any("警告" in line for line in said)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (['[{"s": "片", "p": "导演", "o": "张"}]'], "缺少字段"),  # other names
        (['```json\n[{"predicate": "导演", "object": "张", "subject": "片"}]\n```'], "没有类型"),
        (["正面", "负面"], "没有一个可用的三元组"),
        (["[]"], "没有一个可用的三元组"),
    ],
)
def test_answers_without_one_usable_triplet(tmp_path: Path, answers: list[str], message: str) -> None:
    rows: list[tuple[str, list[Triplet] | str]] = [
        (f"第{number}句。", answer) for number, answer in enumerate(answers)
    ]
    train = write(tmp_path / "train.jsonl", rows)
    with pytest.raises(UserError, match=message):
        read(train, train, [])

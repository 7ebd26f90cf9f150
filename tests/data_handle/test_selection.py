"""Which sentences to label next: the least certain, by turns of predicates and lengths, no two alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_handle.annotation.results import read_results
from data_handle.annotation.selection import select
from data_handle.label_studio import main
from task.triplets import Triplet
from tests.data_handle.converting import DIRECTED, FILM, Runner, found, jsonl
from utils.common_utils import UserError


def scored(text: str, *items: tuple[str, float]) -> dict[str, Any]:
    triplets = [
        found(Triplet(predicate, "人物", "作品", "人", text[:2]), text + "人", score)
        for predicate, score in items
    ]
    return {"text": text, "triplets": triplets}


def choose(tmp_path: Path, records: list[dict[str, Any]], count: int, **options: Any) -> list[str]:
    path = tmp_path / "results.jsonl"
    path.write_text(jsonl(*records), encoding="utf-8")
    return [result.text for result in select(read_results(path)[0], count, **options)]


def test_least_certain_first_by_turns_of_predicates(tmp_path: Path) -> None:
    records = [
        scored("春山空空夜雨", ("作者", 0.5)),
        scored("明月照松间路", ("作者", 0.1)),
        scored("清泉石上流水", ("作者", 0.2)),
        scored("竹喧归浣女子", ("导演", 0.8)),
        scored("莲动下渔舟人", ("导演", 0.95), ("作者", 0.9)),
    ]
    assert choose(tmp_path, records, 4) == ["明月照松间路", "竹喧归浣女子", "清泉石上流水", "春山空空夜雨"]


def test_lengths_take_turns(tmp_path: Path) -> None:
    short = [scored(f"短{chr(0x4E00 + n)}{chr(0x5E00 + n)}", ("作者", 0.1 + n / 100)) for n in range(10)]
    long = [
        scored("".join(chr(0x6000 + 40 * n + k) for k in range(30)), ("作者", 0.6 + n / 100))
        for n in range(5)
    ]
    chosen = choose(tmp_path, short + long, 6)
    assert sum(len(text) == 30 for text in chosen) == 3 and chosen[0] == short[0]["text"]


def test_no_near_duplicates_nor_labelled_ones(tmp_path: Path) -> None:
    records = [
        scored("《雾港来信》由沈知远执导，2021年上映", ("导演", 0.1)),
        scored("《雾港来信》由沈知远执导，2022年上映。", ("导演", 0.2)),
        scored("《雾港来信》由沈知远执导，已上映", ("导演", 0.3)),
        scored("《雾港来信》的配乐很好听，人人会唱", ("导演", 0.4)),
        scored("另外一部电影叫做晚潮", ("导演", 0.5)),
        {"text": "坏了", "triplets": [], "error": "x"},
    ]
    chosen = choose(tmp_path, records, 9, exclude=["另外一部电影，叫做晚潮！"])
    assert chosen == [records[0]["text"], records[3]["text"]]


def test_sentences_without_triplets_have_their_share(tmp_path: Path) -> None:
    records = [scored(f"空{chr(0x4E00 + n)}{chr(0x5E00 + 2 * n)}") for n in range(20)]
    records += [scored(f"有{chr(0x6E00 + n)}{chr(0x7E00 + 2 * n)}", ("作者", n / 30)) for n in range(20)]
    chosen = choose(tmp_path, records, 20)
    assert [n for n, text in enumerate(chosen) if text.startswith("空")] == [9, 19]
    assert choose(tmp_path, records, 20) == chosen != choose(tmp_path, records, 20, seed=1)
    assert len(choose(tmp_path, records, 99)) == 40
    assert len(choose(tmp_path, records[:20], 7)) == 7


def test_select_command(runner: Runner) -> None:
    records = [scored("春山空空夜雨", ("作者", 0.5)), scored("明月照松间路", ("作者", 0.1))]
    results = runner.write("results.jsonl", jsonl(*records))
    labelled = runner.write("train.jsonl", jsonl({"context": "春山空空夜雨", "target": "[]"}))
    output = runner.folder / "next.jsonl"
    assert main(["select", str(results), "-n", "2", "-o", str(output), "--exclude", str(labelled)]) == 0
    assert json.loads(output.read_text("utf-8")) == records[1]
    assert "从 2 句里选出 1 句（其中 0 句模型没有抽出三元组），不足 2 句" in runner._capsys.readouterr().err
    plain = runner.write("plain.txt", "春山空空夜雨\n明月照松间路\n")
    with pytest.raises(UserError, match="没有可选的句子"):
        main(["select", str(results), "-o", str(runner.folder / "x"), "--exclude", str(labelled), str(plain)])
    unscored = runner.write(
        "unscored.jsonl", jsonl({"text": FILM, "triplets": [found(DIRECTED, FILM, None)]})
    )
    with pytest.raises(UserError, match="请加上 --scores 重新抽取"):
        main(["select", str(unscored), "-o", str(runner.folder / "x")])

"""Entities and relations to training lines: doccano and its kin, and brat's folders."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from task.triplets import Triplet
from tests.data_handle.converting import DIRECTED, DOCCANO, FILM, RAIN, Runner, jsonl
from utils.common_utils import UserError


def test_doccano(runner: Runner) -> None:
    lost = {"id": 2, "from_id": 1, "to_id": 9, "type": "主演"}
    converted = runner(jsonl({**DOCCANO, "relations": [*DOCCANO["relations"], lost]}))
    assert converted.sentences == {FILM: [DIRECTED]}
    assert converted.lines[0]["spans"] == [{"object_span": [7, 10], "subject_span": [1, 5]}]
    assert "关系缺少类型，或所指的实体不在里面：1 处" in converted.talk


def offsets(number: int, start: int, end: int, kind: str) -> dict[str, object]:
    return {"id": str(number), "label": kind, "start_offset": start, "end_offset": end}


def spert(number: int, start: int, end: int, kind: str) -> dict[str, object]:
    return {"start": start, "end": end, "type": kind}


def words(number: int, start: int, end: int, kind: str) -> dict[str, object]:
    return {"id": f"e{number}", "text": FILM[start:end], "type": kind}


@pytest.mark.parametrize(
    ("entity", "ends", "names"),
    [
        (offsets, (1, 2), ("from_id", "to_id", "label")),
        (spert, (0, 1), ("head", "tail", "type")),
        (words, ("e1", "e2"), ("subject", "object", "relation")),
    ],
)
def test_entities_and_relations_by_other_names(
    runner: Runner,
    entity: Callable[..., dict[str, object]],
    ends: tuple[object, object],
    names: tuple[str, ...],
) -> None:
    entities = [entity(1, 1, 5, "影视作品"), entity(2, 7, 10, "人物")]
    relation = dict(zip(names, (*ends, "导演"), strict=True))
    converted = runner(jsonl({"text": FILM, "entities": entities, "relations": [relation]}))
    assert converted.sentences == {FILM: [DIRECTED]}


def test_doccano_entity_that_cannot_be_used_costs_itself_only(runner: Runner) -> None:
    outside = {"id": 3, "label": "人物", "start_offset": 70, "end_offset": 90}
    unmarked = {"id": 2, "text": RAIN, "entities": [], "relations": []}
    converted = runner(jsonl({**DOCCANO, "entities": [*DOCCANO["entities"], outside]}, unmarked))
    assert converted.sentences == {FILM: [DIRECTED], RAIN: []}
    assert "实体的偏移超出原文，或没有偏移：1 处" in converted.talk
    assert "一个实体也没有标，当作没有三元组的句子；如果只是还没有标，请先删去：1 处" in converted.talk


def test_doccano_without_relations_is_refused_with_the_remedy(runner: Runner) -> None:
    with pytest.raises(UserError, match="没有一个句子可用"):
        runner(jsonl({"id": 1, "text": FILM, "label": [[1, 5, "影视作品"]]}))
    assert "只有实体，没有关系：请在 doccano 的关系抽取项目里导出" in runner._capsys.readouterr().err


def test_brat_folder(runner: Runner) -> None:
    second = "《晚潮》也由他执导。"
    runner.write("brat/a.txt", f"{FILM}\r\n{second}\r\n{RAIN}\r\n")
    start = len(FILM) + 2
    runner.write(
        "brat/a.ann",
        "T1\t影视作品 1 5\t雾港来信\n"
        "T2\t人物 7 10\t沈知远\n"
        f"T3\t影视作品 {start + 1} {start + 3}\t晚潮\n"
        "T4\t人物 7 8;9 10\t沈 远\n"
        "A1\t确定 T1\n"
        "R1\t导演 Arg1:T1 Arg2:T2\t\n"
        "R2\t导演 Arg1:T3 Arg2:T2\n"
        "R3\t导演 Arg1:T1 Arg2:T4\n"
        "E1\t拍摄:T1 谁:T2\n",
    )
    runner.write("brat/b.ann", "")
    converted = runner.convert(runner.folder / "brat")
    assert converted.sentences == {FILM: [DIRECTED], RAIN: []}  # the other line lost its relation
    for reason in ("不在同一行", "实体分成几段", "事件标注不能转换", "旁边没有同名的 .txt"):
        assert reason in converted.talk
    assert "a.ann:7：R2 导演 Arg1:T3 Arg2:T2" in converted.talk
    assert f"没有一个关系可用：1 处\n    {runner.folder}/brat/a.txt:2：{second}" in converted.talk
    assert runner.convert(runner.folder / "brat" / "a.ann").sentences == converted.sentences


def brat(runner: Runner, annotations: str, text: str = f"{FILM}\n{RAIN}\n") -> dict[str, list[Triplet]]:
    runner.write("brat/inner/a.txt", text)
    runner.write("brat/inner/a.ann", annotations)
    return runner.convert(runner.folder / "brat").sentences


ENTITIES = "T1\t影视作品 1 5\t雾港来信\nT2\t人物 7 10\t沈知远\n"


@pytest.mark.parametrize(
    "annotations",
    [
        ENTITIES + "R1\t导演 arg1:T1 arg2:T2\n",
        ENTITIES + "R1\t导演 Work:T1 Person:T2\t\n",
        "R1\t导演 Arg1:T1 Arg2:T2\n" + ENTITIES,
        (ENTITIES + "R1\t导演 Arg1:T1 Arg2:T2\n").replace("\t", " "),
    ],
)
def test_brat_relations_of_other_spellings(runner: Runner, annotations: str) -> None:
    assert brat(runner, annotations) == {FILM: [DIRECTED], RAIN: []}


@pytest.mark.parametrize("gap", [1, 2])
def test_brat_offsets_that_count_line_ends_once_or_twice(runner: Runner, gap: int) -> None:
    start = len(RAIN) + gap
    annotations = (
        f"T1\t影视作品 {start + 1} {start + 5}\t雾港来信\nT2\t人物 {start + 7} {start + 10}\t沈知远\n"
        "R1\t导演 Arg1:T1 Arg2:T2\n"
    )
    assert brat(runner, annotations, f"{RAIN}\r\n{FILM}\r\n") == {RAIN: [], FILM: [DIRECTED]}


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("T3\t动作 10 12\t执导\nE1\t执导:T3 谁:T2\n", "事件标注不能转换"),
        ("T3\t人物 7 8;9 10\t沈 远\nT4\t作品 1 2;3 4\t雾 来\nR1\t导演 Arg1:T4 Arg2:T3\n", "实体分成几段"),
        ("*\tEquiv T1 T2\n", "等同标注"),
        ("R1\t导演 T1 T2\n", "认不出的关系行"),
    ],
)
def test_brat_sentence_that_lost_something_is_no_negative_example(
    runner: Runner, lost: str, reason: str
) -> None:
    with pytest.raises(UserError, match=r"没有一个句子可用|所有句子都没有三元组"):
        brat(runner, ENTITIES + lost)
    talk = runner._capsys.readouterr().err
    assert f"没有采用，{reason}" in talk and f"a.txt:1：{FILM}" in talk


def test_brat_text_without_annotations_is_named(runner: Runner) -> None:
    runner.write("brat/inner/b.txt", "还没有标。")
    runner.write("brat/c.txt", "标过，什么也没有。")
    runner.write("brat/c.ann", "")
    assert "还没有标。" not in brat(runner, ENTITIES + "R1\t导演 Arg1:T1 Arg2:T2\n")
    assert runner.convert(runner.folder / "brat").talk.count("旁边没有同名的 .ann 标注：1 处") == 1
    assert "一个实体也没有标" in runner.convert(runner.folder / "brat").talk

"""The loop with Label Studio: out as pre-annotations, back as labels, and which sentences to label next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_handle.annotation.results import Found, Result
from data_handle.annotation.tasks import build_config, build_tasks
from data_handle.conversion.checking import check_sentences
from data_handle.converters import label_studio as converter
from data_handle.converters.labelled import Labelled, Settings, Span
from data_handle.converters.source import Record
from data_handle.label_studio import main
from task.prompt import split_context
from task.schema import Combination
from task.triplets import Triplet, parse_target
from tests.data_handle.converting import DIRECTED, DOCCANO, FILM, PLAYED, RAIN, Runner, found, jsonl
from utils.common_utils import UserError

EXPORTS = Path(__file__).parents[1] / "fixtures" / "label_studio"


def region(identity: str, start: int, end: int, kind: str, text: str = FILM) -> dict[str, Any]:
    value = {"start": start, "end": end, "text": text[start:end], "labels": [kind]}
    return {"id": identity, "from_name": "label", "to_name": "text", "type": "labels", "value": value}


def relation(first: str, second: str, *labels: str, direction: str = "right") -> dict[str, Any]:
    ends = {"from_id": first, "to_id": second, "direction": direction}
    return {"type": "relation", **ends, "labels": list(labels)}


REGIONS = [
    region("a", 1, 5, "影视作品"),
    region("b", 7, 10, "人物"),
    region("c", FILM.index("顾"), FILM.index("顾") + 3, "人物"),
]
DIRECTS, PLAYS = relation("a", "b", "导演"), relation("a", "c", "主演")


def task(*results: list[dict[str, Any]], number: int = 1, **fields: object) -> dict[str, Any]:
    annotations = [{"id": n, "result": result, **fields} for n, result in enumerate(results)]
    return {"id": number, "data": {"text": FILM}, "annotations": annotations}


def run_import(runner: Runner, *tasks: object) -> tuple[dict[str, list[Triplet]], str]:
    source = runner.write("export.json", list(tasks))
    assert main(["import", str(source), "-o", str(runner.output), "--overwrite"]) == 0
    lines = [json.loads(line) for line in runner.output.read_text("utf-8").splitlines()]
    sentences = {
        line["context"].split("\n\n")[1].split("\nAnswer")[0]: [
            Triplet(**item) for item in json.loads(line["target"][8:-4])
        ]
        for line in lines
    }
    return sentences, runner._capsys.readouterr().err


def test_relations_of_a_task(runner: Runner) -> None:
    sentences, talk = run_import(runner, task([*REGIONS, DIRECTS, PLAYS]))
    assert sentences == {FILM: [DIRECTED, PLAYED]}
    assert "认作 Label Studio JSON" in talk
    assert json.loads(runner.output.read_text("utf-8"))["spans"][0] == {
        "object_span": [7, 10],
        "subject_span": [1, 5],
    }


def test_choices_and_remarks_are_no_regions(runner: Runner) -> None:
    choice = {"id": "x", "type": "choices", "value": {"choices": ["好"]}}
    remark = {"id": "y", "type": "textarea", "value": {"text": ["看不清"]}}
    rain = {"id": 2, "data": {"text": RAIN}, "annotations": [{"result": [choice, remark]}]}
    html = {
        "start": "/div[1]/text()[1]",
        "end": "/div[1]/text()[1]",
        "text": "沈知远",
        "hypertextlabels": ["人物"],
    }
    html_region = {
        "id": "b",
        "type": "hypertextlabels",
        "value": {**html, "globalOffsets": {"start": 7, "end": 10}},
    }
    sentences, talk = run_import(runner, task([REGIONS[0], html_region, DIRECTS]), rain)
    assert sentences == {FILM: [DIRECTED], RAIN: []} and "没有采用 0 条" in talk
    assert '"object_span": [7, 10]' in runner.output.read_text("utf-8")


def test_regions_of_an_image_do_not_say_that_its_caption_has_no_triplets(runner: Runner) -> None:
    box = {"id": "x", "type": "rectanglelabels", "value": {"x": 1.5, "y": 2, "width": 9, "height": 9}}
    drawn = {"id": 2, "data": {"text": RAIN, "image": "rain.jpg"}, "annotations": [{"result": [box]}]}
    sentences, talk = run_import(runner, task([*REGIONS, DIRECTS]), drawn)
    assert sentences == {FILM: [DIRECTED]}
    assert "标注是图片上的区域，不是文字的片段：1 处" in talk and "没有采用 1 条" in talk


def test_direction_and_several_labels(runner: Runner) -> None:
    back = [*REGIONS, relation("b", "a", "导演", direction="left")]
    assert run_import(runner, task(back))[0] == {FILM: [DIRECTED]}
    both = [*REGIONS, relation("b", "c", "同事", "朋友", direction="bi")]
    found = run_import(runner, task(both))[0][FILM]
    assert [(t.subject, t.predicate, t.object) for t in found] == [
        ("沈知远", "同事", "顾小满"),
        ("顾小满", "同事", "沈知远"),
        ("沈知远", "朋友", "顾小满"),
        ("顾小满", "朋友", "沈知远"),
    ]


def test_relation_names_as_text_and_under_other_keys(runner: Runner) -> None:
    for name in ("labels", "label"):
        arrow = {"type": "relation", "from_id": "a", "to_id": "b", name: "导演"}
        assert run_import(runner, task([*REGIONS, arrow]))[0] == {FILM: [DIRECTED]}


def test_tags_of_html_are_no_part_of_the_sentence(runner: Runner) -> None:
    regions = [{**region, "type": "hypertextlabels"} for region in REGIONS]
    tagged = {"text": f'<p class="x">{FILM.replace("，", "，<br/>")}</p>'}
    assert run_import(runner, {**task([*regions, DIRECTS]), "data": tagged})[0] == {FILM: [DIRECTED]}


def test_remark_on_a_region_takes_nothing_from_it(runner: Runner) -> None:
    remark = {"id": "a", "type": "textarea", "value": {"start": 1, "end": 5, "text": ["不确定"]}}
    for result in ([*REGIONS, remark, DIRECTS], [remark, *REGIONS, DIRECTS]):
        assert run_import(runner, task(result))[0] == {FILM: [DIRECTED]}


def test_second_type_of_a_region_is_named(runner: Runner) -> None:
    value = {**REGIONS[0]["value"], "labels": ["影视作品", "图书"]}
    sentences, talk = run_import(runner, task([{**REGIONS[0], "value": value}, *REGIONS[1:], DIRECTS]))
    assert sentences == {FILM: [DIRECTED]}
    assert "片段有几个类型，只用第一个：1 处" in talk and "雾港来信：影视作品、图书" in talk


def test_text_among_several_fields_is_the_one_that_regions_fit(runner: Runner) -> None:
    for data in ({"title": "片名和导演是谁呢没有人知道", "body": FILM}, {"sentence": FILM, "编号": "x1"}):
        assert run_import(runner, {**task([*REGIONS, DIRECTS]), "data": data})[0] == {FILM: [DIRECTED]}


def test_what_cannot_be_used_is_named_by_task(runner: Runner) -> None:
    rain = {"id": 9, "data": {"text": RAIN}, "annotations": [{"result": []}]}
    unlabelled = {"id": 5, "data": {"text": RAIN + "。"}, "annotations": [], "predictions": [{"result": []}]}
    no_text = {"id": 6, "data": {"a": "1", "b": "2"}, "annotations": [{"result": []}]}
    sentences, talk = run_import(
        runner,
        task([*REGIONS, DIRECTS, relation("a", "c"), relation("a", "z", "编剧")], number=3),
        task([*REGIONS, DIRECTS], number=4, was_cancelled=True),
        unlabelled,
        no_text,
        rain,
    )
    assert sentences == {FILM: [DIRECTED], RAIN: []}
    for line in (
        "两个片段之间的关系没有选名称：1 处\n    "
        + str(runner.folder / "export.json")
        + " 任务 3：雾港来信 → 顾小满",
        "关系所指的片段不在里面：1 处",
        "任务被跳过（was_cancelled）：1 处\n    " + str(runner.folder / "export.json") + " 任务 4",
        "任务还没有标注：1 处\n    " + str(runner.folder / "export.json") + " 任务 5",
        "任务的 data 里没有唯一的一段文字：1 处",
        "读入 5 条，采用 2 条，没有采用 3 条",
    ):
        assert line in talk


def test_several_annotators(runner: Runner) -> None:
    full, half = [*REGIONS, DIRECTS, PLAYS], [*REGIONS, DIRECTS]
    sentences, talk = run_import(runner, task(full, half, half))
    assert sentences == {FILM: [DIRECTED]}
    assert "没有达到 --agreement：1 处" in talk and "主演 | 雾港来信 | 顾小满：3 位里有 1 位" in talk
    disputed = task([*REGIONS, DIRECTS], [*REGIONS, PLAYS], [*REGIONS], number=7)
    sentences, talk = run_import(runner, task(full), disputed)
    assert sentences == {FILM: [DIRECTED, PLAYED]} and "任务 7：" in talk
    assert "没有一个关系可用：1 处" in talk  # which isn't the same as nothing to extract
    assert run_import(runner, task(full, half))[0] == {FILM: [DIRECTED, PLAYED]}  # half of them will do
    checked = task(full, half, half)
    checked["annotations"][0]["ground_truth"] = True
    assert run_import(runner, checked)[0] == {FILM: [DIRECTED, PLAYED]}
    source = runner.write("export.json", [task(full, half)])
    options = ["-o", str(runner.output), "--overwrite", "--agreement", "1"]
    assert main(["import", str(source), *options]) == 0
    assert '"主演' not in runner.output.read_text("utf-8").replace("\\", "")


def test_json_min_is_refused_with_the_reason(runner: Runner) -> None:
    exported = {"text": FILM, "id": 1, "label": [REGIONS[0]["value"]], "annotator": 1, "annotation_id": 2}
    with pytest.raises(
        UserError, match=r"export\.json：这是 Label Studio 的 JSON-MIN 导出，它不含关系.*选 JSON"
    ):
        run_import(runner, {**exported, "lead_time": 3.5})


def test_what_label_studio_1_23_exported(runner: Runner) -> None:
    """See tests/fixtures/label_studio: pre-annotations that were submitted in its editor come back whole."""
    assert main(["import", str(EXPORTS / "export.json"), "-o", str(runner.output)]) == 0
    talk = runner._capsys.readouterr().err
    assert "认作 Label Studio JSON（JSON 数组，UTF-8）；读入 7 条，采用 5 条，没有采用 2 条" in talk
    assert "任务被跳过（was_cancelled）：1 处" in talk and "任务还没有标注：1 处" in talk
    found = {}
    for line in runner.output.read_text("utf-8").splitlines():
        fields = json.loads(line)
        text = split_context(fields["context"])[1]
        found[text] = [
            (triplet.subject, triplet.predicate, triplet.object) for triplet in parse_target(fields["target"])
        ]
        for triplet, spans in zip(parse_target(fields["target"]), fields.get("spans", ()), strict=True):
            assert text[slice(*spans["subject_span"])] == triplet.subject
            assert text[slice(*spans["object_span"])] == triplet.object
    assert found == {
        FILM: [("雾港来信", "导演", "沈知远"), ("雾港来信", "主演", "顾小满")],
        "🎬😀《晚潮》由许其琛导演，许其琛还唱了片尾曲《北岸》。": [
            ("晚潮", "导演", "许其琛"),
            ("北岸", "歌手", "许其琛"),
        ],
        "苏州青禾科技有限公司由林望舒创办。": [
            ("苏州青禾科技有限公司", "总部地点", "苏州"),
            ("苏州青禾科技有限公司", "创始人", "林望舒"),
        ],
        RAIN: [],
        '林望舒的父亲是林怀远，😀林怀远在"苏州"教书。': [("林望舒", "父亲", "林怀远")],
    }
    exported = str(EXPORTS / "export.json")
    assert main(["import", exported, "-o", str(runner.output), "--agreement", "0.6", "--overwrite"]) == 0
    assert "标注者意见不一，没有达到 --agreement：1 处" in runner._capsys.readouterr().err
    with pytest.raises(UserError, match="JSON-MIN 导出，它不含关系"):
        main(["import", str(EXPORTS / "export_min.json"), "-o", str(runner.folder / "none.jsonl")])


def test_import_takes_doccano_too_and_nothing_else(runner: Runner) -> None:
    assert run_import(runner, DOCCANO)[0] == {FILM: [DIRECTED]}
    table = runner.write("a.csv", "句子,主语,关系,宾语\n")
    with pytest.raises(UserError, match=r"其他格式请用 python -m data_handle\.convert"):
        main(["import", str(table), "-o", str(runner.folder / "x.jsonl")])


def test_import_of_results_says_what_they_are(runner: Runner) -> None:
    path = runner.write("results.jsonl", jsonl({"id": 1, "text": FILM, "triplets": [DIRECTED._asdict()]}))
    with pytest.raises(UserError, match="是句子与三元组（text、triplets），不是标注工具导出的 JSON：请用"):
        main(["import", str(path), "-o", str(runner.output)])


def test_offsets_of_older_releases_count_utf16(runner: Runner) -> None:
    text = "😀😀雾港与雾港来信由沈知远执导。"
    marked = [region("a", 5, 9, "影视作品", text), region("b", 10, 13, "人物", text)]
    for item in marked:
        for name in ("start", "end"):
            item["value"][name] += 2  # the two emoji are two units each
    exported = {"id": 1, "data": {"text": text}, "annotations": [{"result": [*marked, DIRECTS]}]}
    assert run_import(runner, exported)[0] == {text: [DIRECTED]}
    spans = json.loads(runner.output.read_text("utf-8"))["spans"]
    assert spans == [{"object_span": [10, 13], "subject_span": [5, 9]}]


# --- export ---------------------------------------------------------------------------------------------


def test_export_writes_tasks_and_configuration(runner: Runner) -> None:
    lines = [
        {"id": "s1", "text": FILM, "triplets": [found(DIRECTED, FILM, 0.9), found(PLAYED, FILM, 0.4)]},
        {"text": RAIN, "triplets": []},
        {"text": "失败的一句", "triplets": [], "error": "显存不足"},
        {"text": FILM, "triplets": [found(DIRECTED._replace(object="别人"), FILM + "别人")]},
    ]
    results = runner.write("results.jsonl", jsonl(*lines))
    tasks, config = runner.folder / "tasks.json", runner.folder / "labels.xml"
    assert main(["export", str(results), "-o", str(tasks), "--config", str(config)]) == 0
    talk = runner._capsys.readouterr().err
    assert "4 个任务，3 个实体，2 个关系，其中 1 个任务抽取失败、没有预标注" in talk
    assert "值不在句子里，没有预标注：1 处" in talk
    first, empty, failed, _ = json.loads(tasks.read_text("utf-8"))
    assert first["data"] == {"text": FILM, "source": f"{results}:1", "id": "s1"}
    (prediction,) = first["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("chatglm-triplet", 0.4)
    assert prediction["result"] == [
        {**region("r1", 1, 5, "影视作品"), "score": 0.9},
        {**region("r2", 7, 10, "人物"), "score": 0.9},
        {**region("r3", REGIONS[2]["value"]["start"], REGIONS[2]["value"]["end"], "人物"), "score": 0.4},
        {**relation("r1", "r2", "导演"), "score": 0.9},
        {**relation("r1", "r3", "主演"), "score": 0.4},
    ]
    assert empty["predictions"] == [{"model_version": "chatglm-triplet", "result": []}]
    assert "predictions" not in failed
    root = ElementTree.fromstring(config.read_text("utf-8"))
    assert [each.get("value") for each in root.iter("Relation")] == ["主演", "导演"]
    assert [each.get("value") for each in root.iter("Label")] == ["人物", "影视作品"]
    assert root.find("Labels").get("toName") == root.find("Text").get("name") == "text"
    with pytest.raises(UserError, match="已经存在，要覆盖请加 --overwrite"):
        main(["export", str(results), "-o", str(tasks)])
    with pytest.raises(UserError, match="同一个文件"):
        main(["export", str(results), "-o", str(results), "--overwrite"])


def test_export_with_schema_and_least_score(runner: Runner) -> None:
    results = runner.write("results.jsonl", jsonl({"text": FILM, "triplets": [found(DIRECTED, FILM, 0.2)]}))
    other = {"predicate": "作曲", "subject_type": "歌曲", "object_type": "人物"}
    schema = runner.write("schema.json", {"combinations": [other]})
    tasks, config = runner.folder / "tasks.json", runner.folder / "labels.xml"
    options = ["--config", str(config), "--schema", str(schema), "--min-score", "0.5"]
    assert main(["export", str(results), "-o", str(tasks), *options]) == 0
    assert json.loads(tasks.read_text("utf-8"))[0]["predictions"][0]["result"] == []
    values = [
        each.get("value") for each in ElementTree.fromstring(config.read_text("utf-8")).iter("Relation")
    ]
    assert values == ["作曲", "导演"]


def test_what_is_no_result_is_refused(runner: Runner) -> None:
    labels = runner.write("labels.jsonl", jsonl({"context": FILM, "target": "[]"}))
    for command in ("export", "select"):
        with pytest.raises(UserError, match="没有抽取结果"):
            main([command, str(labels), "-o", str(runner.folder / "x.json")])


def test_configuration_escapes_names() -> None:
    names = ['引"号', "<尖>", "和&", "行\n"]
    config = build_config(Combination(name, name, name) for name in names)
    root = ElementTree.fromstring(config)
    assert sorted(each.get("value") for each in root.iter("Label")) == sorted(names)
    assert len({each.get("background") for each in root.iter("Label")}) == 4


LETTERS = st.text(alphabet="甲乙a😀𠮷", min_size=1, max_size=12)
NAMES = st.sampled_from(["人物", "作品", "地点"])


@st.composite
def extractions(draw: st.DrawFn) -> Result:
    """A sentence with triplets between any of its parts: overlapping, nested, the same word in two places."""
    text = draw(LETTERS.filter(lambda value: any(c != "😀" for c in value)))
    spans = [
        Span(start, end)
        for start in range(len(text))
        for end in range(start + 1, len(text) + 1)
        if any(c != "😀" for c in text[start:end])
    ]
    items: dict[Triplet, Found] = {}
    for _ in range(draw(st.integers(0, 5))):
        first, second = draw(st.sampled_from(spans)), draw(st.sampled_from(spans))
        triplet = Triplet(
            draw(NAMES),
            draw(NAMES),
            draw(NAMES),
            text[first.start : first.end],
            text[second.start : second.end],
        )
        items.setdefault(triplet, Found(triplet, draw(st.floats(0, 1)), first, second))
    return Result("x:1", {"text": text}, text, list(items.values()), False)


def back(tasks: list[dict[str, Any]]) -> tuple[list[Triplet], list[tuple[Span | None, Span | None]]]:
    """Accept the predictions as an annotator would, export, and import."""
    for each in json.loads(json.dumps(tasks)):
        each["annotations"] = [{"result": each.pop("predictions")[0]["result"]}]
        items = list(converter.read([Record("x 第 1 项", {"id": 1, **each})], Settings()))
        assert all(isinstance(item, Labelled) for item in items)
        (sample,) = check_sentences(items, {}).samples
        return sample.triplets, sample.spans
    raise AssertionError


@settings(deadline=None, max_examples=150)
@given(extractions())
def test_round_trip_loses_nothing(result: Result) -> None:
    tasks, problems = build_tasks([result], "model")
    assert not problems
    triplets, spans = back(tasks)
    assert dict(zip(triplets, spans, strict=True)) == {
        each.triplet: (each.object_span, each.subject_span) for each in result.found
    }


@settings(deadline=None, max_examples=150)
@given(extractions())
def test_round_trip_through_utf16_offsets(result: Result) -> None:
    tasks, _ = build_tasks([result], "model")
    text, fits = result.text, True
    for item in tasks[0]["predictions"][0]["result"]:
        if "value" in item:
            value = item["value"]
            for name in ("start", "end"):
                value[name] = len(text[: value[name]].encode("utf-16-le")) // 2
            fits = fits and text[value["start"] : value["end"]] == value["text"]
    triplets, spans = back(tasks)
    assert triplets == [each.triplet for each in result.found]
    if not fits:  # else there is no telling the two apart
        assert spans == [(each.object_span, each.subject_span) for each in result.found]


def test_unknown_command_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="import、export、select"):
        main(["exprot"])
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0 and "export 导出预标注" in capsys.readouterr().out

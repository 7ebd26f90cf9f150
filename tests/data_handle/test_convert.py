"""The converter's rules: values and offsets checked, nothing lost without a word, split without a leak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_handle import convert_duie
from data_handle.conversion import pipeline
from data_handle.conversion.checking import Sample, locate
from data_handle.conversion.split import split_samples
from data_handle.convert import main
from data_handle.converters.labelled import Span
from data_handle.sentences import sentence_key
from export import graph
from task.prompt import build_prompt
from task.triplets import Triplet, combination_of
from tests.data_handle.converting import DIRECTED, FILM, PLAYED, RAIN, Runner, jsonl
from utils.common_utils import UserError
from utils.directories import temporary_beside

ROOT = Path(__file__).parents[2]
RECORD = {"text": FILM, "triplets": [DIRECTED._asdict()]}


def test_command_tells_what_became_of_each_line(tmp_path: Path) -> None:
    source, target, report = tmp_path / "in.json", tmp_path / "train.jsonl", tmp_path / "report.jsonl"
    wrong = {"text": FILM, "triplets": [{**DIRECTED._asdict(), "object": f"别人{n}"} for n in range(4)]}
    source.write_text(jsonl(RECORD, wrong, {"text": RAIN, "triplets": []}) + "坏\n", encoding="utf-8")
    command = [sys.executable, "-m", "data_handle.convert", source, "-o", target, "--report", report]
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert (finished.returncode, finished.stdout) == (0, "")
    assert finished.stderr == (
        f"{source}：认作 句子与三元组（text、triplets）（JSONL，UTF-8）；读入 4 条，"
        "采用 2 条，没有采用 2 条。\n"
        "  没有采用，宾语不在句子里：4 处\n"
        f"    {source}:2：“别人0”不在“{FILM}”里\n"
        f"    {source}:2：“别人1”不在“{FILM}”里\n"
        f"    {source}:2：“别人2”不在“{FILM}”里\n"
        "    ……还有 1 处（--report 写出全部）\n"
        "  没有采用，不是合法的 JSON：1 处\n"
        f"    {source}:4：第 1 个字符处出错：坏\n"
        "  没有采用，没有一个三元组可用，整句没有采用：1 处\n"
        f"    {source}:2：{FILM}\n"
        f"已写入 {target}：2 个句子，1 个三元组，1 种关系，其中 1 个句子没有三元组。\n"
    )
    problems = [json.loads(line) for line in report.read_text("utf-8").splitlines()]
    assert len(problems) == 6 and problems[0]["where"] == f"{source}:4"


def test_nothing_is_overwritten_unasked(runner: Runner) -> None:
    source = runner.write("in.json", jsonl(RECORD))
    for name in ("train.jsonl", "dev.jsonl", "report.jsonl"):
        runner.write(name, "mine")
    arguments = [str(source), "-o", str(runner.folder / "other.jsonl")]
    for option, name in (("-o", "train.jsonl"), ("--dev", "dev.jsonl"), ("--report", "report.jsonl")):
        with pytest.raises(UserError, match=f"{name} 已经存在，要覆盖请加 --overwrite"):
            main([*arguments, option, str(runner.folder / name)])
        assert (runner.folder / name).read_text() == "mine"
    with pytest.raises(UserError, match="输入和输出是同一个文件"):
        main([str(source), "-o", str(source), "--overwrite"])
    with pytest.raises(UserError, match="几个输出写的是同一个文件"):
        main([*arguments, "--dev", str(runner.folder / "other.jsonl")])
    assert not (runner.folder / "other.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "缺少输入文件和输出文件"),
        (["in.csv"], "缺少输出文件"),
        (["in.csv", "-o", "a", "--dev_ratio", "0.2"], "--dev_ratio 要与 --dev 一起用"),
        (["in.csv", "-o", "a", "--dev", "b", "--dev-ratio", "1"], "不含两端"),
        (["in.csv", "-o", "a", "--negatives_count", "3"], "要与 --negatives 一起用"),
        (["in.csv", "-o", "none/a"], "目录 none 不存在"),
        (["in.csv", "-o", "a", "--instruction", "一\n\n二"], "空行"),
    ],
)
def test_mistakes_in_the_command(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_all_mistakes_are_told_at_once(runner: Runner) -> None:
    words = ["in.csv", "--dev_ratio", "1", "--negatives-count", "many", "--overwirte", "--instruction", " "]
    with pytest.raises(UserError, match="命令行有 5 处错误") as refused:
        main(words)
    for part in (
        "是不是想写 --overwrite",
        "negatives_count 应为正整数",
        "要与 --dev 一起用",
        "不含两端",
        "指令不能",
    ):
        assert part in str(refused.value)
    runner.write("dev.jsonl", "mine")
    missing = str(runner.folder / "none" / "train.jsonl")
    with pytest.raises(UserError, match=r"输出有 2 处错误：\n.*none 不存在.*\n.*已经存在"):
        main(["in.csv", "-o", missing, "--dev", str(runner.folder / "dev.jsonl")])


def test_no_pipe_or_device_is_replaced(runner: Runner) -> None:
    source, pipe = runner.write("in.json", jsonl(RECORD)), runner.folder / "pipe"
    os.mkfifo(pipe)
    link = runner.folder / "link"  # as /dev/stdout is one
    link.symlink_to(pipe)
    for command, words in (
        (main, ["-o", str(link), "--overwrite"]),
        (main, ["-o", str(pipe), "--overwrite"]),
        (convert_duie.main, [str(pipe), "--force"]),
        (graph.main, ["--format", "csv", "-o", str(pipe), "--force"]),
    ):
        with pytest.raises(UserError, match="设备或管道，不能替换"):
            command([str(source), *words])
    assert pipe.is_fifo() and link.is_symlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_leaves_what_was_there(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    source, dev = runner.write("in.json", jsonl(RECORD)), runner.write("report.jsonl", "mine")
    full = runner.folder / ".full"
    full.symlink_to("/dev/full")
    monkeypatch.setattr(
        pipeline,
        "temporary_beside",
        lambda path: full if path.name == "report.jsonl" else temporary_beside(path),
    )
    wrong = runner.write("wrong.json", jsonl({"text": FILM, "triplets": [{"subject": "x" * 9000}]}))
    with pytest.raises(UserError, match=r"写 .*report\.jsonl 时出错"):
        main([str(source), str(wrong), "-o", str(runner.output), "--report", str(dev), "--overwrite"])
    assert dev.read_text() == "mine" and not runner.output.exists()
    assert not list(runner.folder.glob(".*"))


def test_no_sentence_becomes_negative_by_losing_its_facts(runner: Runner) -> None:
    lost = {"text": RAIN, "triplets": [{"subject": "张三", "predicate": "看", "object": "雨"}]}
    assert list(runner(jsonl(RECORD, lost)).sentences) == [FILM]
    empty = {"text": RAIN, "triplets": []}  # says the same sentence in another place
    converted = runner(jsonl(RECORD, lost, empty))
    assert list(converted.sentences) == [FILM]
    assert "不能当作没有三元组的句子：1 处" in converted.talk
    with pytest.raises(UserError, match="所有句子都没有三元组"):
        runner(jsonl({"text": RAIN, "triplets": []}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subject": ""}, "没有填主语"),
        ({"object": None}, "没有填宾语"),
        ({"predicate": " "}, "没有填关系"),
        ({"object": "》"}, "宾语里没有一个字"),
        ({"subject": "雾港来信2"}, "主语不在句子里"),
        ({"predicate": "关" * 101}, "关系超过 100 个字符"),
        ({"object_type": "\ud800"}, "宾语类型里有读不出的字符"),
        ({"object": ["沈知远"]}, "字段 宾语 应当是文字"),
    ],
)
def test_facts_that_cannot_be_used(runner: Runner, changes: dict[str, object], reason: str) -> None:
    bad = {**DIRECTED._asdict(), **changes}
    content = json.dumps({"text": FILM, "triplets": [bad, PLAYED._asdict()]})
    converted = runner(content)
    assert converted.sentences == {FILM: [PLAYED]}
    assert f"没有采用，{reason}：1 处" in converted.talk


def test_values_take_the_spelling_of_the_text(runner: Runner) -> None:
    text = "《The Ｌast Tide》由沈 知远执导。"
    fact = {"subject": "the last tide", "predicate": "导演", "object": "沈知远"}
    converted = runner(jsonl({"text": text, "triplets": [fact]}))
    assert [(t.subject, t.object) for t in converted.sentences[text]] == [("The Ｌast Tide", "沈 知远")]
    assert "已照原文改写：2 处" in converted.talk


@pytest.mark.parametrize(
    ("span", "place"),
    [((4, 6), (4, 6)), ((5, 7), (4, 6)), ((4, 5), (4, 6)), ((0, 2), (1, 3)), (None, None)],
)
def test_offsets_in_code_points_in_utf16_inclusive_or_wrong(
    span: tuple[int, int] | None, place: tuple[int, int] | None
) -> None:
    found = locate("😀雾港又雾港", "雾港", span and Span(*span))
    assert found is not None and found.span == place
    assert bool(found.note) is (span not in (None, (4, 6)))


def test_blanks_around_text_and_values_move_the_offsets(runner: Runner) -> None:
    fact = {"subject": " 雾港来信", "predicate": "导演", "object": "沈知远 ", "subject_span": [2, 7]}
    line = runner(jsonl({"text": f"  {FILM} ", "triplets": [{**fact, "object_span": [9, 13]}]})).lines[0]
    assert line["spans"] == [{"object_span": [7, 10], "subject_span": [1, 5]}]


def test_one_sentence_from_several_files_once(runner: Runner) -> None:
    first = runner.write("a.jsonl", jsonl(RECORD, {"text": FILM, "triplets": []}))
    untyped = {"subject": "雾港来信", "predicate": "导演", "object": "沈知远"}
    second = runner.write("b.jsonl", jsonl({"text": FILM, "triplets": [untyped, PLAYED._asdict()]}))
    converted = runner.convert(first, second)
    assert converted.sentences == {FILM: [DIRECTED, PLAYED]} and len(converted.lines) == 1
    assert "2 处与前面是同一个句子" in converted.talk and "实体" not in converted.talk


def test_long_and_broken_sentences_are_pointed_out(runner: Runner) -> None:
    assert "1 个句子里有换行" in runner(jsonl(RECORD, {"text": "雨\n停了", "triplets": []})).talk
    assert "1 个句子超过 250 字" in runner(jsonl(RECORD, {"text": "雨" * 251, "triplets": []})).talk


def films(count: int) -> list[dict[str, object]]:
    records = []
    for number in range(count):
        title, name = f"片{chr(0x4E00 + number)}", f"人{chr(0x5E00 + number)}"
        predicate = "导演" if number % 3 else "编剧"
        fact = {"subject": title, "predicate": predicate, "object": name}
        records.append({"text": f"《{title}》的{predicate}是{name}。", "triplets": [fact]})
    return records


def test_split_is_seeded_and_stratified(runner: Runner) -> None:
    dev = runner.folder / "dev.jsonl"
    records = films(90) + [{"text": f"无关{chr(0x6E00 + n)}", "triplets": []} for n in range(20)]
    content, options = jsonl(*records), ("--dev", str(dev), "--dev_ratio", "0.2")
    train = runner(content, *options).lines
    first = dev.read_text("utf-8")
    lines = [json.loads(line) for line in first.splitlines()]
    counts = [
        sum(word in line["context"].split("\n\n")[1] for line in lines) for word in ("导演", "编剧", "无关")
    ]
    assert counts == [12, 6, 4] and len(train) + len(lines) == 110
    runner(content, *options)
    assert dev.read_text("utf-8") == first
    runner(content, *options, "--seed", "7")
    assert dev.read_text("utf-8") != first


def test_split_needs_something_to_spare(runner: Runner) -> None:
    with pytest.raises(UserError, match="分不出验证集"):
        runner(jsonl(RECORD), "--dev", str(runner.folder / "dev.jsonl"))
    assert not runner.output.exists()


TEXTS = st.text(alphabet="甲乙丙，。12 ", min_size=1, max_size=4)
FACTS = st.lists(
    st.builds(Triplet, *(st.sampled_from("东西南北") for _ in range(3)), st.just("甲"), st.just("乙"))
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(TEXTS, FACTS), max_size=30), st.floats(0.05, 0.9), st.integers(0, 9))
def test_split_never_leaks_and_loses_no_relation(
    rows: list[tuple[str, list[Triplet]]], ratio: float, seed: int
) -> None:
    samples = [Sample(text, triplets, [(None, None)] * len(triplets), None, "") for text, triplets in rows]
    try:
        train, dev = split_samples(samples, ratio, seed)
    except UserError:
        return
    assert dev and len(train) + len(dev) == len(samples)
    assert not {sentence_key(s.text) for s in train} & {sentence_key(s.text) for s in dev}
    known = {combination_of(triplet) for sample in train for triplet in sample.triplets}
    assert {combination_of(triplet) for sample in dev for triplet in sample.triplets} <= known


def test_negatives_on_request(runner: Runner) -> None:
    lines = [RAIN, FILM + "！", "雾港来信与沈知远无关。", "导演今天没来。", "", RAIN, "街上很静。"]
    negatives = runner.write("plain.txt", "\n".join(lines))
    converted = runner(jsonl(RECORD), "--negatives", str(negatives))
    assert converted.sentences == {FILM: [DIRECTED], RAIN: [], "导演今天没来。": [], "街上很静。": []}
    assert "里面有已知三元组的主语和宾语，未必是反例：1 处" in converted.talk
    assert "句子已经有标注，或与别的句子只差标点、数字：2 处" in converted.talk
    fewer = runner(jsonl(RECORD), "--negatives", str(negatives), "--negatives_count", "1")
    assert fewer.sentences == {FILM: [DIRECTED], "导演今天没来。": []}  # the one that may confuse


def test_sentences_of_another_file_are_left_out(runner: Runner) -> None:
    dev = runner.write("dev.jsonl", jsonl({"context": build_prompt(FILM + "！"), "target": "[]"}))
    records = [RECORD, {"text": "《晚潮》是许其琛导演的。", "triplets": [["晚潮", "导演", "许其琛"]]}]
    converted = runner(jsonl(*records), "--exclude", str(dev))
    assert list(converted.sentences) == ["《晚潮》是许其琛导演的。"]
    assert "句子在 --exclude 的文件里（标点、数字不算区别）：1 处" in converted.talk
    assert "采用 1 条，没有采用 1 条" in converted.talk


@pytest.mark.parametrize(
    "known",
    [
        jsonl({"context": build_prompt(FILM), "target": "[]"}),
        jsonl({"text": FILM, "triplets": []}),
        json.dumps([{"id": 1, "data": {"text": FILM}, "annotations": []}]),
        f"句子,主语,关系,宾语\n{FILM},雾港来信,导演,沈知远\n",
        f"\n{FILM}\n",
    ],
)
def test_sentences_of_any_file_can_be_left_out(runner: Runner, known: str) -> None:
    other = {"text": "《晚潮》是许其琛导演的。", "triplets": [["晚潮", "导演", "许其琛"]]}
    converted = runner(jsonl(RECORD, other), "--exclude", str(runner.write("known", known)))
    assert list(converted.sentences) == [other["text"]]


def test_offsets_survive_a_second_conversion(runner: Runner) -> None:
    text = "雾港在雾港路上。"
    fact = {"subject": "雾港", "predicate": "位于", "object": "雾港", "object_span": [3, 5]}
    first = runner(jsonl({"text": text, "triplets": [fact]})).lines
    assert runner(jsonl(*first)).lines == first and first[0]["spans"][0]["object_span"] == [3, 5]


def test_converted_lines_are_what_training_reads(runner: Runner) -> None:
    converted = runner(jsonl(RECORD))
    assert converted.lines[0] == {
        "context": "Instruction: 你现在是一个很厉害的阅读理解器，严格按照人类指令进行回答。\n"
        f"Input: 帮我抽取出下面句子中的三元组信息，返回JSON：\n\n{FILM}\nAnswer: ",
        "target": '```json\n[{"predicate": "导演", "object_type": "人物", "subject_type": "影视作品", '
        '"object": "沈知远", "subject": "雾港来信"}]\n```',
    }

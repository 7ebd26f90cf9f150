"""The linter: each kind of finding on lines made for it, the tables, and the command with its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_handle.lint import KINDS, Lengths, LintReport, lint_files
from data_handle.lint_report import main, to_dict, to_text
from task.prompt import build_prompt
from task.triplets import Combination, Triplet, format_target
from tests.helpers.data_samples import CharacterTokenizer, director, make_line, write_jsonl
from utils.common_utils import UserError

ROOT = Path(__file__).parents[2]
FILM = make_line("《甲片》由张一执导。", director("甲片", "张一"))
EMPTY = make_line("今天下雨。")
LABEL = {
    "context": build_prompt("很好吃。", "下面句子可能是一条关于什么的评论，用列表形式回答："),
    "target": '["水果"]',
}


def lint(
    *paths: Path, limits: tuple[int, int] = (256, 128), declared: set[Combination] | None = None
) -> LintReport:
    source, target = limits
    return lint_files(
        paths, CharacterTokenizer(), max_source_seq_len=source, max_target_seq_len=target, declared=declared
    )


def findings_of(report: LintReport, *kinds: str) -> list[tuple[str, str, str]]:
    """Return (kind, line or file name, detail) of the findings, of some kinds only if any are given."""
    return [
        (finding.kind, finding.where.rpartition("/")[2], finding.detail)
        for finding in report.findings
        if not kinds or finding.kind in kinds
    ]


def lint_lines(tmp_path: Path, *lines: dict[str, str], **options) -> list[tuple[str, str, str]]:
    """Lint lines to which an empty-list example is added, so that its absence is no finding."""
    path = write_jsonl(tmp_path / "a.jsonl", [*lines, EMPTY])
    return findings_of(lint(path, **options))


def with_target(target: str, sentence: str = "《甲片》由张一执导。") -> dict[str, str]:
    return {"context": build_prompt(sentence), "target": target}


def test_clean_file_and_its_figures(tmp_path: Path) -> None:
    report = lint(write_jsonl(tmp_path / "a.jsonl", [FILM, LABEL, EMPTY]))

    assert report.findings == []
    assert report.clean
    assert report.types == {Combination("导演", "影视作品", "人物"): 1}
    (statistics,) = report.files
    assert (statistics.examples, statistics.triplet_examples, statistics.empty_examples) == (3, 2, 1)
    assert (statistics.triplets, statistics.bad_lines) == (1, 0)
    contexts = sorted(len(line["context"]) + 2 for line in (FILM, LABEL, EMPTY))
    assert statistics.source == Lengths(round(sum(contexts) / 3, 1), contexts[2], contexts[2], 256, 0)
    # ```json\n[]\n``` has 14 characters, ["水果"] has 6; each has its <eop>
    film = len(FILM["target"]) + 1
    assert statistics.target == Lengths(round((15 + 7 + film) / 3, 1), film, film, 128, 0)


def test_p95_is_the_nearest_rank(tmp_path: Path) -> None:
    lines = [with_target("答" * number, f"{number}") for number in range(1, 41)]
    report = lint(write_jsonl(tmp_path / "a.jsonl", lines), limits=(256, 30))
    assert report.files[0].target == Lengths(mean=21.5, p95=39, longest=41, limit=30, over=11)


def test_lengths_over_the_limits(tmp_path: Path) -> None:
    three = make_line("甲乙丙丁", director("甲", "乙"), director("乙", "丙"), director("丙", "丁"))
    lines = [
        make_line("长" * 200),
        three,
        with_target("答" * 130),
        make_line("很长很长", director("很长" * 40, "很长")),
    ]
    found = [finding for finding in lint_lines(tmp_path, *lines) if finding[0].endswith("_too_long")]
    context = len(lines[0]["context"]) + 2
    target = len(three["target"]) + 1
    assert found[0] == ("source_too_long", "a.jsonl:1", f"{context} 个 token，上限 256")
    assert found[1] == ("target_too_long", "a.jsonl:2", f"{target} 个 token，上限 128，会去掉末尾 2 个三元组")
    assert found[2] == ("target_too_long", "a.jsonl:3", "131 个 token，上限 128，文字会被截断")
    assert found[3][:2] == ("target_too_long", "a.jsonl:4")
    assert "一个三元组也放不下，整条不会用于训练" in found[3][2]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ('```json\n[{"predicate": "导演"\n```', "JSON 有语法错误"),
        ('["水果"', "JSON 有语法错误，第 6 个字符处"),
        ('结果是 {"predicate": "导演"', "JSON 有语法错误"),
        ('结果是 {"predicate": "导演"}', "三元组缺少字段"),
        ('[{"predicate": "导演"}]', "三元组缺少字段 object_type、subject_type、object、subject"),
        ('[{"关系": "导演"}]', "三元组应当恰好有这些字段"),
        ('```json\n[{"subject": "甲", "predicate": "导演", "object": "乙"}]\n```', "三元组没有类型"),
        ("甲片_导演_张一", "答案是用文字写的三元组"),
        ('```json\n{"a": 1}\n```', "不是 JSON 列表"),
        ("[" * 50_000, "JSON 嵌套过深"),
        ("[{" * 1 + '"a":' + "[" * 50_000, "JSON 嵌套过深"),
    ],
)
def test_answers_that_are_no_triplets(tmp_path: Path, target: str, reason: str) -> None:
    found = lint_lines(tmp_path, with_target(target), limits=(256, 200_000))
    assert [(kind, where) for kind, where, _ in found] == [("bad_target", "a.jsonl:1")]
    assert reason in found[0][2]


def test_order_of_fields(tmp_path: Path) -> None:
    reordered = dict(reversed(director("甲片", "张一")._asdict().items()))
    target = f"```json\n{json.dumps([reordered], ensure_ascii=False)}\n```"
    assert lint_lines(tmp_path, with_target(target)) == [
        (
            "key_order",
            "a.jsonl:1",
            "subject、object、subject_type、object_type、predicate，"
            "应为 predicate、object_type、subject_type、object、subject",
        )
    ]


def test_values_empty_repeated_or_not_in_the_sentence(tmp_path: Path) -> None:
    fact = director("甲片", "张一")
    lines = [
        make_line("《甲片》由张一执导。", fact, fact),
        make_line("《乙片》的导演。", Triplet("导演", "", "影视作品", " ", "乙片")),
        make_line("《Java 入门》由李四写。", Triplet("作者", "人物", "图书作品", "李四", "java 入门")),
        make_line("《Ｊａｖａ  入门》由王五写。", Triplet("作者", "人物", "图书作品", "王五", "Java 入门")),
    ]
    assert lint_lines(tmp_path, *lines, limits=(256, 300)) == [
        ("repeated_triplet", "a.jsonl:1", "（甲片，导演，张一） 出现 2 次"),
        ("empty_value", "a.jsonl:2", "（乙片，导演， ）：object_type、object"),
        ("not_in_sentence", "a.jsonl:3", "主体“java 入门”"),
    ]


def test_a_fact_with_an_empty_field_is_not_counted_as_one(tmp_path: Path) -> None:
    blank = make_line("《乙片》由李四执导。", Triplet("导演", "", "影视作品", "李四", "乙片"))
    report = lint(
        write_jsonl(tmp_path / "a.jsonl", [FILM, EMPTY]), write_jsonl(tmp_path / "b.jsonl", [blank, LABEL])
    )
    assert findings_of(report) == [("empty_value", "b.jsonl:1", "（乙片，导演，李四）：object_type")]
    assert report.types == {Combination("导演", "影视作品", "人物"): 1}


def test_notation_repetition_and_contradiction(tmp_path: Path) -> None:
    other = {"context": FILM["context"], "target": LABEL["target"]}
    foreign = {"context": "抽取三元组：《乙片》", "target": "无"}
    assert lint_lines(tmp_path, FILM, foreign, FILM, other) == [
        ("prompt_format", "a.jsonl:2", "推理时的提示词会与它不同，见 README 的数据格式"),
        ("other_answer", "a.jsonl:4", "训练时按文字处理"),
        ("duplicate", "a.jsonl:3", f"与 {tmp_path}/a.jsonl:1 相同"),
        ("conflict", "a.jsonl:4", f"与 {tmp_path}/a.jsonl:1 相同"),
    ]


def test_sentences_in_two_files_are_leaks_whatever_the_instruction(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", [FILM, EMPTY])
    rephrased = make_line("《甲片》由张一执导。 ", director("甲片", "张一"), instruction="找出三元组：")
    dev = write_jsonl(tmp_path / "dev.jsonl", [make_line("雪停了。"), rephrased, FILM])
    report = lint(train, dev)
    assert findings_of(report) == [
        ("leak", "dev.jsonl:2", f"与 {train}:1 是同一个句子"),
        ("leak", "dev.jsonl:3", f"与 {train}:1 是同一个句子"),
    ]
    assert [statistics.path for statistics in report.files] == [str(train), str(dev)]


def test_missing_empty_lists_and_bad_lines(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [FILM, LABEL])
    with path.open("ab") as file:
        file.write(b"\xff\n")
    only_labels = write_jsonl(tmp_path / "b.jsonl", [LABEL | {"context": build_prompt("难吃。")}])
    report = lint(path, only_labels)
    assert [item[:2] for item in findings_of(report)] == [
        ("bad_line", "a.jsonl:3"),
        ("no_empty_list", "a.jsonl"),
        ("other_answer", "b.jsonl:1"),
    ]
    assert report.files[0].bad_lines == 1
    assert not report.clean


def swapped_lines() -> list[dict[str, str]]:
    right = [make_line(f"{name}片由{name}执导。", director(f"{name}片", name)) for name in "甲乙丙"]
    wrong = make_line("《丁片》由丁执导。", Triplet("导演", "影视作品", "人物", "丁片", "丁"))
    friends = make_line("戊和己是夫妻。", Triplet("妻子", "人物", "人物", "己", "戊"))
    return [*right, wrong, friends]


def test_types_swapped_against_the_majority(tmp_path: Path) -> None:
    assert lint_lines(tmp_path, *swapped_lines()) == [
        ("swapped", "a.jsonl:4", "导演（人物 → 影视作品），应为 影视作品 → 人物")
    ]


def test_types_against_declared_relations(tmp_path: Path) -> None:
    declared = {Combination("导演", "人物", "影视作品")}
    found = lint_lines(tmp_path, *swapped_lines(), declared=declared)
    assert found == [
        *(
            ("swapped", f"a.jsonl:{number}", "导演（影视作品 → 人物），应为 人物 → 影视作品")
            for number in (1, 2, 3)
        ),
        ("undeclared", "a.jsonl:5", "妻子（人物 → 人物）"),
    ]


def test_rare_types_are_a_hint_only(tmp_path: Path) -> None:
    lines = [make_line(f"第{n}片由张{n}执导。", director(f"第{n}片", f"张{n}")) for n in range(30)]
    lines.append(make_line("《某剧》由李四执导。", Triplet("导演", "人物", "电视剧", "李四", "某剧")))
    path = write_jsonl(tmp_path / "a.jsonl", [*lines, EMPTY])
    report = lint(path)
    assert findings_of(report) == [("rare_types", "a.jsonl:31", "导演（电视剧 → 人物），31 次里只有 1 次")]
    assert report.clean
    assert findings_of(lint(write_jsonl(path, [*lines[12:], EMPTY]))) == []  # of 19, one is not rare


def test_values_known_elsewhere_by_the_other_type(tmp_path: Path) -> None:
    lines = [
        make_line("《甲片》由张一执导。", director("甲片", "张一")),
        make_line("《乙片》也由张一执导。", director("乙片", "张一")),
        make_line("《丙片》还是由张一执导。", director("张一", "丙片")),
        make_line("《丁片》由丁执导。", director("丁片", "丁")),
        make_line("戊和张一是夫妻。", Triplet("妻子", "人物", "人物", "张一", "戊")),
        *(make_line(f"《{film}》由李四执导。", director(film, "李四")) for film in ("戊片", "己片", "李四")),
    ]
    path = write_jsonl(tmp_path / "a.jsonl", [*lines, EMPTY])
    report = lint(path)
    assert findings_of(report) == [
        ("swapped_values", "a.jsonl:3", "（张一，导演，丙片）：同样的值在别处是另一种类型")
    ]
    assert report.clean


def test_answers_that_are_written_otherwise_are_advice(tmp_path: Path) -> None:
    fact = json.dumps([director("甲片", "张一")._asdict()], ensure_ascii=False)
    path = write_jsonl(tmp_path / "a.jsonl", [with_target(f"结果：\n```JSON\n{fact}\n```"), EMPTY])
    report = lint(path)
    assert findings_of(report) == [
        ("rewritten", "a.jsonl:1", "前后的说明文字、没有代码围栏，或围栏的写法不同")
    ]
    assert report.clean and report.files[0].triplets == 1


def test_a_field_written_twice_is_a_problem(tmp_path: Path) -> None:
    target = format_target([director("甲片", "张一")]).replace('"object"', '"object": "乙", "object"')
    assert lint_lines(tmp_path, with_target(target)) == [
        ("bad_target", "a.jsonl:1", "三元组里字段 object 写了不止一次")
    ]


def test_relations_that_only_later_files_have(tmp_path: Path) -> None:
    actor = Triplet("主演", "人物", "影视作品", "李四", "乙片")
    train = write_jsonl(tmp_path / "train.jsonl", [FILM, EMPTY])
    dev = write_jsonl(tmp_path / "dev.jsonl", [make_line("李四主演《乙片》。", actor), make_line("雪停了。")])
    report = lint(train, dev)
    assert findings_of(report) == [("only_here", "dev.jsonl:1", f"主演（影视作品 → 人物），{train} 里没有")]
    assert not report.clean
    assert findings_of(lint(dev, train), "only_here")[0][1] == "train.jsonl:1"
    labels = write_jsonl(tmp_path / "labels.jsonl", [LABEL])
    assert findings_of(lint(labels, dev)) == []  # no training data for extraction


def test_limits_that_cut_more_than_a_few_lines(tmp_path: Path) -> None:
    lines = [make_line(f"第{n}片由张{n}执导。", director(f"第{n}片", f"张{n}")) for n in range(40)]
    long = [make_line(f"{'长' * 250}{n}") for n in range(3)]
    report = lint(write_jsonl(tmp_path / "a.jsonl", [*lines, *long[:2]]))
    assert [kind for kind, *_ in findings_of(report)] == ["source_too_long", "source_too_long"]
    assert report.clean
    report = lint(write_jsonl(tmp_path / "a.jsonl", [*lines, *long]))
    longest = len(long[0]["context"]) + 2
    assert findings_of(report, "many_too_long") == [
        ("many_too_long", "a.jsonl", f"3 条（7%）超过 max_source_seq_len=256，最长 {longest}，请调大它")
    ]
    assert not report.clean


def test_what_would_act_on_a_terminal_is_shown_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    odd = Triplet("导\x1b[31m演", "人\u202e物", "影视作品", "李\x9b四", "乙片")
    path = str(write_jsonl(tmp_path / "a.jsonl", [make_line("《乙片》。", odd), EMPTY]))
    for options in ([], ["--json"]):
        assert main([path, *options]) == 1
        out = capsys.readouterr().out
        assert not {"\x1b", "\u202e", "\x9b"} & set(out)
    assert json.loads(out)["types"][0]["predicate"] == odd.predicate


def test_the_bundled_data_passes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["data/mixed_train_dataset.jsonl", "data/mixed_dev_dataset.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "提示：答案会被截短，5 处" in out and out.endswith("没有发现问题。\n") and "问题：" not in out


def test_tables_line_up_and_details_are_limited(tmp_path: Path) -> None:
    lines = [make_line(f"《甲{n}》由张一执导。", director(f"乙{n}", "张一")) for n in range(4)]
    text = to_text(lint(write_jsonl(tmp_path / "a.jsonl", [*lines, EMPTY])), max_details=3)
    assert text.startswith("【文件】\n文件")
    assert (
        "【关系与类型】\n"
        "关系  主体类型  客体类型  次数\n"
        "导演  影视作品  人物         4\n"
    ) in text  # fmt: skip
    assert text.endswith(
        "【发现】\n"
        "问题：主体或客体不在句子里，4 处\n"
        f"  {tmp_path}/a.jsonl:1  主体“乙0”\n"
        f"  {tmp_path}/a.jsonl:2  主体“乙1”\n"
        f"  {tmp_path}/a.jsonl:3  主体“乙2”\n"
        "  ……还有 1 处（--details 0 全部列出）\n"
        "请先处理上面的问题。"
    )
    everything = to_text(lint(tmp_path / "a.jsonl"), max_details=0)
    assert f"{tmp_path}/a.jsonl:4  主体“乙3”" in everything


def test_report_as_plain_values(tmp_path: Path) -> None:
    report = to_dict(lint(write_jsonl(tmp_path / "a.jsonl", [FILM])))
    assert report["clean"] is False
    assert report["types"] == [
        {"predicate": "导演", "subject_type": "影视作品", "object_type": "人物", "count": 1}
    ]
    assert report["findings"] == {
        "no_empty_list": {
            "title": KINDS["no_empty_list"][0],
            "problem": True,
            "count": 1,
            "items": [
                {
                    "where": str(tmp_path / "a.jsonl"),
                    "detail": "模型学不到“没有关系”时该怎么回答，请加入一些答案为 [] 的句子",
                }
            ],
        }
    }
    assert report["files"][0]["target"]["limit"] == 128


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_handle.data_preprocess", *map(str, arguments)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )


def test_command_on_the_bundled_data() -> None:
    files = ("data/mixed_train_dataset.jsonl", "data/mixed_dev_dataset.jsonl")
    finished = run(*files, "--max_target_seq_len", 40, "--json")
    assert finished.returncode == 1, finished.stderr
    report = json.loads(finished.stdout)
    assert report["findings"]["target_too_long"]["count"] > 100
    assert [statistics["path"] for statistics in report["files"]] == list(files)
    wrong = {"bad_line", "bad_target", "key_order", "not_in_sentence", "leak", "swapped", "no_empty_list"}
    assert not wrong & set(report["findings"])


def test_command_that_cannot_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as told:
        main([str(tmp_path / "none.jsonl")])
    assert str(told.value) == f"找不到数据文件 {tmp_path}/none.jsonl：请检查路径。"
    assert capsys.readouterr().out == ""


def test_main(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the default model is
    path = str(write_jsonl(tmp_path / "a.jsonl", [FILM, EMPTY]))
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"combinations": [Combination("主演", "影视作品", "人物")._asdict()]}))
    assert main([path]) == 0
    assert "没有发现问题。" in capsys.readouterr().out
    assert main([path, "--schema", str(schema)]) == 1
    assert "schema 里没有的类型组合" in capsys.readouterr().out
    assert main([path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clean"] is True
    with pytest.raises(UserError, match=r"config\.json"):
        main([path, "--pre_model", str(tmp_path)])
    shutil.copy("models/chatglm-tiny/config.json", tmp_path)
    with pytest.raises(UserError, match=r"缺少分词模型 ice_text\.model"):
        main([path, "--pre_model", str(tmp_path)])
    with pytest.raises(UserError, match="找不到模型"):
        main([path, "--pre_model", str(tmp_path / "none")])
    with pytest.raises(UserError, match="至少是 1"):
        main([path, "--max_target_seq_len", "0"])

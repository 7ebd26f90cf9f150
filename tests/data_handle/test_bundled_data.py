"""The bundled data: what data/README.md promises of it, and the script that builds and checks it."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data import build_mixed, notation
from task.prompt import INSTRUCTION, build_prompt
from task.triplets import Triplet, format_target, is_triplet_target, parse_target

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = notation.read_schema(build_mixed.SOURCE / "schema.txt")
ALLOWED = {(name, subject, value) for (name, subject), value in SCHEMA.types.items()}
DIRECTOR = Triplet("导演", "人物", "影视作品", "张三", "长河")
SENTENCE = "《长河》由张三执导。"


def run(*arguments: str, project: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data.build_mixed", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120)


def line(target: str, sentence: str = SENTENCE, instruction: str = INSTRUCTION) -> build_mixed.Line:
    return {"context": build_prompt(sentence, instruction), "target": target}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the script needs, free to be spoilt."""
    for folder in ("data", "task", "utils"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_bundled_files_keep_their_promises():
    done = run("--check")
    assert done.returncode == 0, done.stderr
    assert "没有问题" in done.stderr


@pytest.mark.parametrize(
    ("split", "size", "empty", "labels"),
    [("train", (950, 1100), (60, 100), (100, 150)), ("dev", (110, 135), (8, 14), (12, 18))],
)
def test_sizes_and_shares(split, size, empty, labels):
    lines = build_mixed.read(split)
    answers = [parse_target(item["target"]) for item in lines if is_triplet_target(item["target"])]
    assert size[0] <= len(lines) <= size[1]
    assert empty[0] <= sum(not answer for answer in answers) <= empty[1]
    assert labels[0] <= len(lines) - len(answers) <= labels[1]
    assert sum(len(answer) > 3 for answer in answers) < 0.02 * len(lines)
    default = sum(build_mixed.instruction_of(item) == INSTRUCTION for item in lines)
    assert 0.3 * len(answers) < default < 0.6 * len(answers)


def test_dev_asks_for_many_predicates():
    answers = [parse_target(item["target"]) for item in build_mixed.read("dev") if "```" in item["target"]]
    assert len({triplet.predicate for answer in answers for triplet in answer}) >= 25


def test_build_writes_the_committed_files_again(project: Path):
    for path in build_mixed.FILES.values():
        (project / "data" / path.name).unlink()
    done = run(project=project)
    assert done.returncode == 0, done.stderr
    for path in build_mixed.FILES.values():
        assert (project / "data" / path.name).read_bytes() == path.read_bytes()


def test_stats_are_those_of_the_readme():
    stats = run("--stats").stdout
    assert stats.strip() in (ROOT / "data" / "README.md").read_text(encoding="utf-8")


def test_check_reports_an_edited_file(project: Path):
    path = project / "data" / "mixed_dev_dataset.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("裴一鸣", "王小二", 1), encoding="utf-8")
    done = run("--check", project=project)
    assert done.returncode == 1
    assert "mixed_dev_dataset.jsonl 与 data/source/ 生成的不一致" in done.stderr


def test_unknown_predicate_is_named_without_traceback(project: Path):
    path = project / "data" / "source" / "dev.txt"
    path.write_text(
        path.read_text(encoding="utf-8").replace("| 导演 裴一鸣", "| 导 裴一鸣"), encoding="utf-8"
    )
    done = run(project=project)
    assert done.returncode == 2
    assert "schema.txt 里没有谓语“导”" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (line(format_target([DIRECTOR, DIRECTOR])), "重复"),
        (line(format_target([DIRECTOR._replace(object="李四")])), "不在句子里"),
        (line(format_target([DIRECTOR._replace(object_type="Text")])), "类型"),
        (line(format_target([DIRECTOR._replace(subject="《长河》")])), "书名号"),
        (
            line(
                '```json\n[{"subject": "长河", "predicate": "导演"}]\n```'.replace(
                    "}", ', "object": "张三", "subject_type": "影视作品", "object_type": "人物"}'
                )
            ),
            "写法",
        ),
        (line(format_target([DIRECTOR]), sentence=SENTENCE + "《娘家的故事第二部》"), "演示句"),
        (line("这个答案实在是太长了一点"), "简短"),
        ({"context": "Input: 长河\nAnswer: ", "target": "[]"} | {"id": "1"}, "字段"),
    ],
)
def test_check_line_finds(bad, problem):
    assert any(problem in found for found in build_mixed.check_line(bad, ALLOWED))


def test_check_line_accepts_good_lines():
    assert build_mixed.check_line(line(format_target([DIRECTOR])), ALLOWED) == []
    assert build_mixed.check_line(line("正面"), ALLOWED) == []


def test_check_overlap_finds_sentence_phrasing_instruction_and_name():
    train = [line(format_target([DIRECTOR]), instruction="找出三元组：")]
    other = DIRECTOR._replace(subject="大江", object="李四")
    dev = [
        line(format_target([DIRECTOR]), instruction="找出三元组："),
        line(format_target([other]), sentence="《大江》由李四执导。"),
    ]
    problems = build_mixed.check_overlap({"train": train, "dev": dev})
    assert f"验证集的句子在训练集里也有：{SENTENCE}" in problems
    assert "验证集的句式在训练集里也有：《□》由□执导。" in problems
    assert "验证集的指令在训练集里也有：找出三元组：" in problems
    assert "验证集的名称在训练集里也有：长河" in problems
    assert not any("大江" in problem for problem in problems)


def test_check_coverage_counts_examples_in_train():
    dev = [line(format_target([DIRECTOR]))]
    assert build_mixed.check_coverage({"train": dev * 8, "dev": dev}) == []
    assert build_mixed.check_coverage({"train": dev * 7, "dev": dev}) == [
        "导演（影视作品）在训练集里只有 7 个三元组"
    ]


def entry(text: str, *annotations: str) -> list[tuple[str, str, str, str]]:
    parsed = notation.parse_block(notation.Block(text, list(annotations)), SCHEMA)
    return [(t.predicate, t.subject_type, t.subject, t.object) for t in parsed.triplets]


def test_triplets_come_in_order_of_mention():
    text = "李四、王五主演的《长河》改编自赵六的《老屋》。"
    assert entry(text, "= 老屋 | 作者 赵六", "= 长河 | 改编自 老屋 | 主演 王五/李四") == [
        ("主演", "影视作品", "长河", "李四"),
        ("主演", "影视作品", "长河", "王五"),
        ("改编自", "影视作品", "长河", "老屋"),
        ("作者", "图书作品", "老屋", "赵六"),
    ]


def test_a_marriage_is_stated_in_both_directions():
    assert entry("李四的妻子是王五。", "= 李四 | 妻子 王五") == [
        ("妻子", "人物", "李四", "王五"),
        ("丈夫", "人物", "王五", "李四"),
    ]


def test_subject_type_can_be_named():
    assert entry("一中成立于1950年。", "= 一中 | 成立日期:机构 1950年") == [
        ("成立日期", "机构", "一中", "1950年")
    ]
    assert entry("一厂成立于1950年。", "= 一厂 | 成立日期 1950年") == [("成立日期", "企业", "一厂", "1950年")]


def test_classification_and_missing_annotation():
    parsed = notation.parse_block(notation.Block("很好吃。", ["@ 情感 正面"]), SCHEMA)
    assert (parsed.task, parsed.answer, parsed.triplets) == ("情感", "正面", ())
    with pytest.raises(notation.SourceError, match="没有标注：很好吃"):
        notation.parse_block(notation.Block("很好吃。"), SCHEMA)


def test_tables_fill_patterns(tmp_path: Path):
    path = tmp_path / "entities.txt"
    path.write_text(
        "[人]\n{姓}一 {姓}二\n[姓]\n王 李\n[鸟:名,目]\n家燕|雀形目\n[数]\n{3-3}米\n", encoding="utf-8"
    )
    tables = notation.Tables(path, random.Random(0))
    block = tables.fill(notation.Block("{人1}看{人2}，{人1}看{鸟.名}，{数}", ["= {鸟.名} | 目 {鸟.目}"]))
    first, second = block.text.split("，")[0].split("看")
    assert first != second
    assert {first, second} <= {"王一", "王二", "李一", "李二"}
    assert block.text == f"{first}看{second}，{first}看家燕，3米"
    assert block.annotations == ["= 家燕 | 目 雀形目"]
    with pytest.raises(notation.SourceError, match="没有表“鱼”"):
        tables.fill(notation.Block("{鱼}"))


def test_patterns_avoid_forbidden_names_and_say_when_tables_are_too_small(tmp_path: Path):
    path = tmp_path / "entities.txt"
    path.write_text("[人]\n王一 李二 赵三\n", encoding="utf-8")
    tables = notation.Tables(path, random.Random(0))
    pattern = notation.Block("《长河》由{人}执导。", ["= 长河 | 导演 {人}"], repeat=2)
    filled = build_mixed.fill_patterns([pattern], tables, SCHEMA, forbidden={"李二"}, seen=set())
    assert {item.triplets[0].object for item in filled} == {"王一", "赵三"}
    with pytest.raises(notation.SourceError, match="表太小"):
        build_mixed.fill_patterns([pattern], tables, SCHEMA, forbidden={"李二", "赵三"}, seen=set())

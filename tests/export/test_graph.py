"""The command `python -m export.graph`: what it reads, reports, refuses, and leaves behind."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export import formats, graph, query
from export.aliases import Aliases
from export.near_names import suggest
from task.prompt import build_prompt
from task.triplets import Triplet, format_target
from tests.helpers.graph_samples import facts_of, item, open_store, sample_lines, write_lines
from utils.common_utils import UserError

ROOT = Path(__file__).resolve().parents[2]
BORN = item("余华", "出生地", "海盐", score=0.4)
UNTYPED = {"predicate": "书名", "subject": "余华", "object": "活着", "score": 0.8}
LINES = [
    {
        "text": "余华生于海盐。",
        "triplets": [BORN | {"score": 0.9, "subject_span": [0, 2], "object_span": [4, 6]}],
    },
    {"text": "余华，海盐人。", "triplets": [BORN, BORN]},
    {"text": "没有", "triplets": []},
    {"text": "", "triplets": [], "error": "缺少字段 content"},
    "{坏",
    {"text": "余华", "triplets": [UNTYPED, {"subject": "余华"}, 3]},
]


def run(*arguments: Any) -> None:
    assert graph.main([str(argument) for argument in arguments]) == 0


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8-sig").splitlines()))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "results.jsonl", *LINES)


def test_counts_duplicates_and_what_cannot_be_used_are_told(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(results, "--format", "csv", "-o", tmp_path / "out.csv")
    printed = capsys.readouterr()
    assert printed.out == ""
    for line in (
        "读入 6 行：3 句有三元组可写，1 句没有三元组，1 行没有抽取结果（error），1 行不能用。",
        "三元组 6 个：实体 4 个，事实 2 条，提及 3 处",
        "（其中 1 处是已有的事实再次出现），完全相同的重复 1 处。",
        f"{results}:5: ",
        "results.jsonl:6 的第 2 个三元组：字段 predicate 缺失",
        "results.jsonl:6 的第 3 个三元组：不是 JSON 对象",
        "余华（人物、实体）",
    ):
        assert line in printed.err
    assert [(row["句子编号"], row["主语类型"], row["得分"]) for row in rows_of(tmp_path / "out.csv")] == [
        ("results.jsonl:1", "人物", "0.9"),
        ("results.jsonl:2", "人物", "0.4"),
        ("results.jsonl:6", "实体", "0.8"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "results.jsonl"]


def test_min_score_leaves_out_and_counts(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(results, "--format", "csv", "-o", tmp_path / "out.csv", "--min-score", "0.5")
    assert "得分低于 0.5 而未写的 2 个" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "out.csv")) == 2
    unscored = write_lines(tmp_path / "unscored.jsonl", {"text": "句", "triplets": [item("a", "b", "c")]})
    with pytest.raises(UserError, match=r"unscored\.jsonl:1 的三元组没有 score"):
        run(unscored, "--format", "csv", "-o", tmp_path / "other.csv", "--min_score", "0.5")
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "other.csv").exists()


def test_training_lines_make_a_graph_too(tmp_path: Path) -> None:
    target = format_target([Triplet("作者", "人物", "图书作品", "余华", "活着")])
    lines = [
        {"context": build_prompt("《活着》是余华写的。"), "target": target},
        {"context": build_prompt("他笑了。"), "target": format_target([])},
        {"context": "情感分类", "target": "正面"},
    ]
    train = write_lines(tmp_path / "train.jsonl", *lines)
    run(train, "--format", "csv", "-o", tmp_path / "out.csv")
    (row,) = rows_of(tmp_path / "out.csv")
    assert (row["句子"], row["主语"], row["关系"], row["宾语"]) == (
        "《活着》是余华写的。",
        "活着",
        "作者",
        "余华",
    )


@pytest.mark.parametrize("name", list(graph.FORMATS))
@pytest.mark.parametrize("option", ["--typed", "--each_mention"])
def test_a_second_run_writes_the_same_and_nothing_is_overwritten_unasked(
    name: str, option: str, tmp_path: Path
) -> None:
    if library := graph.FORMATS[name].library:
        pytest.importorskip(library, reason="requirements-graph.txt is not installed")
    lines = LINES if name == "ladybug" else sample_lines()  # each of its tables takes a while
    source = write_lines(tmp_path / "results.jsonl", *lines)
    output = tmp_path / ("out.ttl" if name == "rdf" else "out")

    def content() -> dict[str, bytes]:
        files = [path for path in (output, *output.rglob("*")) if path.is_file()]
        return {path.name: path.read_bytes() for path in files}

    arguments = [source, "--format", name, "--output", output, option, "--with_text"]
    run(*arguments)
    first = content()
    with pytest.raises(UserError, match="已经存在，要覆盖请加 --force"):
        run(*arguments)
    run(*arguments, "--force")
    if name not in ("xlsx", "ladybug"):  # which hold the time of writing
        assert content() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, "results.jsonl"])


def test_force_deletes_no_directory_of_others(results: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("x")
    with pytest.raises(UserError, match="不是本命令写的东西"):
        run(results, "--format", "neo4j-csv", "-o", tmp_path / "mine", "--force")
    (tmp_path / "mine" / "import.sh").write_text("of another program")
    with pytest.raises(UserError, match="不是本命令写的东西"):
        run(results, "--format", "neo4j-csv", "-o", tmp_path / "mine", "--force")
    with pytest.raises(UserError, match="是目录，请给出文件名"):
        run(results, "--format", "csv", "-o", tmp_path / "mine", "--force")
    with pytest.raises(UserError, match="同时是输入"):
        run(results, "--format", "csv", "-o", results, "--force")
    assert (tmp_path / "mine" / "thesis.doc").exists() and len(results.read_text("utf-8").splitlines()) == 6


def test_all_mistakes_of_a_command_line_are_told_at_once(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(
            results,
            "--format",
            "rdf",
            "-o",
            tmp_path / "no" / "a.xml",
            "--base_iri",
            "x",
            "--bolt",
            "http://x",
        )
    for part in ("3 处错误", "--base_iri 应当是", "--bolt 的地址", "不存在"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="请用 --format 说明"):
        run(results)
    with pytest.raises(UserError, match="--format csv 需要 --output"):
        run(results, "--format", "csv")
    with pytest.raises(UserError, match="是同一个文件"):
        run(results, "--format", "csv", "-o", tmp_path / "a", "--suggest_aliases", tmp_path / "a")
    with pytest.raises(UserError, match="还要用 --format"):
        run(results, "-o", tmp_path / "a", "--suggest_aliases", tmp_path / "b")
    with pytest.raises(UserError, match="--format 应为 csv"):
        run(results, "--format", "gexf", "-o", tmp_path / "a")


@pytest.mark.parametrize("name", ["xlsx", "ladybug"])
def test_a_missing_library_is_one_line_before_any_work(
    name: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(library: str) -> Any:
        raise ImportError(library)

    monkeypatch.setattr(formats.importlib, "import_module", missing)
    with pytest.raises(
        UserError, match=r"需要软件包 \w+，现在没有装：请运行 pip install -r requirements-graph.txt"
    ):
        run(results, "--format", name, "-o", tmp_path / "out")
    with pytest.raises(UserError, match="--bolt 需要软件包 neo4j"):
        run(results, "--bolt", "bolt://127.0.0.1:1")
    importlib.invalidate_caches()


def test_sentences_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"triplets": [item("a", "p", "b")]}
    lines = [
        {"id": 7, "text": "甲", **one},
        {"id": 7, "text": "甲", **one},
        {"id": 7, "text": "乙", **one},
        {"id": "", "text": "丙", **one},
    ]
    first = write_lines(tmp_path / "a.jsonl", *lines)
    second = write_lines(tmp_path / "b.jsonl", {"text": "丁", **one})
    run(first, second, "--format", "csv", "-o", tmp_path / "out.csv")
    ids = [row["句子编号"] for row in rows_of(tmp_path / "out.csv")]
    assert ids == ["7", "7@a.jsonl:3", "a.jsonl:4", "b.jsonl:1"]
    printed = capsys.readouterr().err
    assert "编号相同（编号后面加上了位置） 1 处" in printed and "完全相同的重复 1 处" in printed
    (tmp_path / "other").mkdir()
    same = write_lines(tmp_path / "other" / "a.jsonl", *lines)
    with pytest.raises(UserError, match=r"都叫 a\.jsonl"):
        run(first, same, "--format", "csv", "-o", tmp_path / "c.csv")


def test_an_empty_or_foreign_file_is_refused(tmp_path: Path) -> None:
    for lines, words in (((), "是空的"), (({"text": "句"}, "{"), "没有一行可用")):
        source = write_lines(tmp_path / "in.jsonl", *lines)
        with pytest.raises(UserError, match=words):
            run(source, "--format", "csv", "-o", tmp_path / "out.csv")
    lone = {
        "text": "\ud800",
        "triplets": [item("a\udfff", "p", "b"), item("a", "p", "b") | {"object_span": [3, 1]}],
    }
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(lone) + "\n", encoding="utf-8")
    run(source, "--format", "csv", "-o", tmp_path / "out.csv")
    assert rows_of(tmp_path / "out.csv") == []


def test_what_two_runs_found_counts_once_with_the_better_score(tmp_path: Path) -> None:
    spans = ([0, 2], [4, 6])
    files = [
        write_lines(
            tmp_path / f"{number}.jsonl",
            {
                "id": "a",
                "text": "余华生于海盐。",
                "triplets": [item("余华", "出生地", "海盐", score=score, spans=spans)],
            },
        )
        for number, score in enumerate((0.3, 0.9, 0.6, None))
    ]
    for order in (files, files[::-1]):
        run(*order, "--format", "csv", "-o", tmp_path / "out.csv", "--force")
        assert [row["得分"] for row in rows_of(tmp_path / "out.csv")] == ["0.9"]


# --- names


def test_aliases_give_the_proper_name_and_are_counted(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "names.csv"
    rows = "别名,正名,类型\r\n海盐,海盐县,地点\r\n海盐县,嘉兴海盐,\r\n活着,《活着》,图书\r\n"
    table.write_bytes(rows.encode("gb18030"))
    run(results, "--format", "csv", "-o", tmp_path / "out.csv", "--aliases", table)
    assert [row["宾语"] for row in rows_of(tmp_path / "out.csv")] == ["嘉兴海盐", "嘉兴海盐", "活着"]
    assert "按别名表换成正名 3 处" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("名,号\n", "第一行应当有“别名”和“正名”"),
        ("别名,正名\na,b\nb,a\n", "绕成了圈：(a → b → a|b → a → b)"),
        ("别名,正名\na,b\na,c\n", "第 3 行给“a”另一个正名“c”"),
        ("别名,正名\na,\n", "第 2 行缺少"),
        ("别名,正名\n" + "".join(f"n{n},n{n + 1}\n" for n in range(60_000)), "从“n0”起，.*超过了 50 层"),
    ],
)
def test_a_wrong_alias_table_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        Aliases.load(tmp_path / "names.csv")
    with pytest.raises(UserError, match="读不了别名表"):
        Aliases.load(tmp_path / "none.csv")


def test_a_cell_that_csv_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("别名,正名\n" + "x" * 140_000 + ",b\n", encoding="utf-8")
    limit = csv.field_size_limit(131_072)
    try:
        with pytest.raises(UserError, match="第 2 行读不懂"):
            Aliases.load(tmp_path / "names.csv")
    finally:
        csv.field_size_limit(limit)


def test_names_that_are_none_are_not_compared(tmp_path: Path) -> None:
    facts = [
        {"subject": f"{'（' * 200_000}{number}", "predicate": "同", "object": "甲"} for number in range(2)
    ]
    source = tmp_path / "r.jsonl"
    source.write_text(json.dumps({"text": "a", "triplets": facts}) + "\n", encoding="utf-8")
    run(source, "--suggest_aliases", tmp_path / "near.csv")  # each bracket was sought through all the others
    assert len(rows_of(tmp_path / "near.csv")) == 0


def test_near_names_are_listed_for_review_and_read_back(tmp_path: Path) -> None:
    pairs = [
        ("星海科技有限公司", "机构", 1), ("星海科技", "机构", 3), ("星海 科技", "机构", 1),
        ("星海科技", "人物", 1), ("余华", "人物", 2), ("余华（作家）", "人物", 1), ("余花", "人物", 1),
        ("滨江第一中学", "机构", 1), ("滨江第二中学", "机构", 1),
        ("ChatGLM", "模型", 2), ("ＣｈａｔＧＬＭ", "模型", 1),
        ("哈尔滨工业大学", "机构", 2), ("哈尔滨工业大", "机构", 1),
        ("内蒙古自冶区", "地点", 1), ("内蒙古自治区", "地点", 2),
        ("=1+1=2呀", "书", 2), ("=1+1=2，呀", "书", 1),
    ]  # fmt: skip
    lines = [
        {"text": f"{number}{name}", "triplets": [item(name, "提到", "某物", kind, "物")]}
        for name, kind, times in pairs
        for number in range(times)
    ]
    with open_store(tmp_path, lines) as store:
        found = {(pair.alias, pair.name, pair.reason) for pair in suggest(store, tmp_path / "keys")}
    writing = "标点、空白、全半角或大小写不同"
    assert found == {
        ("星海 科技", "星海科技", writing),
        ("ＣｈａｔＧＬＭ", "ChatGLM", writing),
        ("=1+1=2，呀", "=1+1=2呀", writing),
        ("余华（作家）", "余华", "只差括号里的说明"),
        ("星海科技有限公司", "星海科技", "只差常见的后缀"),
        ("哈尔滨工业大", "哈尔滨工业大学", "只差一个字"),
        ("内蒙古自冶区", "内蒙古自治区", "只差一个字"),
    }
    source = tmp_path / "results.jsonl"
    run(source, "--suggest_aliases", tmp_path / "near.csv")
    before = facts_of(lines)
    run(source, "--format", "csv", "-o", tmp_path / "out.csv", "--aliases", tmp_path / "near.csv")
    names = {row["主语"] for row in rows_of(tmp_path / "out.csv")}
    assert len(before) == 17 and len(names) == 9 and "'=1+1=2呀" in names


# --- as a process


def test_memory_does_not_grow_with_the_lines(tmp_path: Path) -> None:
    """Twenty times the lines, nearly all of them new entities, and no more memory (SQLite's cache aside)."""
    peaks = []
    for lines in (400, 8_000):
        source = tmp_path / f"{lines}.jsonl"
        with source.open("w", encoding="utf-8") as file:
            for number in range(lines):
                line = {
                    "text": f"第{number}句" * 10,
                    "triplets": [item(f"人{number}", "p", f"地{number}") for _ in range(2)],
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        code = (
            "import resource, sys; from export import graph, graph_store; graph_store.CACHE_KIB = 1024;"
            "graph.main(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [
            sys.executable,
            "-c",
            code,
            source,
            "--format",
            "cypher",
            "-o",
            tmp_path / f"{lines}.cypher",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * (1 if sys.platform == "darwin" else 1024))
    assert peaks[1] - peaks[0] < 16 << 20, peaks


def test_a_graph_answers_a_query_three_commands_later(tmp_path: Path) -> None:
    pytest.importorskip("ladybug", reason="requirements-graph.txt is not installed")
    source = write_lines(tmp_path / "results.jsonl", *LINES)

    def command(module: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")

    made = command("export.graph", source, "--format", "ladybug", "--output", tmp_path / "graph.lbug")
    assert made.returncode == 0 and made.stdout == "", made.stderr
    asked = (
        "MATCH (a:`实体` {name: '余华'})-[r:`关系`]->(b) "
        "RETURN r.predicate AS 关系, b.name AS 名, r.count AS n ORDER BY n"
    )
    answer = command("export.query", tmp_path / "graph.lbug", asked)
    assert [json.loads(line) for line in answer.stdout.splitlines()] == [
        {"关系": "书名", "名": "活着", "n": 1},
        {"关系": "出生地", "名": "海盐", "n": 2},
    ]
    wrong = command("export.graph", source, "--format", "ladybug", "--output", tmp_path / "graph.lbug")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr


def test_a_name_that_the_library_cannot_take(results: Path, tmp_path: Path) -> None:
    graph_file = tmp_path / os.fsdecode(b"\xff.lbug")
    with pytest.raises(UserError, match="文件名不是 UTF-8"):
        run(results, "--format", "ladybug", "-o", graph_file)
    graph_file.write_bytes(b"x")
    with pytest.raises(UserError, match="文件名不是 UTF-8"):
        list(query.query(graph_file, "MATCH (a) RETURN a"))


def test_a_query_that_cannot_be_answered_is_told(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("ladybug", reason="requirements-graph.txt is not installed")
    with pytest.raises(UserError, match="没有图文件"):
        query.main([str(tmp_path / "none"), "RETURN 1"])
    with pytest.raises(UserError, match="不是 ladybug 的图文件"):
        query.main([str(results), "RETURN 1"])
    run(results, "--format", "ladybug", "-o", tmp_path / "g.lbug")
    for statement in ("MATCH (a", "MATCH (a) DELETE a"):
        with pytest.raises(UserError, match="查询没有成功"):
            query.main([str(tmp_path / "g.lbug"), statement])


def test_names_of_files_may_hold_any_sign_and_leave_nothing_behind(results: Path, tmp_path: Path) -> None:
    output = tmp_path / "图[1] *?'.csv"
    run(results, "--format", "csv", "-o", output)
    run(results, "--format", "csv", "-o", output, "--force")
    if importlib.util.find_spec("ladybug"):
        database = tmp_path / "图[1] *?'.lbug"
        run(results, "--format", "ladybug", "-o", database)
        assert list(query.query(database, "MATCH ()-[r]->() RETURN count(r) AS n")) == [{"n": 2}]
        database.unlink()
    (tmp_path / "names.csv").write_text("别名,正名\na,b\nb,a\n", encoding="utf-8")
    with pytest.raises(UserError, match="绕成了圈"):
        run(results, "--format", "csv", "-o", output, "--force", "--aliases", tmp_path / "names.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["names.csv", "results.jsonl", output.name]


def test_what_a_killed_export_left_is_cleared_away(results: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = {f".out.csv.{os.getppid()}.work", ".out.csv.bak"}
    for name in (f".out.csv.{dead.pid}.work", f".out.csv.{dead.pid}.new.wal", *kept):
        (tmp_path / name).write_text("x")
    run(results, "--format", "csv", "-o", tmp_path / "out.csv")
    assert {path.name for path in tmp_path.glob(".*")} == kept


def test_a_full_disk_ends_with_one_line_and_keeps_the_old_output(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    output.write_text("old")

    def full(*_: Any) -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(graph.FORMATS, "csv", graph.FORMATS["csv"]._replace(write=full))
    with pytest.raises(UserError, match=r"写 .*out\.csv 时出错（No space left on device）"):
        run(results, "--format", "csv", "-o", output, "--force")
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "results.jsonl"]


def test_a_disk_that_is_full_before_the_first_row(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(graph, "GraphStore", full)
    with pytest.raises(UserError, match=r"写工作文件 .*database or disk is full"):
        run(results, "--format", "csv", "-o", tmp_path / "out.csv")


@pytest.mark.parametrize("score", [10**400, float("nan"), float("inf"), True, "1"])
def test_scores_that_are_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str], score: Any) -> None:
    file = write_lines(
        tmp_path / "r.jsonl", {"text": "句", "triplets": [item("a", "b", "c", score=score), BORN]}
    )
    run(file, "--format", "csv", "-o", tmp_path / "out.csv")
    assert "字段 score 不是数" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "out.csv")) == 1

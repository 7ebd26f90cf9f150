"""The report: what it reads, its figures, and that nothing in a text can break out of its page."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from export import report
from export.report_data import Lines, find_confusions, lines_of, pack, read_lines, score
from extraction.evaluation.metrics import Report
from task.prompt import build_prompt
from task.triplets import Triplet, format_target
from utils.common_utils import UserError


def triplet(predicate: str, object_: str = "余华", **more: Any) -> dict[str, Any]:
    types = {"object_type": "人物", "subject_type": "图书作品"}
    return {"predicate": predicate, **types, "object": object_, "subject": "活着", **more}


def write_lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")
    return path


def data_of(page: Path) -> dict[str, Any]:
    (found,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8")
    )
    data: dict[str, Any] = json.loads(found)
    return data


def test_results_become_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spans = {"score": 0.94141, "object_span": [5, 7], "subject_span": [1, 3]}
    source = write_lines(
        tmp_path / "results.jsonl",
        {"text": "《活着》是余华的小说。", "triplets": [triplet("作者", **spans), {"predicate": "x"}]},
        {"text": "今天下雨。", "triplets": []},
        {"text": "坏", "triplets": [], "error": "生成失败：内存不足", "raw": "\ud800[", "truncated": True},
        {"other": 1},
    )
    page = tmp_path / "report.html"
    assert report.main([str(source), "-o", str(page)]) == 0
    data = data_of(page)
    assert data["source"] == "results.jsonl" and data["scores"] is None
    assert data["names"] == ["作者", "图书作品", "人物"]
    assert data["sentences"] == [
        ["《活着》是余华的小说。", [[0, 1, 2, "活着", "余华", 0.9414, [1, 3], [5, 7]]]],
        ["今天下雨。", []],
        ["坏", [], None, {"truncated": True, "error": "生成失败：内存不足", "raw": "?["}],
    ]
    said = capsys.readouterr()
    assert said.out == ""
    assert "不能用的行 1 处：\n  results.jsonl:4: 既没有 triplets" in said.err
    assert "results.jsonl:1 的第 2 个三元组：字段 object_type" not in said.err  # a missing type has a name
    assert "results.jsonl:1 的第 2 个三元组：字段 object 缺失" in said.err
    assert f"报告：{page}（3 句，0.1 MB）" in said.err

    assert report.main([str(source), "-o", str(page)]) == 0  # an earlier report may be replaced
    page.write_text("<html>mine</html>", "utf-8")
    with pytest.raises(UserError, match="已经存在"):
        report.main([str(source), "-o", str(page)])


def test_gold_comes_from_its_field_or_from_the_line_that_was_extracted() -> None:
    expected = [Triplet("作者", "人物", "图书作品", "余华", "活着")]
    training = {"context": build_prompt("《活着》是余华的小说。"), "target": format_target(expected)}
    text = {"text": "《活着》是余华的小说。"}
    lines = lines_of(
        [
            {**text, "triplets": [triplet("作者"), triplet("导演")], "gold": [triplet("作者")] * 2},
            {**text, "triplets": [], **training},
            {**text, "triplets": [], "gold": []},
            training,
            {**text, "triplets": []},
        ]
    )
    assert [line.gold for line in lines.lines] == [expected, expected, [], None, None]
    packed = pack(lines.lines)["sentences"]
    assert [fact[-1] for fact in packed[0][1]] == [0, "余华"]  # the first is the first expected one
    figures = score(lines.lines)
    assert figures is not None
    assert figures["triplets"]["sentences"] == 3
    assert figures["triplets"]["strict"]["correct"] == 1 and figures["triplets"]["strict"]["expected"] == 2


def test_figures_are_those_of_the_evaluation() -> None:
    lines = lines_of(
        [
            {"text": "活着余华", "triplets": [triplet("作者", score=0.85)], "gold": [triplet("作者")]},
            {"text": "活着余华", "triplets": [triplet("导演", score=0.15)], "gold": [triplet("作者")]},
        ]
    )
    figures = score(lines.lines)
    assert figures is not None
    assert figures["triplets"]["strict"]["f1"] == 0.5 and figures["triplets"]["exact_match"] == 0.5
    assert figures["reliability"]["expected_calibration_error"] == pytest.approx(0.15)
    assert score(lines_of([{"text": "a", "triplets": []}]).lines) is None


def test_confusions() -> None:
    def judged(found: list[dict[str, Any]], gold: list[dict[str, Any]]) -> Lines:
        return lines_of([{"text": "活着余华莫言", "triplets": found, "gold": gold}])

    lines = judged(
        [triplet("导演"), triplet("编剧"), triplet("作者", "莫言"), triplet("国籍")],
        [triplet("作者"), triplet("编剧"), triplet("出版社"), triplet("国籍") | {"object_type": "国家"}],
    ).lines
    counts = Report()
    counts.add(lines[0].text, [each.triplet for each in lines[0].found], lines[0].gold or [], None)  # type: ignore[arg-type]
    found = find_confusions(lines, counts)
    names = found["predicates"]
    pairs = {(names[expected], names[predicted]): count for expected, predicted, count in found["pairs"]}
    assert pairs == {("作者", "导演"): 1, ("出版社", "国籍"): 1}
    missed = dict(zip(names, found["missed"], strict=True))
    invented = dict(zip(names, found["invented"], strict=True))
    assert missed["国籍"] == 1 and missed["作者"] == 0
    assert invented["作者"] == 1


def test_no_text_breaks_out_of_the_page(tmp_path: Path) -> None:
    text = "</script><script>alert(1)</script><!-- <script> \u2028 & {data}"
    source = write_lines(tmp_path / "r.jsonl", {"text": text, "triplets": [], "error": "</SCRIPT >"})
    page = tmp_path / "r.html"
    report.main([str(source), "-o", str(page)])
    assert data_of(page)["sentences"] == [[text, [], None, {"error": "</SCRIPT >"}]]
    content = page.read_text("utf-8")
    assert content.count("<script") == 2 and content.count("</script>") == 2 and "<!--" not in content
    assert len(re.findall(r"sha256-[A-Za-z0-9+/]{43}=", content)) == 2


def test_ten_thousand_sentences_stay_under_twenty_megabytes(tmp_path: Path) -> None:
    facts = [triplet("作者", object_span=[5, 7], subject_span=[1, 3], score=0.9414)] * 3
    line = {"text": "《活着》是余华的小说，" * 10, "triplets": facts, "gold": facts}
    page = report.make_page({"scores": None, **pack(lines_of([line] * 10_000).lines)})
    assert len(page.encode()) < 10 * 2**20


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("r.pdf", "用 .html 结尾"), ("none/r.html", "目录 .*none 不存在"), ("r.jsonl", "同时是输入")],
)
def test_where_a_report_can_not_be(tmp_path: Path, name: str, complaint: str) -> None:
    source = write_lines(tmp_path / "r.jsonl", {"text": "a", "triplets": []})
    with pytest.raises(UserError, match=complaint):
        report.main([str(source), "-o", str(tmp_path / name)])


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="没有可用的行"):
        report.main([str(write_lines(tmp_path / "r.jsonl", {"a": 1})), "-o", str(tmp_path / "r.html")])
    assert read_lines([tmp_path / "r.jsonl"]).bad_lines.count == 1


def test_fields_as_deep_as_json_may_be(tmp_path: Path) -> None:
    source = tmp_path / "r.jsonl"
    lines = [{"text": "a", "triplets": []}]
    source.write_text("\n".join(json.dumps(line) for line in lines) + "\n", "utf-8")
    with source.open("a", encoding="utf-8") as file:
        for depth in range(900, 1000, 2):
            deep = "[" * depth + "]" * depth
            file.write(f'{{"text": "b", "triplets": [], "id": {deep}, "raw": {deep}, "gold": {deep}}}\n')
    report.main([str(source), "-o", str(tmp_path / "r.html")])
    assert data_of(tmp_path / "r.html")["sentences"][0][0] == "a"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "r.jsonl", {"text": "a", "triplets": []})
    os.mkfifo(tmp_path / "r.html")
    with pytest.raises(UserError, match="是设备或管道"):
        report.main([str(source), "-o", str(tmp_path / "r.html")])

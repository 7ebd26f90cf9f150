"""Results as they are printed: for programs and for people, with marks for what is rather wrong."""

from __future__ import annotations

import io
import json

import pytest

from extraction.display import Display, print_json
from extraction.parsing import AnswerStatus
from extraction.result import Extraction
from task.triplets import Triplet

NOVEL = Triplet("作者", "人物", "图书作品", "余华", "活着")
NONSENSE = Triplet("面积", "Number", "地点", "hello world", "Titanic")
BOTH = Extraction([NOVEL, NONSENSE], "…", AnswerStatus.OK, scores=[0.94, 0.07])
Capture = pytest.CaptureFixture[str]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(way: str, extraction: Extraction, **options: object) -> str:
    out = io.StringIO()
    assert Display(out, way, **options).show("一句。", extraction)
    return out.getvalue()


def test_lines(capsys: Capture) -> None:
    assert shown("line", BOTH) == "活着 —作者→ 余华  0.94\nTitanic —面积→ hello world  0.07\n"
    assert capsys.readouterr().err == ""
    assert shown("line", BOTH, doubt_below=0.5).splitlines()[1] == "Titanic —面积→ hello world  0.07  存疑"
    assert capsys.readouterr().err == (
        "标“存疑”的置信度低于 0.5，验证集上这样的三元组多半是错的；--min_score 0.5 可以略去它们。\n"
    )
    free = Extraction([NOVEL], "…", AnswerStatus.OK)  # without scores there is nothing to doubt
    assert shown("line", free, doubt_below=0.5) == "活着 —作者→ 余华\n"


def test_the_mark_is_explained_once(capsys: Capture) -> None:
    display = Display(io.StringIO(), "line", doubt_below=0.5)
    display.show("甲。", BOTH)
    display.show("乙。", BOTH)
    assert capsys.readouterr().err.count("存疑") == 1


def test_table() -> None:
    assert shown("table", BOTH, doubt_below=0.5).splitlines() == [
        "主语     主语类型  关系  宾语         宾语类型  置信度",
        "活着     图书作品  作者  余华         人物        0.94",
        "Titanic  地点      面积  hello world  Number      0.07  存疑",
    ]


@pytest.mark.parametrize("way", ["line", "table"])
def test_nothing_found(way: str, capsys: Capture) -> None:
    assert shown(way, Extraction([], "[]", AnswerStatus.OK)) == ""
    assert capsys.readouterr().err == "（没有三元组）\n"


def test_json(capsys: Capture) -> None:
    assert shown("json", BOTH) == json.dumps(BOTH.to_list(), ensure_ascii=False, indent=2) + "\n"
    cut = Extraction([NOVEL], "…", AnswerStatus.REPAIRED, truncated=True)
    assert json.loads(shown("jsonl", cut)) == {
        "text": "一句。",
        "triplets": [NOVEL._asdict()],
        "repaired": True,
        "truncated": True,
    }
    capsys.readouterr()
    items = json.loads(shown("json", BOTH, with_scores=True, doubt_below=0.5))
    assert [item["score"] for item in items] == [0.94, 0.07]
    assert capsys.readouterr().err == (
        "存疑：Titanic —面积→ hello world  0.07。置信度低于 0.5，验证集上这样的三元组多半是错的；"
        "--min_score 0.5 可以略去它们。\n"
    )


@pytest.mark.parametrize("way", ["json", "jsonl", "line", "table"])
def test_no_result(way: str, capsys: Capture) -> None:
    out = io.StringIO()
    assert not Display(out, way).show("一句。", Extraction(raw="没有。"))
    assert out.getvalue() == ""
    assert "没有结果：模型的回答不是可用的三元组 JSON。模型的回答：'没有。'" in capsys.readouterr().err


HOSTILE = "\x9b31m\u202e甲\x1b[2J\u2066"


@pytest.mark.parametrize("way", ["json", "jsonl", "line", "table"])
def test_nothing_acts_on_a_terminal(way: str, capsys: Capture) -> None:
    hostile = Triplet(HOSTILE, "人物", "图书作品", HOSTILE, HOSTILE)
    screen = Screen()
    Display(screen, way, doubt_below=0.5, with_scores=True).show(
        HOSTILE, Extraction([hostile], "…", AnswerStatus.OK, scores=[0.1])
    )
    printed = screen.getvalue() + capsys.readouterr().err
    assert not set(printed) & set("\x9b\x1b\u202e\u2066")
    if way == "json":
        (item,) = json.loads(screen.getvalue())
        assert item["object"] == HOSTILE


def test_what_is_piped_stays_as_it_is() -> None:
    out = io.StringIO()
    print_json(json.dumps(HOSTILE, ensure_ascii=False), out)
    assert "\x9b" in out.getvalue() and "\u202e" in out.getvalue()


def test_a_long_sentence_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    display = Display(io.StringIO(), "json")
    for second in range(25):
        clock[0] = float(second)
        display.tell_pieces(second, 100)
    assert capsys.readouterr().err.splitlines() == ["长句分段抽取 10/100 …", "长句分段抽取 20/100 …"]

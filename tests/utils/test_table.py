"""Tables: columns on a terminal, and nothing in them that acts on it."""

from __future__ import annotations

import pytest

from utils.common_utils import log, visible
from utils.table import display_width, format_table, pad, shorten


def test_widths_and_padding() -> None:
    assert display_width("模型 a（1）") == 2 + 2 + 1 + 1 + 2 + 1 + 2
    assert display_width("e\u0301") == 1
    assert pad("模型", 6) == "模型  "
    assert pad("12", 4, right=True) == "  12"


def test_shortening_counts_columns() -> None:
    assert shorten("模型很大", 8) == "模型很大"
    assert shorten("模型很大", 7) == "模型很…"
    assert shorten("模型很大", 6) == "模型…"
    assert shorten("abc", 0) == ""


def test_words_stand_at_the_left_and_numbers_at_the_right() -> None:
    assert format_table(["关系", "次数"], [["导演", 7], ["所属专辑", 1234]]).splitlines() == [
        "关系      次数",
        "导演         7",
        "所属专辑  1234",
    ]
    assert format_table(["文件", "字段", "数"], [["a", "target", 7]], left=2).splitlines() == [
        "文件  字段    数",
        "a     target   7",
    ]
    assert format_table(["关系", "类型"], [["导演", "人"]], left=2) == "关系  类型\n导演  人"


def test_cells_and_messages_show_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    cell = "a\x1b[31m\n\x9b\u202eb\u2066"
    assert format_table(["x"], [[cell]]).splitlines()[1] == r"a\x1b[31m\n\x9b\u202eb\u2066"
    log("一\n二\t\x07\r\u200f")
    assert capsys.readouterr().err == "一\n二\t\\x07\\r\\u200f\n"
    assert visible("《活着》 café 🎬") == "《活着》 café 🎬"

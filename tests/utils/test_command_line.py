"""The parser of every command: one voice, both spellings, all mistakes at once."""

from __future__ import annotations

import argparse

import pytest

from utils import __version__
from utils.command_line import ChineseArgumentParser, positive_int, probability
from utils.common_utils import UserError


def make_parser() -> ChineseArgumentParser:
    parser = ChineseArgumentParser(prog="command")
    parser.add_argument("files", nargs="*", metavar="文件")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--flag", action="store_true", help="开关")
    group.add_argument("--name", help="名字")
    parser.add_argument("--count", type=positive_int, help="数量")
    parser.add_argument("--min-score", type=probability, help="分数")
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument("--way", choices=("new", "old"))
    parser.add_argument("--share", type=float)
    parser.add_argument("--hidden", help=argparse.SUPPRESS)
    return parser


def complaint(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        make_parser().parse_args(argv)
    return str(caught.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nope"], "认不出命令行参数 --nope，--help 列出全部参数。"),
        (["--cuont", "1"], "认不出命令行参数 --cuont，是不是想写 --count？"),
        (["--min_scor=1"], "认不出命令行参数 --min_scor=1，是不是想写 --min_score？"),
        (["--hiden", "1"], "认不出命令行参数 --hiden，--help 列出全部参数。"),
        (["-x"], "认不出命令行参数 -x，--help 列出全部参数。"),
        (["--name"], "命令行参数 --name 后面缺少取值。"),
        (["--name", "--count", "1"], "命令行参数 --name 后面缺少取值。"),
        (["--steps"], "命令行参数 --steps 后面缺少取值。"),
        (["--flag=1"], "命令行参数 --flag 不带取值，却写了 '1'。"),
        (["--flag", "--name", "x"], "命令行参数 --name 不能与 --flag 同时使用。"),
        (["--count", "many"], "命令行参数 --count 应为正整数，现在是 'many'。"),
        (["--count", "0"], "命令行参数 --count 应为正整数，现在是 '0'。"),
        (["--count", "-1"], "命令行参数 --count 应为正整数，现在是 '-1'。"),
        (["--min_score", "2"], "命令行参数 --min_score 应为 0 到 1 之间的数，现在是 '2'。"),
        (["--steps", "1", "x"], "命令行参数 --steps 应为整数，现在是 'x'。"),
        (["--share", "x"], "命令行参数 --share 应为数，现在是 'x'。"),
        (["--way", "x"], "命令行参数 --way 应为 new、old 之一，现在是 'x'。"),
    ],
)
def test_a_mistake_is_one_sentence(argv: list[str], message: str) -> None:
    assert complaint(*argv) == message


def test_all_mistakes_are_told() -> None:
    assert complaint(
        "--nope", "1", "--count", "0", "--way", "x", "--flag", "--name", "x", "--steps"
    ).splitlines() == [
        "命令行有 4 处错误：",
        "  - 认不出命令行参数 --nope，--help 列出全部参数。",
        "  - 命令行参数 --count 应为正整数，现在是 '0'。",
        "  - 命令行参数 --way 应为 new、old 之一，现在是 'x'。",
        "  - 命令行参数 --name 不能与 --flag 同时使用。",
    ]


def test_what_is_missing() -> None:
    parser = ChineseArgumentParser(prog="command")
    parser.add_argument("files", nargs="+", metavar="文件")
    parser.add_argument("--output", required=True)
    with pytest.raises(UserError, match="缺少参数 文件, --output（--help 查看用法）"):
        parser.parse_args([])
    with pytest.raises(UserError, match=r"^认不出命令行参数 --outptu，是不是想写 --output？$"):
        parser.parse_args(["a", "--outptu", "b"])
    with pytest.raises(UserError, match=r"^认不出命令行参数 甲"):
        ChineseArgumentParser().parse_args(["甲"])


def test_complaints_without_a_translation_stand_as_they_are() -> None:
    parser = make_parser()
    parser.add_argument("--two", nargs=2)
    with pytest.raises(UserError, match="后面缺少取值"):
        parser.parse_args(["--two", "1"])
    parser.set_defaults(count="x")  # not read from the command line
    with pytest.raises(UserError, match="--count"):
        parser.parse_args([])


def test_values_that_begin_with_a_dash() -> None:
    parsed = make_parser().parse_args(["--name", "-5度的天气", "--share", "-2e-4", "-", "--", "--flag"])
    assert (parsed.name, parsed.share, parsed.files) == ("-5度的天气", -2e-4, ["-", "--flag"])
    assert make_parser().parse_args(["--name", "-"]).name == "-"


@pytest.mark.parametrize("option", ["--min-score", "--min_score"])
def test_both_spellings_are_one_option_and_help_shows_one(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_parser().parse_args([option, "0.5"]).min_score == 0.5
    assert make_parser().parse_args([f"{option}=0.5"]).min_score == 0.5
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(["--help", "--nope"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "--min_score" in shown and "--min-score" not in shown
    assert shown.startswith("用法：command [--flag | --name NAME] ")
    assert shown.index("--way") < shown.index("通用:") < shown.index("--version") < shown.index("--debug")


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"command {__version__}\n"


def test_positive_int() -> None:
    assert positive_int("012") == 12
    for word in ("", "+3", "1.0", "１", "9" * 5000):
        with pytest.raises(argparse.ArgumentTypeError):
            positive_int(word)


def test_probability() -> None:
    assert probability("0.25") == 0.25
    for word in ("", "nan", "-0.1", "1.1", "x"):
        with pytest.raises(argparse.ArgumentTypeError):
            probability(word)

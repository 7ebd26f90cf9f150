"""The options of the extraction command: what is refused, all at once, and what comes of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from extraction import arguments
from extraction.arguments import build_parser, read_command
from extraction.options import ExtractorOptions
from utils.common_utils import UserError


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--text", ""], "--text 不能抽取：字段 text 是空的"),
        (["--text", " \n "], "--text 不能抽取：字段 text 是空的"),
        (["--text", "\udcff"], "--text 不能抽取：不是 UTF-8 编码，第 1 个字节处出错"),
        (["--text", "甲", "--interactive"], "--interactive 不能与 --text 同时使用"),
        (["--input", "a"], "--input 与 --output 要一起使用"),
        (["--output", "a"], "--input 与 --output 要一起使用"),
        (["--text", "甲", "--output", "a"], "--input 与 --output 要一起使用"),
        (["--report", "a"], "--report 只能与 --evaluate 一起使用"),
        (["--html", "a"], "--html 只能与 --evaluate 一起使用"),
        (["--evaluate", "a", "--scores"], "--evaluate 不输出三元组，不能与 --scores 同时使用"),
        (["--evaluate", "a", "--spans"], "--evaluate 不输出三元组，不能与 --spans 同时使用"),
        (["--adapter", "a", "--no_adapter"], "--adapter 与 --no_adapter 不能同时使用"),
        (["--device", "gpu"], "--device 应当写成 cpu、cuda 或 cuda:1 这样，现在是 'gpu'"),
        (["--batch_size", "0"], "--batch_size 应为正整数"),
        (["--load_in_4bit", "true", "--load_in_8bit", "true"], "--load_in_8bit 不能同时开启，请关闭其中一个"),
        (["--load_in_4bit", "maybe"], "--load_in_4bit 应为 auto、true 或 false，现在是 'maybe'"),
        (["--vram_budget_gb", "-1"], "--vram_budget_gb 应为正数，现在是 '-1'"),
        (["--max_new_tokens", "many"], "--max_new_tokens 应为正整数"),
        (["甲"], "认不出命令行参数 甲"),
    ],
)
def test_command_lines_that_make_no_sense(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_command(argv)


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        ([], (None, None, None)),
        (["--batch_size", "auto", "--load_in_4bit", "auto"], (None, None, None)),
        (["--batch_size", "3", "--load_in_4bit", "false", "--vram_budget_gb", "7.5"], (3, False, 7.5)),
    ],
)
def test_what_a_card_shall_give(argv: list[str], values: tuple[object, ...]) -> None:
    options = read_command(argv).options
    assert (options.batch_size, options.load_in_4bit, options.vram_budget_gb) == values


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--schema", "a", "--open-schema"], "--schema 与 --open_schema 不能同时使用"),
        (["--free-decoding", "--scores"], "--free_decoding 不加约束，不能与 --scores 同时使用"),
        (["--free_decoding", "--min-score", "0.5"], "不能与 --min_score 同时使用"),
        (["--min-score", "2"], "--min_score 应为 0 到 1 之间的数，现在是 '2'"),
        (["--text-field", "a"], "--text_field 只能与 --input 一起使用"),
        (
            ["--input", "a.txt", "--output", "b", "--format", "json"],
            "--input 的结果总是 JSONL，不能与 --format",
        ),
        (["--format", "xml"], "--format 应为 json、jsonl、line、table 之一，现在是 'xml'"),
        (["--input", "a.xlsx", "--output", "b"], "a.xlsx：它是表格文件，请在表格软件中另存为 CSV"),
        (
            ["--input", "a.txt", "--output", "b.csv"],
            r"不能直接写成 .csv：请写到 b.jsonl，再运行 .*--format csv --output b.csv",
        ),
        (["--input", "a.txt", "--output", "b.XLSX"], r"不能直接写成 .xlsx：请写到 b.jsonl，再运行"),
        (["--input", "a.txt", "--output", "b.parquet"], r"不能直接写成 .parquet：请写到 b.jsonl。"),
        (["--text", "甲", "--pre_model", ""], "--pre_model 是空的"),
        (
            ["--text", "张玲".encode("gbk").decode("utf-8", "surrogateescape")],
            "--text 不能抽取：不是 UTF-8.*GBK",
        ),
        (["--text", "甲\ud800"], "不成对的代理字符"),
        (["--adaptor", "a"], "是不是想写 --adapter"),
    ],
)
def test_options_that_make_no_sense(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_command(argv)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        read_command(["--batch_size", "0", "--device", "gpu", "--report", "a", "--nope", "--text", ""])
    message = str(caught.value)
    assert message.startswith("命令行有 5 处错误：")
    for part in ("--batch_size 应为正整数", "现在是 'gpu'", "--report 只能", "--nope", "--text 不能抽取"):
        assert part in message


def test_paths_that_the_system_refuses() -> None:
    sentence = "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。" * 5
    for argv in (["--input", sentence, "--output", "a"], ["--schema", sentence], ["--adapter", sentence]):
        with pytest.raises(UserError, match=r"路径 《娘家的故事.*… 不能用（File name too long）"):
            read_command(argv)


@pytest.mark.parametrize("dash", ["-", "_"])
def test_both_spellings(dash: str) -> None:
    command = read_command(
        [
            f"--no{dash}adapter",
            f"--free{dash}values",
            f"--min{dash}score",
            "0.5",
            f"--max{dash}new{dash}tokens",
            "9",
        ]
    )
    assert command.no_adapter
    assert command.options == ExtractorOptions(free_values=True, min_score=0.5, max_new_tokens=9)
    assert "-" not in "".join(build_parser()._option_string_actions).replace("--", "").replace("-h", "")


def test_files_of_the_project_are_found_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "data" / "dev.jsonl").touch()
    monkeypatch.setattr(arguments, "PROJECT", project)
    monkeypatch.chdir(tmp_path)
    assert read_command(["--evaluate", "data/dev.jsonl"]).evaluate == project / "data" / "dev.jsonl"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev.jsonl").touch()  # one's own comes first
    assert read_command(["--evaluate", "data/dev.jsonl"]).evaluate == Path("data/dev.jsonl")
    assert read_command(["--evaluate", "data/none.jsonl"]).evaluate == Path("data/none.jsonl")

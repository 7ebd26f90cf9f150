"""The options of the extraction command, read into a typed value; all mistakes are told at once."""

from __future__ import annotations

import contextlib
from argparse import ArgumentTypeError
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from extraction.display import FORMATS
from extraction.files import output_name_problem
from extraction.options import ExtractorOptions
from extraction.records import STANDARD, input_name_problem, typed_problem
from utils.command_line import ChineseArgumentParser, positive_int, positive_number, probability, summarise
from utils.common_utils import UserError
from utils.startup import check_device_name

PROJECT = Path(__file__).resolve().parent.parent
DEFAULT_CONTEXT = 1  # sentences before and behind, of documents
# Options that make no sense together, and why, where it isn't plain.
_EXCLUDING = (
    ("open_schema", ("schema",), ""),
    ("no_adapter", ("adapter",), ""),
    (
        "free_decoding",
        ("schema", "open_schema", "free_values", "scores", "min_score", "spans", "passes"),
        "不加约束，",
    ),
    ("evaluate", ("scores", "spans", "format"), "不输出三元组，"),
    ("input", ("format",), "的结果总是 JSONL，"),
    ("context_sentences", ("free_decoding", "free_values", "evaluate"), "要求值来自原文，"),
    ("documents", ("text_field", "free_decoding", "free_values"), ""),
)
_NEEDING = {"text_field": "input", "report": "evaluate", "html": "evaluate", "documents": "input"}


@dataclass(frozen=True)
class Command:
    """What the command line asks for. Of `text`, `interactive`, `input` and `evaluate` one at most is set.

    Args:
        text: a sentence.
        interactive: sentences are typed.
        input, output: files of sentences and results.
        text_field: where the sentence is in `input`.
        evaluate, report, html: labelled data, and where all that is found goes, as JSON and as a page.
        documents: `input` is a document or a folder of them.
        context_sentences: how many sentences before and behind one are read along; None for sentences that
            stand alone.
        format: how results are printed; None for the usual way.
        scores, spans: what results say of their triplets.
        no_adapter: the bare base is wanted.
        debug: traceback and libraries may speak.
        options: of the extractor.
    """

    text: str | None
    interactive: bool
    input: Path | None
    output: Path | None
    text_field: str | None
    evaluate: Path | None
    report: Path | None
    html: Path | None
    documents: bool
    context_sentences: int | None
    format: str | None
    scores: bool
    spans: bool
    no_adapter: bool
    debug: bool
    options: ExtractorOptions


def read_command(argv: Sequence[str]) -> Command:
    """Read the command line and refuse combinations that make no sense.

    Raises:
        UserError: all that is wrong with it.
    """
    parsed, complaints = build_parser().collect_complaints(list(argv))
    values: dict[str, Any] = vars(parsed)
    if values:  # else it could not be read at all
        for name in ("input", "evaluate", "schema", "adapter"):
            values[name] = _bundled(values[name])
        complaints += _wrong_values(values)
        complaints += _contradictions(values)
    if complaints:
        raise UserError(summarise("命令行", complaints))
    if values["documents"] and values["context_sentences"] is None:
        values["context_sentences"] = DEFAULT_CONTEXT
    values |= {"with_scores": values["scores"]}
    values["passes"] = values["passes"] or 1
    options = ExtractorOptions(**_chosen(values, ExtractorOptions))
    return Command(**_chosen({**values, "options": options}, Command))


def positive_int_or_auto(word: str) -> int | None:
    """Read a positive integer, or None for "auto", for argparse."""
    return None if word == "auto" else positive_int(word)


def yes_no_auto(word: str) -> bool | None:
    """Read true or false, or None for "auto", for argparse."""
    choices = {"auto": None, "true": True, "false": False}
    if word.lower() not in choices:
        raise ArgumentTypeError(f"应为 auto、true 或 false，现在是 {word!r}")
    return choices[word.lower()]


def build_parser() -> ChineseArgumentParser:
    """Return the parser of the command line."""
    parser = ChineseArgumentParser(
        description="从中文句子中抽取三元组，结果以 JSON 输出到 stdout；不带参数时演示几个内置句子。",
        usage="%(prog)s [--text 句子 | --interactive | --input 文件 --output 文件 | --evaluate 文件] [选项]",
    )
    file: dict[str, Any] = {"type": Path, "metavar": "文件"}
    switch: dict[str, Any] = {"action": "store_true"}
    number: dict[str, Any] = {"type": positive_int, "metavar": "N"}
    add = parser.add_argument_group("做什么").add_mutually_exclusive_group().add_argument
    add("--text", metavar="句子", help="抽取一个句子")
    add("--interactive", **switch, help="逐句输入；help 看说明，exit、quit、退出或 Ctrl-D 结束")
    add("--input", **file, help="每行一个句子，或 JSONL、JSON 数组、带表头的 CSV 和 TSV；- 是标准输入")
    add("--evaluate", **file, help="在标注数据上算精确率、召回率和 F1")
    add = parser.add_argument_group("文件").add_argument
    add("--output", **file, help="--input 的结果（JSONL）；中断后重跑会接着做；- 是标准输出")
    add("--text_field", metavar="字段", help="--input 中句子所在的字段或列；默认是 text")
    add("--documents", **switch, help="--input 是一篇文档（.txt、.md），或放文档的文件夹；一篇一行结果")
    add("--context_sentences", **number, help="每句连同前后各 N 句一起读（文档默认 1）")
    add("--report", **file, help="--evaluate 的完整报告（JSON，含全部错例）")
    add("--html", **file, help="--evaluate 的报告网页：逐句对照标准答案、得分、可靠性图")
    add = parser.add_argument_group("模型").add_argument
    directory = "适配器，或含 model_best 的训练输出目录；默认是配置中 save_dir 下的 model_best"
    add("--adapter", type=Path, metavar="目录", help=directory)
    add("--no_adapter", **switch, help="不加载适配器，直接用基座模型")
    add("--pre_model", metavar="模型", help="基座模型；默认是训练时的那个")
    add("--device", metavar="设备", help="cpu、cuda 或 cuda:1；默认自动选择")
    rows = "一起生成的句数；默认 auto：GPU 上按显存，CPU 上是训练时的 eval_batch_size"
    add("--batch_size", type=positive_int_or_auto, metavar="N", help=rows)
    bits = "auto：训练时用 4-bit 的，GPU 放得下就展开成半精度（结果相同，更快）；true：不展开；false：不量化"
    add("--load_in_4bit", type=yes_no_auto, metavar="auto|true|false", help=bits)
    bits = "8-bit 整数，取值的含义同上；与 --load_in_4bit 只能开一个"
    add("--load_in_8bit", type=yes_no_auto, metavar="auto|true|false", help=bits)
    add("--vram_budget_gb", type=positive_number, metavar="GB", help="最多用多少显存；默认是空闲的全部")
    add("--max_new_tokens", **number, help="答案最多的 token 数；默认是训练时的 max_target_seq_len")
    add = parser.add_argument_group("答案的约束").add_argument
    add("--schema", **file, help="允许的关系和类型；默认是训练时见过的（适配器的 schema.json）")
    add("--open_schema", **switch, help="关系和类型不受限制")
    add("--free_values", **switch, help="主语和宾语不必是原文中的片段")
    add("--free_decoding", **switch, help="完全不加约束，不完整的 JSON 尽量修复")
    level = "只保留置信度不低于 P 的三元组；默认是训练时在验证集上定的，0 为全部保留"
    add("--min_score", type=probability, metavar="P", help=level)
    add("--passes", type=int, choices=(1, 2), help="2：找到的关系再逐个单独问一遍（提示词写明关系的适配器）")
    add = parser.add_argument_group("结果的写法").add_argument
    add("--scores", **switch, help="给出每个三元组的置信度 score")
    add("--spans", **switch, help="给出主语和宾语在原文中的位置（字符偏移）")
    ways = "json、jsonl（一句一行）、line（一个三元组一行，在终端上交互时默认）或 table（表格）"
    add("--format", choices=FORMATS, metavar="写法", help=f"打印的写法：{ways}")
    return parser


def _chosen(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    return {field.name: values[field.name] for field in fields(kind)}


def _bundled(path: Path | None) -> Path | None:
    """Return a path as it is, or that of the project's own file if the current folder has none."""
    with contextlib.suppress(OSError):
        if path and path != STANDARD and not path.exists() and (PROJECT / path).exists():
            return PROJECT / path
    return path


def _wrong_values(values: Mapping[str, Any]) -> Iterable[str]:
    """Yield what is wrong with single values, a sentence each."""
    for name in ("input", "output", "evaluate", "report", "html", "schema", "adapter"):
        if (path := values[name]) is not None and (problem := _path_problem(path)):
            yield problem
    if values["input"] is not None and (problem := input_name_problem(values["input"])):
        yield problem
    if values["output"] is not None and (problem := output_name_problem(values["output"])):
        yield problem
    if values["pre_model"] is not None and not values["pre_model"].strip():
        yield "--pre_model 是空的，请写模型目录；不写这个参数就用训练时的那个。"
    if values["text"] is not None and (problem := typed_problem(values["text"])):
        yield f"--text 不能抽取：{problem}。"
    try:
        check_device_name(values["device"])
    except UserError as error:
        yield str(error)


def _path_problem(path: Path) -> str | None:
    """Say so if the system can't tell whether there is something at a path: it is too long, or closed."""
    try:
        path.exists()
        (path / "adapter_config.json").exists()
    except OSError as error:
        shown = str(path) if len(str(path)) <= 60 else str(path)[:60] + "…"
        return f"路径 {shown} 不能用（{error.strerror}），请检查路径和权限。"
    return None


def _contradictions(values: Mapping[str, Any]) -> Iterable[str]:
    """Yield what is wrong between options, a sentence each."""
    if (values["input"] is None) != (values["output"] is None):
        yield "--input 与 --output 要一起使用：前者是句子文件，后者是结果文件。"
    for name, needed in _NEEDING.items():
        if values[name] not in (None, False) and values[needed] is None:
            yield f"--{name} 只能与 --{needed} 一起使用。"
    if values["load_in_4bit"] and values["load_in_8bit"]:
        yield "--load_in_4bit 与 --load_in_8bit 不能同时开启，请关闭其中一个。"
    for name, others, reason in _EXCLUDING:
        for other in others:
            if values[name] and values[other]:
                yield (
                    f"--{name} {reason}不能与 --{other} 同时使用。"
                    if reason
                    else f"--{other} 与 --{name} 不能同时使用。"
                )

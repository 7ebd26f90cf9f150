"""The options of the extraction command."""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.command_line import ChineseArgumentParser, positive_int, probability
from utils.common_utils import UserError
from utils.device import check_device_name


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = ChineseArgumentParser(
        description="从中文句子中抽取三元组，结果以 JSON 输出到 stdout；不带参数时演示几个内置句子。",
        usage="%(prog)s [--text 句子 | --interactive | --input 文件 --output 文件 | --evaluate 文件] [选项]",
    )
    modes = parser.add_argument_group("做什么").add_mutually_exclusive_group()
    modes.add_argument("--text", metavar="句子", help="抽取一个句子")
    modes.add_argument("--interactive", action="store_true", help="逐句输入；exit、quit、退出或 Ctrl-D 结束")
    modes.add_argument(
        "--input", type=Path, metavar="文件", help="每行一个句子，或一个含 text 字段的 JSON 对象"
    )
    modes.add_argument("--evaluate", type=Path, metavar="文件", help="在标注数据上算精确率、召回率和 F1")
    files = parser.add_argument_group("文件")
    files.add_argument(
        "--output", type=Path, metavar="文件", help="--input 的结果（JSONL）；中断后重跑会接着做"
    )
    files.add_argument("--text-field", metavar="字段", help="--input 中句子所在的字段；默认是 text")
    files.add_argument(
        "--report", type=Path, metavar="文件", help="--evaluate 的完整报告（JSON，含全部错例）"
    )
    model = parser.add_argument_group("模型")
    model.add_argument("--adapter", type=Path, metavar="目录", help="默认是配置中 save_dir 下的 model_best")
    model.add_argument("--no-adapter", action="store_true", help="不加载适配器，直接用基座模型")
    model.add_argument("--pre_model", metavar="模型", help="基座模型；默认是训练时的那个")
    model.add_argument("--device", metavar="设备", help="cpu、cuda 或 cuda:1；默认自动选择")
    model.add_argument(
        "--batch_size",
        type=positive_int,
        metavar="N",
        help="一起生成的句数；默认是训练时的 eval_batch_size",
    )
    model.add_argument(
        "--max_new_tokens",
        type=positive_int,
        metavar="N",
        help="答案最多的 token 数；默认是训练时的 max_target_seq_len",
    )
    answers = parser.add_argument_group("答案的约束")
    answers.add_argument(
        "--schema",
        type=Path,
        metavar="文件",
        help="允许的关系和类型；默认是训练时见过的（适配器的 schema.json）",
    )
    answers.add_argument("--open-schema", action="store_true", help="关系和类型不受限制")
    answers.add_argument("--free-values", action="store_true", help="主语和宾语不必是原文中的片段")
    answers.add_argument("--free-decoding", action="store_true", help="完全不加约束，不完整的 JSON 尽量修复")
    answers.add_argument("--scores", action="store_true", help="给出每个三元组的置信度 score")
    answers.add_argument("--min-score", type=probability, metavar="P", help="只保留置信度不低于 P 的三元组")
    answers.add_argument("--spans", action="store_true", help="给出主语和宾语在原文中的位置（字符偏移）")
    return parser


def refuse_contradictions(args: argparse.Namespace) -> None:
    """Check what argparse can't.

    Raises:
        UserError: options that need or exclude each other.
    """
    if (args.input is None) != (args.output is None):
        raise UserError("--input 与 --output 要一起使用：前者是句子文件，后者是结果文件。")
    if args.pre_model is not None and not args.pre_model.strip():
        raise UserError("--pre_model 是空的，请写模型目录；不写这个参数就用训练时的那个。")
    if args.text_field is not None and args.input is None:
        raise UserError("--text-field 只能与 --input 一起使用。")
    if args.schema is not None and args.open_schema:
        raise UserError("--schema 与 --open-schema 不能同时使用。")
    if args.free_decoding:
        for name in ("schema", "open_schema", "free_values", "scores", "min_score", "spans"):
            if getattr(args, name):
                option = "--" + name.replace("_", "-")
                raise UserError(f"--free-decoding 不加约束，不能与 {option} 同时使用。")
    if args.report is not None and args.evaluate is None:
        raise UserError("--report 只能与 --evaluate 一起使用。")
    for name in ("scores", "spans"):
        if args.evaluate is not None and getattr(args, name):
            raise UserError(f"--evaluate 不输出三元组，不能与 --{name} 同时使用。")
    if args.adapter is not None and args.no_adapter:
        raise UserError("--adapter 与 --no-adapter 不能同时使用。")
    check_device_name(args.device)

"""Command line of extraction on a cluster: many files in, a folder of results out, through Ray Data."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extraction.adapters import find_default_adapter, resolve_adapter
from extraction.arguments import positive_int_or_auto
from extraction.cluster import ClusterJob, run_on_cluster
from extraction.options import ExtractorOptions
from glm_config import ProjectConfig
from utils.command_line import ChineseArgumentParser, positive_int, probability
from utils.common_utils import UserError, quiet_libraries, run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; those of the process if not given.

    Returns:
        The exit code: 0 if every sentence got its result, else 1.

    Raises:
        UserError: what was asked for can't be done.
    """
    job = read_job(sys.argv[1:] if argv is None else argv)
    quiet_libraries()
    from extraction.settings import read_settings

    read_settings(job.options)  # a missing adapter or schema is said before a cluster is asked for
    return run_on_cluster(job)


def read_job(argv: Sequence[str]) -> ClusterJob:
    """Read the command line.

    Raises:
        UserError: all that is wrong with it.
    """
    args = build_parser().parse_args(list(argv))
    if args.schema and args.open_schema:
        raise UserError("--schema 与 --open_schema 不能同时使用。")
    adapter = args.adapter or find_default_adapter(Path(ProjectConfig().save_dir))
    options = ExtractorOptions(
        adapter=adapter and resolve_adapter(Path(adapter)).absolute(),  # other machines have other folders
        pre_model=args.pre_model,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        schema=args.schema and args.schema.absolute(),
        open_schema=args.open_schema,
        passes=args.passes or 1,
        with_scores=args.scores,
        min_score=args.min_score,
    )
    return ClusterJob(
        tuple(args.input),
        args.output,
        args.format,
        args.text_field,
        options,
        args.workers,
        args.gpus_per_worker,
        args.cpus_per_worker,
        args.scores,
        args.spans,
        args.address,
    )


def build_parser() -> ChineseArgumentParser:
    """Return the parser of the command line."""
    parser = ChineseArgumentParser(description="在 Ray 集群上抽取许多文件；中断后重跑同一命令，只做缺的行。")
    number: dict[str, Any] = {"type": positive_int, "metavar": "N"}
    add = parser.add_argument_group("文件").add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="文件",
        help="文件、加引号的通配符或 s3://…；也可以是 parquet",
    )
    add("--output", required=True, metavar="目录", help="结果的目录或 s3://…；各台机器都要能读写")
    add(
        "--format",
        choices=("jsonl", "parquet"),
        default="jsonl",
        metavar="格式",
        help="jsonl（默认）或 parquet",
    )
    add("--text_field", metavar="字段", help="句子所在的字段或列；默认是 text")
    add = parser.add_argument_group("集群").add_argument
    workers = "工作进程至少和至多几个，如 1:32；默认 1:4"
    add("--workers", type=_span, default=(1, 4), metavar="N:M", help=workers)
    gpus = "每个工作进程用几块 GPU，可以是 0.5；默认 0，用 CPU"
    add("--gpus_per_worker", type=_amount, default=0.0, metavar="N", help=gpus)
    add("--cpus_per_worker", type=_amount, default=1.0, metavar="N", help="每个工作进程用几个 CPU；默认 1")
    add("--address", metavar="地址", help="集群的地址；默认是环境里的，没有就只用这台机器")
    add = parser.add_argument_group("模型").add_argument
    add(
        "--adapter",
        type=Path,
        metavar="目录",
        help="适配器，或含 model_best 的训练输出目录；各台机器都要能读",
    )
    add("--pre_model", metavar="模型", help="基座模型；默认是训练时的那个")
    rows = "一起生成的句数；默认 auto：GPU 上按显存，CPU 上是训练时的 eval_batch_size"
    add("--batch_size", type=positive_int_or_auto, metavar="N", help=rows)
    add("--max_new_tokens", **number, help="答案最多的 token 数；默认是训练时的 max_target_seq_len")
    add = parser.add_argument_group("答案").add_argument
    add("--schema", type=Path, metavar="文件", help="允许的关系和类型；默认是训练时见过的")
    add("--open_schema", action="store_true", help="关系和类型不受限制")
    level = "只保留置信度不低于 P 的三元组；默认是训练时在验证集上定的，0 为全部保留"
    add("--min_score", type=probability, metavar="P", help=level)
    add("--passes", type=int, choices=(1, 2), help="2：找到的关系再逐个单独问一遍（提示词写明关系的适配器）")
    add("--scores", action="store_true", help="给出每个三元组的置信度 score")
    add("--spans", action="store_true", help="给出主语和宾语在原文中的位置（字符偏移）")
    return parser


def _span(word: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?::(\d{1,5}))?", word)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < low <= high:
        raise argparse.ArgumentTypeError(f"应为 N 或 N:M（0 < N ≤ M），现在是 {word!r}")
    return low, high


def _amount(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"应为不小于 0 的数，现在是 {word!r}")
    return value


if __name__ == "__main__":
    run_main(main)

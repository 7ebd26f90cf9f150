"""Merge an adapter into its base: a model of its own, which needs neither PEFT nor this project.

Usage: python -m export.merge --adapter output/mine/model_best --output merged
"""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.command_line import ChineseArgumentParser
from utils.common_utils import quiet_libraries, run_main
from utils.directories import check_is_free

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_size(text: str) -> int:
    """Read a size such as 2GB, 500MB, 0.5GB.

    Raises:
        argparse.ArgumentTypeError: it is none, or less than one kilobyte.
    """
    number, unit = text[:-2], text[-2:].upper()
    try:
        size = int(float(number) * UNITS[unit])
        if size < UNITS["KB"]:
            raise ValueError(text)
    except (ValueError, KeyError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} 不是大小，应写成 2GB、500MB 这样") from error
    return size


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = ChineseArgumentParser(
        prog="python -m export.merge",
        description="把适配器合并进半精度的基座，写成一个独立的模型目录：按公布的名字分片，一次只有一片在内存里；"
        "中断后重新运行同一命令会接着做。结果可以用 --pre_model 加载，也可以给别的程序用。",
    )
    parser.add_argument(
        "--adapter",
        required=True,
        type=Path,
        help="适配器，或含 model_best 的训练输出目录；也可以是 P-Tuning v2 的前缀",
    )
    parser.add_argument("--output", required=True, type=Path, help="写到哪个目录；必须不存在或是空的")
    parser.add_argument("--pre_model", help="半精度的基座；默认是训练时的那个")
    parser.add_argument(
        "--max_shard_size",
        type=parse_size,
        default=2 * UNITS["GB"],
        metavar="大小",
        help="每片最大，默认 2GB",
    )
    parser.add_argument(
        "--quantise",
        choices=("nf4", "int8", "int4"),
        help="合并之后再量化：nf4 是本项目的 4-bit 副本，int8、int4 是 ChatGLM-6B 公布的布局；默认保持半精度",
    )
    return parser


def run() -> None:
    """Parse the command line, merge, write; the directory is printed.

    Raises:
        UserError: the options, adapter, base or the place to write to can't be used.
    """
    arguments = build_parser().parse_args()
    output: Path = arguments.output
    check_is_free(output)
    quiet_libraries()
    from export.merging import merge  # behind this door is torch

    merge(
        arguments.adapter,
        output,
        pre_model=arguments.pre_model,
        max_shard_size=arguments.max_shard_size,
        quantise=arguments.quantise,
    )
    print(output)


def main() -> None:
    """Run the command; leaves the process with an exit code."""
    run_main(run)


if __name__ == "__main__":
    main()

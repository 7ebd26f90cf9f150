"""Write a model in 4-bit once, so that later starts read a third of the bytes and quantise nothing.

Usage: python -m export.quantized --pre_model chatglm-6b --output chatglm-6b-4bit
"""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.command_line import ChineseArgumentParser
from utils.common_utils import quiet_libraries, run_main
from utils.directories import check_is_free


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = ChineseArgumentParser(
        prog="python -m export.quantized",
        description="把模型量化成 4-bit 并写成新目录。之后用 --pre_model 指定它，启动时只读约三分之一的字节，"
        "也不用再量化；在原模型上训练的适配器可以直接用，反之亦然。",
    )
    parser.add_argument("--pre_model", required=True, help="原来的（半精度）模型目录，或已在缓存里的名字")
    parser.add_argument("--output", required=True, type=Path, help="写到哪个目录；必须不存在或是空的")
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16"),
        default="float16",
        help="词嵌入、归一化层与偏置的类型，默认 float16（与公布的权重相同）；加载时可转成别的类型",
    )
    parser.add_argument("--device", help="在哪个设备上量化，例如 cpu、cuda:1；默认有 GPU 就用 GPU")
    return parser


def convert() -> None:
    """Parse the command line, quantise, write; the directory is printed.

    Raises:
        UserError: the options, the model or the place to write to can't be used.
    """
    arguments = build_parser().parse_args()
    output: Path = arguments.output
    check_is_free(output)
    quiet_libraries()
    from export.four_bit import quantise  # behind this door is torch

    quantise(arguments.pre_model, output, arguments.dtype, arguments.device)
    print(output)


def main() -> None:
    """Run the command; leaves the process with an exit code."""
    run_main(convert)


if __name__ == "__main__":
    main()

"""Make an adapter ready for a model hub: its files without traces of this machine, and a model card.

Usage: python -m export.hub --adapter output/mine/model_best --output to_upload
"""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.command_line import ChineseArgumentParser
from utils.common_utils import quiet_libraries, run_main
from utils.directories import check_is_free, real_path


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = ChineseArgumentParser(
        prog="python -m export.hub",
        description="把适配器整理成能上传到 Hugging Face 或魔搭的目录：写好模型卡（数据、成绩、基座、许可证、"
        "怎样加载），去掉本机的路径。只写目录，不上传任何东西。",
    )
    parser.add_argument("--adapter", required=True, type=Path, help="适配器，或含 model_best 的训练输出目录")
    parser.add_argument("--output", required=True, type=Path, help="写到哪个目录；必须不存在或是空的")
    parser.add_argument("--base_model", metavar="编号", help="基座在模型站上的编号；默认是训练时写的那个")
    parser.add_argument("--title", help="模型卡的标题；默认是 --output 的名字")
    parser.add_argument(
        "--license", default="other", metavar="名称", help="适配器的许可证，例如 mit；默认 other"
    )
    return parser


def run() -> None:
    """Parse the command line, write; the directory is printed.

    Raises:
        UserError: the options, the adapter or the place to write to can't be used.
    """
    arguments = build_parser().parse_args()
    output: Path = arguments.output
    check_is_free(output)
    quiet_libraries()
    from export.upload import prepare_upload  # behind this door are the libraries

    prepare_upload(
        arguments.adapter,
        output,
        base_model=arguments.base_model,
        title=_text(arguments.title or real_path(output).name),
        license_name=arguments.license,
    )
    print(output)


def _text(name: str) -> str:
    """Return a name as text that a file can hold; a folder's name may be none."""
    return name.encode("utf-8", "replace").decode("utf-8")


def main() -> None:
    """Run the command; leaves the process with an exit code."""
    run_main(run)


if __name__ == "__main__":
    main()

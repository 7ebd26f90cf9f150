"""Print the request that asks another engine what the product would ask: the same prompt, the same grammar.

Usage: python -m export.request --pre_model merged --text "《活着》是余华的小说。" --engine vllm
"""

from __future__ import annotations

import argparse
import json

from utils.command_line import ChineseArgumentParser
from utils.common_utils import quiet_libraries, run_main

ENGINES = ("vllm", "sglang", "llama.cpp")


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = ChineseArgumentParser(
        prog="python -m export.request",
        description="打印发给 vLLM、SGLang 或 llama.cpp 服务的请求（JSON）：提示词是训练时的 token，"
        "答案的语法与本项目抽取时的相同。只读配置和分词器，不加载权重。",
    )
    parser.add_argument("--pre_model", required=True, help="合并好的模型目录（export.merge 写的）")
    parser.add_argument("--text", required=True, help="句子")
    parser.add_argument("--engine", choices=ENGINES, default="vllm", help="发给谁；默认 vllm")
    parser.add_argument("--schema", help="允许的关系和类型；默认是训练时见过的")
    parser.add_argument("--name", default="merged", help="模型在服务里的名字（vLLM 的 model）；默认 merged")
    return parser


def run() -> None:
    """Parse the command line; the request is printed.

    Raises:
        UserError: the options or the model's files can't be used.
    """
    arguments = build_parser().parse_args()
    quiet_libraries()
    from export.engines import write_request  # behind this door are the libraries

    request = write_request(
        arguments.pre_model, arguments.text, arguments.engine, schema=arguments.schema, name=arguments.name
    )
    print(json.dumps(request, ensure_ascii=False))


def main() -> None:
    """Run the command; leaves the process with an exit code."""
    run_main(run)


if __name__ == "__main__":
    main()

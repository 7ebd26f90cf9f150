"""Command line: write training text, one sample a line."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_base.corpus.heldout import HeldOut
from tiny_base.corpus.tasks import TaskWriter
from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, run_main

DEV_FILE = Path(__file__).parents[2] / "data" / "mixed_dev_dataset.jsonl"


def main() -> None:
    """Write samples to stdout, as JSON lines or, with --text, as plain text for a tokenizer to learn from."""
    parser = ChineseArgumentParser(
        prog="python -m tiny_base.corpus", description="生成预训练语料（带种子，可复现）"
    )
    parser.add_argument("--lines", type=int, default=10, help="样本数")
    parser.add_argument("--seed", type=int, default=0, help="随机种子，相同的种子得到相同的语料")
    parser.add_argument("--text", action="store_true", help="只输出纯文本（上下文和答案连写）")
    parser.add_argument(
        "--held_out", type=Path, default=DEV_FILE, help="其中的名称、句式和指令不会出现在语料里"
    )
    args = parser.parse_args()
    if not args.held_out.is_file():
        raise UserError(f"找不到 {args.held_out}，请用 --held_out 指定要避开的验证集文件。")
    writer = TaskWriter(args.seed, HeldOut.from_file(args.held_out))
    for _ in range(args.lines):
        sample = writer.sample()
        if args.text:
            print(f"{sample.before}{sample.blank}{sample.after}{sample.target}".replace("\n", "<n>"))
        else:
            record = {
                "task": sample.task,
                "before": sample.before,
                "blank": sample.blank,
                "after": sample.after,
            }
            print(json.dumps(record | {"target": sample.target}, ensure_ascii=False))


if __name__ == "__main__":
    run_main(main)

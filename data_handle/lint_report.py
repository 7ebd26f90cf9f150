"""The linter as a command, and its report: tables in Chinese or JSON.

`python -m data_handle.data_preprocess FILE…` runs it, too: the name that it was first known by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bases import find_family
from bases.hub_cache import resolve_model_dir
from data_handle.lint import KINDS, Finding, LintReport, lint_files
from task.schema import Schema
from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, run_main, to_json, visible, visible_json
from utils.table import format_table


def to_dict(report: LintReport) -> dict[str, Any]:
    """Return the whole report as plain values for JSON."""
    return {
        "clean": report.clean,
        "files": [asdict(statistics) for statistics in report.files],
        "types": [{**types._asdict(), "count": count} for types, count in report.types.most_common()],
        "findings": {
            kind: {
                "title": KINDS[kind][0],
                "problem": KINDS[kind][1],
                "count": len(findings),
                "items": [{"where": finding.where, "detail": finding.detail} for finding in findings],
            }
            for kind, findings in _by_kind(report).items()
        },
    }


def to_text(report: LintReport, max_details: int) -> str:
    """Return the report as tables; of each kind of finding list at most `max_details`, 0 meaning all."""
    files = [
        [
            statistics.path,
            statistics.examples,
            statistics.triplet_examples,
            statistics.empty_examples,
            statistics.triplets,
            statistics.bad_lines,
        ]
        for statistics in report.files
    ]
    lengths = [
        [statistics.path, side, length.mean, length.p95, length.longest, length.limit, length.over]
        for statistics in report.files
        for side, length in (("context", statistics.source), ("target", statistics.target))
    ]
    types = [[*types, count] for types, count in report.types.most_common()]
    sections = [
        ("文件", format_table(["文件", "样本", "三元组样本", "其中 []", "三元组", "坏行"], files)),
        (
            "长度（token）",
            format_table(["文件", "字段", "平均", "P95", "最长", "上限", "超出"], lengths, left=2),
        ),
    ]
    if types:
        sections.append(("关系与类型", format_table(["关系", "主体类型", "客体类型", "次数"], types, left=3)))
    sections.append(("发现", "\n".join(_findings(report, max_details))))
    return "\n\n".join(f"【{title}】\n{body}" for title, body in sections)


def _by_kind(report: LintReport) -> dict[str, list[Finding]]:
    groups: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        groups[finding.kind].append(finding)
    return {kind: groups[kind] for kind in KINDS if kind in groups}


def _findings(report: LintReport, max_details: int) -> list[str]:
    lines = []
    for kind, findings in _by_kind(report).items():
        title, is_problem = KINDS[kind]
        lines.append(f"{'问题' if is_problem else '提示'}：{title}，{len(findings)} 处")
        shown = findings[:max_details] if max_details else findings
        lines += [f"  {finding.where}  {finding.detail}" for finding in shown]
        if len(shown) < len(findings):
            lines.append(f"  ……还有 {len(findings) - len(shown)} 处（--details 0 全部列出）")
    lines.append("没有发现问题。" if report.clean else "请先处理上面的问题。")
    return lines


def _build_parser() -> ChineseArgumentParser:
    parser = ChineseArgumentParser(
        prog="python -m data_handle.data_preprocess",
        description="检查训练数据：长度、关系与类型、重复、泄漏、坏行等。"
        "退出码：0 没有问题，1 有问题，2 无法检查。",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="JSONL 数据文件；训练集和验证集一起给，才能查泄漏"
    )
    parser.add_argument(
        "--pre_model", default="models/chatglm-tiny", help="用哪个模型目录的分词器计长度（默认 %(default)s）"
    )
    parser.add_argument(
        "--max_source_seq_len", type=int, default=256, help="context 的 token 上限（默认 %(default)s）"
    )
    parser.add_argument(
        "--max_target_seq_len", type=int, default=128, help="target 的 token 上限（默认 %(default)s）"
    )
    parser.add_argument("--schema", help="允许的关系：适配器目录里的 schema.json，或 DuIE 的 schema 文件")
    parser.add_argument(
        "--details", type=int, default=10, help="每类问题列出几处，0 为全部（默认 %(default)s）"
    )
    parser.add_argument("--json", action="store_true", help="在 stdout 输出 JSON 而不是表格")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Lint the data files named on the command line.

    Args:
        arguments: the command line without the program's name; `sys.argv` if None.

    Returns:
        0 if nothing was found that is a problem, 1 if something was.

    Raises:
        UserError: a file or the tokenizer can't be used (exit code 2).
    """
    options = _build_parser().parse_args(arguments)
    if min(options.max_source_seq_len, options.max_target_seq_len) < 1:
        raise UserError("max_source_seq_len 和 max_target_seq_len 都应当至少是 1。")
    declared = Schema.load(options.schema).combinations if options.schema else None

    model_dir = resolve_model_dir(options.pre_model)
    tokenizer = find_family(model_dir).load_tokenizer(model_dir)
    report = lint_files(
        options.files,
        tokenizer,
        max_source_seq_len=options.max_source_seq_len,
        max_target_seq_len=options.max_target_seq_len,
        declared=declared,
    )
    if options.json:
        print(visible_json(to_json(to_dict(report), indent=2)))
    else:
        print(visible(to_text(report, options.details)))
    return 0 if report.clean else 1


if __name__ == "__main__":
    run_main(main)

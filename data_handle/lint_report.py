"""The linter's report: declared relations in, tables in Chinese or JSON out."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_handle.lint import KINDS, Finding, LintReport, Types
from data_handle.reader import BadLine, iter_objects, text_problem
from utils.common_utils import UserError
from utils.table import format_table


def read_schema(path: str | Path) -> set[Types]:
    """Read declared relations from an adapter's schema.json or from a DuIE schema file.

    The first is `{"combinations": [{"predicate", "subject_type", "object_type"}]}`; the second has such an
    object a line, whose object_type may be an object with "@value".

    Raises:
        UserError: the file can't be read, or declares something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"读不了 schema 文件 {path}（{error.strerror}）：请检查路径和权限。") from error
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and isinstance(content.get("combinations"), list):
        records: list[Any] = list(enumerate(content["combinations"], start=1))
    else:
        records = list(iter_objects(path))
    return {_declaration(path, item) for item in records}


def _declaration(path: str | Path, item: tuple[int, Any] | BadLine) -> Types:
    if isinstance(item, BadLine):
        raise UserError(f"schema 文件 {item}。")
    number, record = item
    if not isinstance(record, dict):
        raise UserError(f"schema 文件 {path} 第 {number} 项应当是 JSON 对象。")
    if isinstance(record.get("object_type"), dict):
        record["object_type"] = record["object_type"].get("@value")
    problems = [problem for name in Types._fields if (problem := text_problem(record, name))]
    if problems:
        raise UserError(f"schema 文件 {path} 第 {number} 项：{'；'.join(problems)}。")
    return Types(*(record[name] for name in Types._fields))


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

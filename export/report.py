"""Results as one page to click through: `python -m export.report results.jsonl -o report.html`.

Reads what `inference_triplet.py --output` wrote; where the lines say what was expected (`gold`, or the answer
of the training line that was extracted), the page shows both side by side, and scores. It needs no server and
nothing from elsewhere: scripts, styles and data are in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import web
from export.report_data import Lines, pack, read_lines, score
from export.unfinished import check_target, remove_leftovers, unfinished
from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, log, run_main

_ENTRY = Path(__file__).resolve().parent / "report_page" / "report.js"
_TEMPLATE = """<!doctype html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src '{script_hash}'; \
style-src '{style_hash}'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="export.report">
<title>抽取报告</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content" data-word="skip">跳到内容</a>
<header>
<h1 data-word="report">抽取报告</h1>
<p class="quiet-text" id="about"></p>
</header>
<main id="content"><p class="empty" data-word="reading_data">正在读取数据……</p></main>
<noscript><p class="empty">这份报告需要 JavaScript。 This report needs JavaScript.</p></noscript>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
_MARK = '<meta name="generator" content="export.report">'


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of the files on the command line.

    Args:
        arguments: the command line without the program's name; `sys.argv` if None.
    """
    parser = ChineseArgumentParser(
        prog="python -m export.report",
        description="把抽取结果做成一个网页：逐句的弧线图、筛选、表格和图；有标准答案时还有得分。",
    )
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        type=Path,
        help="抽取结果（inference_triplet.py --output 写的，或训练目录里的 eval_results.jsonl）；可写几个",
    )
    parser.add_argument("--output", "-o", type=Path, required=True, help="写到哪里（一个 .html 文件）")
    parser.add_argument("--force", action="store_true", help="覆盖已有的输出（以前的报告不用写也会覆盖）")
    options = parser.parse_args(arguments)
    check_report_page(options.output, options.inputs, options.force)
    lines = read_lines(options.inputs)
    for note in lines.bad_lines.describe("不能用的行") + lines.bad_triplets.describe("不能用的三元组"):
        log(note)
    if not lines.lines:
        raise UserError(f"{'、'.join(map(str, options.inputs))} 里没有可用的行，没有报告可写。")
    write_report_page(options.output, lines, "、".join(path.name for path in options.inputs))
    return 0


def check_report_page(
    path: Path, inputs: Sequence[Path] = (), force: bool = False, option: str = "--output"
) -> None:
    """Make sure, before the work, that a report can be written; an earlier report may be replaced.

    Raises:
        UserError: it can't.
    """
    for other in inputs:
        if path.exists() and other.exists() and path.samefile(other):
            raise UserError(f"输出 {path} 同时是输入，请换一个文件名。")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{option} {path}：报告是网页，请用 .html 结尾的文件名。")
    check_target(path, force or _is_report(path))


def _is_report(path: Path) -> bool:
    if not path.is_file():  # a FIFO would be waited for
        return False
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return _MARK in file.read(2000)
    except OSError:
        return False


def write_report_page(path: Path, lines: Lines, source: str) -> None:
    """Write the page, and say where it is.

    Args:
        path: of the page.
        lines: its sentences.
        source: what they come from, for its head.

    Raises:
        UserError: the system refuses to write.
    """
    data = {
        "source": source,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "scores": score(lines.lines),
        **pack(lines.lines),
    }
    text = make_page(data)
    remove_leftovers(path)
    with unfinished(path) as new:
        new.write_text(text, encoding="utf-8")
    size = len(text.encode()) / 2**20
    log(f"报告：{path}（{len(lines.lines)} 句，{size:.1f} MB），用浏览器打开。")


def make_page(data: dict[str, Any]) -> str:
    """Return the page of some data; nothing in them can end or begin an element."""
    style, script = web.read_text("style.css"), web.bundle(_ENTRY)
    for name, part in (("style", style), ("script", script)):
        if f"</{name}" in part:
            raise ValueError(f"</{name} stands in the {name}")
    # "<" stands only inside strings of JSON, where "\u003c" means the same: no </script>, no <!--.
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )
    return _TEMPLATE.format(
        style=style, style_hash=_hash(style), script=script, script_hash=_hash(script), data=packed
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


if __name__ == "__main__":
    run_main(main)

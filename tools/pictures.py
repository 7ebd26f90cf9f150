"""Pictures of the page and of the report for the documentation: `python -m tools.pictures --adapter DIR`.

Starts the service with an adapter, lets it extract the bundled sentences, and photographs what a browser has;
then the run that the adapter comes from, and the report of its evaluation's answers (`eval_results.jsonl`
beside it). Needs a Chromium, see tools/browser.py, and requirements-dev.txt. Nothing is made up: the pictures
show what that adapter answers.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_handle.reader import read_jsonl
from export import report
from export.report_data import read_lines
from task.prompt import split_context
from tools.browser import HOW_TO_GET, find_browser, open_browser
from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, log, run_main

ROOT = Path(__file__).resolve().parent.parent
SENTENCES = 24  # of the bundled dev set, on the page
MAX_BYTES = 200_000  # of a picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pictures.

    Args:
        arguments: the command line without the program's name; `sys.argv` if None.
    """
    parser = ChineseArgumentParser(
        prog="python -m tools.pictures", description="用真实的浏览器给网页和报告拍照，放进文档。"
    )
    best = Path("output/demo/model_best")
    parser.add_argument(
        "--adapter", type=Path, default=best, help="适配器（默认 %(default)s，即 make demo 的）"
    )
    parser.add_argument(
        "--results", type=Path, help="报告用的答案（默认是适配器上一级的 eval_results.jsonl）"
    )
    parser.add_argument("--output", "-o", type=Path, default=ROOT / "docs" / "pictures", help="放在哪个目录")
    options = parser.parse_args(arguments)
    results = options.results or options.adapter.parent / "eval_results.jsonl"
    if find_browser() is None:
        raise UserError(f"{HOW_TO_GET}。")
    for path in (options.adapter, results):
        if not path.exists():
            raise UserError(f"没有 {path}：请先 make demo，或用 --adapter、--results 指定。")
    options.output.mkdir(parents=True, exist_ok=True)
    with open_browser() as browser, tempfile.TemporaryDirectory() as folder:
        with running_service(options.adapter) as address:
            photograph_page(browser, address, options.output)
            photograph_run(browser, f"{address}/#run/{run_of(options.adapter)}", options.output)
        page = Path(folder) / "report.html"
        report.write_report_page(page, read_lines([results]), results.name)
        photograph_report(browser, page.as_uri(), options.output)
    return 0


@contextlib.contextmanager
def running_service(adapter: Path) -> Iterator[str]:
    """Run the service of an adapter on a free port; give its address once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    adapter = adapter.resolve()
    command = [sys.executable, "serve.py", "--adapter", str(adapter), "--port", str(port)]
    command += ["--runs", str(adapter.parent.parent)]
    process = subprocess.Popen(command, cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError),
                urllib.request.urlopen(f"{address}/health", timeout=10) as answer,
            ):
                if answer.status == 200:
                    break
            time.sleep(0.5)
        else:
            raise UserError("服务没有启动，原因见上。")
        yield address
    finally:
        process.terminate()
        process.wait()


def photograph_page(browser: Any, address: str, folder: Path) -> None:
    """Take the pictures of the page."""
    examples, _ = read_jsonl(ROOT / "data" / "mixed_dev_dataset.jsonl")
    sentences = [split_context(example.context)[1] for example in examples]
    page = browser.new_page(locale="zh-CN", viewport={"width": 1180, "height": 800})
    page.goto(address)
    page.fill("#sentences", "\n".join(sentences[:SENTENCES]))
    page.click("#start")
    page.wait_for_selector("#note.good", timeout=600_000)
    page.locator("#sentences").evaluate("element => { element.scrollTop = 0; }")
    page.select_option("#kind", "with")
    page.wait_for_selector("article .arc")
    hide_times(page)
    save(page, folder / "page.png")
    page.click("#view-graph")
    page.wait_for_selector(".node")
    largest = page.locator(".node circle").evaluate_all(
        "all => all.indexOf(all.reduce((a, b) => (b.r.baseVal.value > a.r.baseVal.value ? b : a)))"
    )
    page.locator(".node").nth(largest).click()
    page.locator(".graph").evaluate("element => element.scrollIntoView({block: 'end'})")
    save(page.locator("#panel-graph"), folder / "page-graph.png")
    page.close()
    phone = browser.new_page(
        locale="zh-CN", viewport={"width": 390, "height": 780}, color_scheme="dark", device_scale_factor=1
    )
    phone.goto(address)
    phone.fill("#sentences", "《活着》是作家余华创作的长篇小说，1993年由作家出版社出版。")
    phone.click("#start")
    phone.wait_for_selector("article .arc", timeout=600_000)
    phone.mouse.move(1, 1)
    hide_times(phone)
    phone.locator("article").first.evaluate("element => element.scrollIntoView({block: 'end'})")
    save(phone, folder / "page-phone.png")
    phone.close()


def run_of(adapter: Path) -> str:
    """Return the name of the run that an adapter comes from."""
    return adapter.resolve().parent.name


def photograph_run(browser: Any, address: str, folder: Path) -> None:
    """Take the picture of a run's curves, with the figures that it recorded itself."""
    page = browser.new_page(locale="zh-CN", viewport={"width": 1180, "height": 700})
    page.goto(address)
    page.wait_for_selector(".curve .chart")
    page.wait_for_selector("#memory-plan")
    save(page, folder / "page-run.png")
    page.close()


def hide_times(page: Any) -> None:
    """Take away what the machine's speed decides: figures of speed have their own page."""
    page.evaluate(
        """() => {
            for (const each of document.querySelectorAll("#note, .sentence-head .seconds"))
                each.hidden = true;
        }"""
    )


def photograph_report(browser: Any, address: str, folder: Path) -> None:
    """Take the pictures of the report."""
    page = browser.new_page(locale="zh-CN", viewport={"width": 1180, "height": 860})
    page.goto(address)
    page.wait_for_selector(".chart")
    save(page, folder / "report-scores.png")
    page.click("#view-all")
    page.select_option("#kind", "wrong")
    page.wait_for_selector("article .arc.missing")
    save(page, folder / "report.png")
    page.close()


def save(target: Any, path: Path) -> None:
    """Take a picture.

    Raises:
        UserError: it is too large for the repository.
    """
    target.screenshot(path=path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"{path} 有 {size} 字节，上限是 {MAX_BYTES}。")
    log(f"{path}（{size / 1000:.0f} KB）")


if __name__ == "__main__":
    run_main(main)

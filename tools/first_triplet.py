"""How long it takes from `git clone` to the first triplet in a browser: `python -m tools.first_triplet`.

Does what the README says, in a folder of its own: clone, `make demo`, the service's packages, `python
serve.py`; then a real Chromium (tools/browser.py) types a sentence and waits for its arc.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.browser import HOW_TO_GET, find_browser, open_browser
from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, run_main
from utils.table import format_table

ROOT = Path(__file__).resolve().parent.parent
SENTENCE = "《活着》是作家余华创作的长篇小说，1993年由作家出版社出版。"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the steps and print how long each took.

    Args:
        arguments: the command line without the program's name; `sys.argv` if None.

    Raises:
        UserError: there is no browser, or a step failed.
    """
    parser = ChineseArgumentParser(
        prog="python -m tools.first_triplet", description="量从 git clone 到浏览器里第一个三元组的时间。"
    )
    parser.add_argument("--repository", default=str(ROOT), help="克隆哪里（默认是这个目录）")
    options = parser.parse_args(arguments)
    if find_browser() is None:
        raise UserError(f"{HOW_TO_GET}。")
    rows: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        python = clone / ".venv" / "bin" / "python"

        def timed(step: str, action: Callable[[], object]) -> None:
            began = time.perf_counter()
            action()
            rows.append((step, f"{time.perf_counter() - began:.1f}"))

        def run(*words: str | Path, cwd: Path = clone) -> None:
            if code := subprocess.run(words, cwd=cwd).returncode:
                raise UserError(f"{' '.join(map(str, words))} 没有成功（退出码 {code}），原因见上。")

        timed("git clone", lambda: run("git", "clone", "--quiet", options.repository, clone, cwd=ROOT))
        timed("make demo", lambda: run("make", "demo"))
        packages = ("-m", "pip", "install", "--quiet", "-r", "requirements-serve.txt")
        timed("pip install -r requirements-serve.txt", lambda: run(python, *packages))
        port = free_port()
        adapter = ("--adapter", "output/demo/model_best", "--port", str(port))
        service = subprocess.Popen([python, "serve.py", *adapter], cwd=clone)
        try:
            timed("python serve.py", lambda: wait_until_ready(service, f"http://127.0.0.1:{port}/health"))
            timed("浏览器里的三元组", lambda: look(f"http://127.0.0.1:{port}"))
        finally:
            service.terminate()
            service.wait()
    rows.append(("合计", f"{sum(float(seconds) for _, seconds in rows):.1f}"))
    print(format_table(("步骤", "秒"), rows))
    return 0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(service: subprocess.Popen[bytes], address: str) -> None:
    """Wait until the service answers that it is ready.

    Raises:
        UserError: it has ended.
    """
    while service.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.1)
    raise UserError("服务没有启动，原因见上。")


def look(address: str) -> None:
    """Type a sentence into the page as a person does, and wait for its first arc."""
    with open_browser() as browser:
        page = browser.new_page(locale="zh-CN")
        page.goto(address)
        page.fill("#sentences", SENTENCE)
        page.click("#start")
        page.wait_for_selector("article .arc", timeout=300_000)


if __name__ == "__main__":
    os.environ.pop("VIRTUAL_ENV", None)
    run_main(main)

"""A real Chromium, driven by Playwright, that reaches nothing but the addresses of a test."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox: tests run as root, and look at their own pages only. Nothing goes out by itself.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps"),
)
HOW_TO_GET = "没有浏览器：apt-get install chromium fonts-noto-cjk（或用 CHROMIUM 指定），再 make test 就会跑"


def find_browser() -> str | None:
    """Return the browser's program, by the variable CHROMIUM or by its usual names; None if there is none."""
    if (named := os.environ.get("CHROMIUM")) is not None:
        return named or None
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def axe_source() -> str:
    """Return the script of axe-core, which finds faults of accessibility; a package of the tests has it."""
    spec = find_spec("axe_playwright_python")
    assert spec is not None and spec.submodule_search_locations is not None
    return (Path(next(iter(spec.submodule_search_locations))) / "axe.min.js").read_text("utf-8")


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Start the browser, with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watch:
    """What a page said and asked for while a test ran."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()  # parts of complaints that the test provokes

    def on(self, page: Any) -> None:
        """Listen to a page."""
        page.on("console", lambda said: self._hear(said.type, said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def check(self, *addresses: str) -> None:
        """Make sure that nothing was wrong, and nothing else was asked for than what begins so."""
        left = [each for each in self.complaints if not any(part in each for part in self.expected)]
        assert left == []
        assert [url for url in self.requests if not url.startswith(addresses)] == []


def wait_until(page: Any, condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition (the browser's own waiting evaluates text, which the page's policy forbids)."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        page.wait_for_timeout(30)


def find_faults(page: Any) -> list[str]:
    """Return what axe-core finds serious about a page's accessibility."""
    if not page.evaluate("() => Boolean(window.axe)"):
        page.evaluate(axe_source())
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['nodes'][0]['html']} {each['nodes'][0].get('failureSummary', '')}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]

"""A real Chromium, driven by Playwright: for tests of the page, and for its pictures."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
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


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Start the browser, with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield browser
        browser.close()

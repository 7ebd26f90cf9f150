"""What a page says and asks for in a test, and what is wrong with its accessibility."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def axe_source() -> str:
    """Return the script of axe-core, which finds faults of accessibility; a package of the tests has it."""
    spec = find_spec("axe_playwright_python")
    assert spec is not None and spec.submodule_search_locations is not None
    return (Path(next(iter(spec.submodule_search_locations))) / "axe.min.js").read_text("utf-8")


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

"""One browser for all of these tests, a fresh context for each; without one, they are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import Watch
from tests.helpers.page_server import PageServer, serve_page
from tools.browser import HOW_TO_GET, find_browser, open_browser


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave one test, which is skipped, to say what is missing."""
    if find_spec("playwright") is None:
        reason = "没有 playwright：pip install -r requirements-dev.txt"
    elif find_browser() is None:
        reason = HOW_TO_GET
    else:
        return
    here = Path(__file__).parent
    first, *others = [item for item in items if here in item.path.parents] or [None]
    if first is not None:
        first.add_marker(pytest.mark.skip(reason=reason))
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


# Closed with the last of these tests: until then an event loop is running in this thread.
@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def open_page(browser: Any, watch: Watch) -> Iterator[Callable[..., Any]]:
    """A function that opens an address; options are those of a browser context."""
    contexts = []

    def open_address(address: str, **options: Any) -> Any:
        options = {"locale": "zh-CN", "viewport": {"width": 1200, "height": 900}, **options}
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)  # of a machine that does other things, too
        contexts.append(context)
        page = context.new_page()
        watch.on(page)
        page.goto(address)
        return page

    yield open_address
    for context in contexts:
        context.close()


@pytest.fixture
def server(watch: Watch) -> Iterator[PageServer]:
    with serve_page() as served:
        yield served
        watch.check(served.address, "blob:", "data:")

"""The page of the real service, with a real model behind it: all three start and end together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from extraction.loading import load_extractor
from serving.limits import Limits
from serving.metrics import Metrics
from tests.helpers.browser import Watch, find_faults, wait_until
from tests.helpers.extraction_samples import FILM, RAIN, TinyRun
from tests.helpers.service import make_engine, running


def test_what_the_model_finds_is_drawn(
    tiny_run: TinyRun, open_page: Callable[..., Any], watch: Watch
) -> None:
    limits, metrics = Limits(), Metrics()
    engine = make_engine([("tiny", load_extractor(tiny_run.adapter))], limits, metrics, 8)
    with running(engine, limits, metrics) as service:
        page = open_page(service.url)
        page.fill("#sentences", f"{FILM}\n{RAIN}\n{'长' * 200}")
        page.click("#start")
        page.wait_for_selector("#note.good")
        page.wait_for_selector("#sentence-1 .arc")
        wait_until(
            page,
            lambda: page.locator("#sentence-1 .arc text").all_text_contents() == ["导演", "主演", "主演"],
        )
        wait_until(page, lambda: page.locator("#sentence-1 .fact .score").count() == 3)
        wait_until(page, lambda: "没有三元组" in page.inner_text("#sentence-2"))
        page.click("summary")
        wait_until(
            page, lambda: page.locator("#wanted button").all_text_contents() == ["主演", "作者", "导演"]
        )
        page.click("#wanted button >> text=导演")
        page.click("#start")
        page.wait_for_selector("#sentence-1 .arc")
        page.wait_for_selector("#note.good")
        arcs = page.locator("#sentence-1 .arc text")
        wait_until(page, lambda: set(arcs.all_text_contents()) == {"导演"})
        assert find_faults(page) == []
        watch.check(service.url)

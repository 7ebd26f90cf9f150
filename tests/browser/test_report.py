"""The report in a browser, opened from the disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from export import report
from tests.helpers.browser import Watch, find_faults, wait_until

OpenPage = Callable[..., Any]


def fact(predicate: str, object_: str, **more: Any) -> dict[str, Any]:
    types = {"object_type": "人物", "subject_type": "图书作品"}
    return {"predicate": predicate, **types, "object": object_, "subject": "活着", **more}


def write(tmp_path: Path, *records: dict[str, Any]) -> str:
    source, page = tmp_path / "results.jsonl", tmp_path / "report.html"
    lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in records)
    source.write_text("".join(lines), "utf-8")
    assert report.main([str(source), "-o", str(page)]) == 0
    return page.as_uri()


@pytest.fixture
def judged(tmp_path: Path, watch: Watch) -> Iterator[str]:
    text = "《活着》由余华写成，莫言作序。"
    yield write(
        tmp_path,
        {
            "text": text,
            "triplets": [fact("作者", "余华", score=0.95), fact("导演", "莫言", score=0.4)],
            "gold": [fact("作者", "余华"), fact("作序", "莫言")],
        },
        {
            "text": "《活着》是余华的书。",
            "triplets": [fact("作者", "余华", score=0.8)],
            "gold": [fact("作者", "余华")],
        },
        {"text": "坏", "triplets": [], "error": "生成失败：时间到", "gold": []},
    )
    watch.check("file:", "blob:", "data:")


def test_scores_and_mistakes(judged: str, open_page: OpenPage) -> None:
    page = open_page(judged)
    page.wait_for_selector(".figures")
    wait_until(page, lambda: page.inner_text(".figures .figure >> nth=0").startswith("0.667"))
    wait_until(page, lambda: "来自 results.jsonl" in page.inner_text("#about"))
    rows = page.locator(".card", has_text="逐关系").locator("tbody tr")
    assert rows.first.inner_text().split()[:4] == ["作者", "2", "2", "2"]
    wait_until(
        page,
        lambda: (
            page.locator("svg.chart[role=img]").get_attribute("aria-label").startswith("可靠性图：3 个三元组")
        ),
    )
    page.locator(".heat td.wrong button").first.click()  # a confusion leads to its sentences
    page.wait_for_selector("#sentence-1 .arc")
    wait_until(page, lambda: page.locator("article").count() == 1)
    wait_until(page, lambda: page.locator("#sentence-1 .arc.spurious text").text_content() == "导演")
    wait_until(page, lambda: page.locator("#sentence-1 .arc.missing text").text_content() == "作序")
    wait_until(page, lambda: page.locator("#sentence-1 .fact.spurious").inner_text().startswith("✗ 多出"))
    page.click(".chip[data-name='*']")
    page.select_option("#kind", "right")
    page.wait_for_selector("#sentence-2")
    page.select_option("#kind", "all")
    wait_until(page, lambda: "精确率 0.667，召回率 0.667，F1 0.667" in page.inner_text(".counts"))
    page.locator("#min-score").fill("0.5")  # the invented one is gone, and what it hid is still missed
    page.wait_for_selector("#sentence-1 .arc.spurious", state="detached")
    wait_until(page, lambda: page.locator("#sentence-1 .arc.missing").count() == 1)
    wait_until(page, lambda: "精确率 1.000，召回率 0.667，F1 0.800" in page.inner_text(".counts"))
    page.locator("#min-score").fill("0.97")  # what was right is missed now
    page.wait_for_selector("#sentence-2 .arc.missing")
    page.click("#view-table")
    wait_until(page, lambda: page.locator("td.col_status").all_text_contents() == ["漏掉"] * 3)


def test_without_labels(tmp_path: Path, open_page: OpenPage, watch: Watch) -> None:
    hostile = "</script><script>alert(1)</script><!-- <script>《活着》😀余华"
    span = {"object_span": [hostile.index("余华"), len(hostile)]}
    page = open_page(write(tmp_path, {"text": hostile, "triplets": [fact("作者", "余华", **span)]}))
    page.wait_for_selector("#sentence-1 .arc")
    wait_until(page, lambda: page.locator("#sentence-1 .mention").all_text_contents() == ["活着", "余华"])
    wait_until(page, lambda: page.locator("#view-scores").count() == 0)
    for view in ("table", "graph", "json", "sentences"):
        page.click(f"#view-{view}")
        wait_until(page, lambda: page.locator(".col_status").first.is_hidden())
    with page.expect_download() as download:
        page.click("#download-lines")
    assert json.loads(Path(download.value.path()).read_text("utf-8"))["text"] == hostile
    watch.check("file:", "blob:", "data:")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(judged: str, open_page: OpenPage, scheme: str) -> None:
    page = open_page(judged, color_scheme=scheme)
    page.wait_for_selector(".figures")
    assert find_faults(page) == []
    page.click("#view-all")
    page.wait_for_selector("#sentence-1 .arc")
    assert find_faults(page) == []


def test_phone_and_english(judged: str, open_page: OpenPage) -> None:
    page = open_page(judged, viewport={"width": 360, "height": 700}, locale="en-GB")
    page.wait_for_selector(".figures")
    wait_until(page, lambda: page.inner_text("h1") == "Extraction report")
    wait_until(page, lambda: page.evaluate("document.documentElement.scrollWidth") <= 360)
    page.click("#view-all")
    page.wait_for_selector("#sentence-1 .arc")
    wait_until(page, lambda: page.evaluate("document.documentElement.scrollWidth") <= 360)
    page.click("#language")
    wait_until(page, lambda: page.inner_text("h1") == "抽取报告")


def test_ten_thousand_sentences(tmp_path: Path, open_page: OpenPage, watch: Watch) -> None:
    records = [
        {
            "text": f"《活着》第{n}版由余华写成，" + "是一本很长的书，" * 8,
            "triplets": [fact("作者", "余华", score=0.9, subject_span=[1, 3]), fact("版次", f"第{n}版")],
            "gold": [fact("作者", "余华")],
        }
        for n in range(10_000)
    ]
    address = write(tmp_path, *records)
    assert (tmp_path / "report.html").stat().st_size < 20 * 2**20
    page = open_page(address)
    page.wait_for_selector(".figures")
    paint, ready = page.evaluate(
        """() => [performance.getEntriesByName("first-contentful-paint")[0].startTime,
                  performance.getEntriesByName("report-ready")[0].startTime]"""
    )
    assert paint < 2000, (paint, ready)
    page.click("#view-all")
    page.wait_for_selector("#sentence-1 .arc")
    page.fill(".search", "第7777版")
    page.wait_for_selector("#sentence-7778 .arc")
    watch.check("file:", "blob:", "data:")
    print(f"first paint {paint:.0f} ms, ready {ready:.0f} ms")

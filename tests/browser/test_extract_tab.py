"""The tab for extraction, with every control used."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import Watch, find_faults, wait_until
from tests.helpers.page_server import PageServer

NOVEL = "《活着》作者：余华，出版社：作家出版社。"
FILM = "《红高粱》导演：张艺谋，作者：莫言。"
RAIN = "今天下午的雨下得很大。"
OpenPage = Callable[..., Any]


def extract(page: Any, *sentences: str) -> None:
    page.fill("#sentences", "\n".join(sentences))
    page.click("#start")
    page.wait_for_selector("#note.good")


def labels(page: Any, number: int = 1) -> list[str]:
    return page.locator(f"#sentence-{number} .arc text").all_text_contents()


def save(page: Any, button: str) -> str:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_text("utf-8")


def test_sentences_become_arcs(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address)
    extract(page, NOVEL, "", f"  {RAIN}  ", "坏句子")
    assert server.requests == [
        {"texts": [NOVEL, RAIN, "坏句子"], "stream": True, "scores": True, "spans": True, "model": "demo"}
    ]
    page.wait_for_selector("#sentence-1 svg")
    wait_until(page, lambda: labels(page) == ["作者", "出版社"])
    mentions = page.locator("#sentence-1 .mention").all_text_contents()
    assert mentions == ["活着", "余华", "作家出版社"]
    wait_until(page, lambda: "没有三元组" in page.inner_text("#sentence-2"))
    wait_until(page, lambda: "不是可用的三元组 JSON" in page.inner_text("#sentence-3 .note.bad"))
    assert page.locator("#sentence-3 pre").text_content() == "<b>[{</b>"
    wait_until(page, lambda: page.inner_text(".counts").split("\n") == ["3 句", "2 个三元组", "1 句没有结果"])
    wait_until(page, lambda: "3 句，用时" in page.inner_text("#note"))
    # What is drawn stands over what it means.
    mention = page.locator("#sentence-1 .mention").nth(1).bounding_box()
    head = page.locator("#sentence-1 .arc .head").first.bounding_box()
    assert abs(head["x"] + head["width"] / 2 - mention["x"] - mention["width"] / 2) < 2
    assert 0 <= mention["y"] - head["y"] - head["height"] < 3


def test_offsets_are_code_points(server: PageServer, open_page: OpenPage) -> None:
    """Emoji, characters beyond the first plane, combining marks, a family of one glyph, flags."""
    page = open_page(server.address)
    rare = "😀👨‍👩‍👧🇨🇳《𠮷野家𪚥é》作者：𠀀𠀁，出版社：😀社𠮷。"
    extract(page, rare, NOVEL)
    wait_until(
        page,
        lambda: page.locator("#sentence-1 .mention").all_text_contents() == ["𠮷野家𪚥é", "𠀀𠀁", "😀社𠮷"],
    )
    assert (
        page.locator("#sentence-1 .sentence").evaluate(
            "element => [...element.querySelectorAll('.line')].map((line) => line.textContent).join('')"
        )
        == rare
    )


def test_filters(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address)
    extract(page, NOVEL, FILM, RAIN, "坏")
    cards = page.locator("article")
    page.select_option("#kind", "with")
    wait_until(page, lambda: page.locator("article").count() == 2)
    page.select_option("#kind", "without")
    wait_until(page, lambda: page.locator("article").count() == 1)
    assert RAIN in cards.first.inner_text()
    page.select_option("#kind", "failed")
    page.wait_for_selector("article .note.bad")
    page.select_option("#kind", "all")
    page.keyboard.press("Tab")
    page.locator("h1").click()
    page.keyboard.press("/")  # the search has the focus
    page.keyboard.type("ＺＨＡＮＧ")
    page.wait_for_selector("text=没有符合条件的句子")
    page.fill(".search", "张艺谋")
    wait_until(page, lambda: page.locator("article").count() == 1)
    page.fill(".search", "")
    page.click(".chip[data-name='p:作者']")
    wait_until(page, lambda: page.locator("article").count() == 2)
    wait_until(page, lambda: labels(page, 1) == ["作者"])
    page.click(".chip[data-name='*']")
    wait_until(page, lambda: page.locator("article").count() == 4)
    page.locator("#min-score").fill("0.7")
    wait_until(page, lambda: page.locator("#sentence-1 .arc").count() == 1)
    wait_until(page, lambda: "2 个三元组" in page.inner_text(".counts"))
    page.locator("#min-score").fill("0")
    page.get_by_text("略去它们").click()  # the model's own level
    wait_until(page, lambda: page.input_value("#min-score") == "0.3")


def test_table_and_files(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address, permissions=["clipboard-read", "clipboard-write"])
    extract(page, '《=1+1》作者：@evil，导演：说"好"', FILM)
    page.click("#view-table")
    column = page.locator("tbody tr td.col_object")
    assert column.all_text_contents() == ["@evil", '说"好"', "张艺谋", "莫言"]
    page.get_by_role("button", name="置信度").click()  # numbers fall at first
    wait_until(page, lambda: page.locator("th[aria-sort=descending]").inner_text().startswith("置信度"))
    assert column.all_text_contents() == ["@evil", "张艺谋", '说"好"', "莫言"]
    page.get_by_role("button", name="置信度").click()
    wait_until(
        page,
        lambda: page.locator("tbody td.col_score").all_text_contents() == ["0.65", "0.65", "0.90", "0.90"],
    )
    content = save(page, "#download-csv")
    assert content.startswith("\ufeff")
    rows = list(csv.reader(io.StringIO(content[1:])))
    assert rows[0][:3] == ["句", "主语", "主语类型"] and len(rows) == 5
    assert rows[1][1:7] == ["'=1+1", "图书作品", "作者", "'@evil", "人物", "0.9"]
    lines = [json.loads(line) for line in save(page, "#download-lines").splitlines()]
    assert [line["text"] for line in lines] == [json.loads(json.dumps(lines[0]["text"])), FILM]
    assert lines[1]["triplets"][0] == {
        "predicate": "导演", "object_type": "人物", "subject_type": "影视作品", "object": "张艺谋",
        "subject": "红高粱", "score": 0.9, "object_span": [8, 11], "subject_span": [1, 4],
    }  # fmt: skip
    page.click("#copy")
    page.wait_for_selector("text=已复制")
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied.splitlines()[1].split("\t")[1:4] == ["'=1+1", "图书作品", "作者"]
    page.locator("tbody .button-link").last.click()  # back to its sentence
    page.wait_for_selector("#sentence-2:focus")
    page.click("#view-json")
    wait_until(page, lambda: '"object": "张艺谋"' in page.inner_text("pre.json"))


def test_graph(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address)
    extract(page, NOVEL, FILM, "《活着》导演：张艺谋")
    page.click("#view-graph")
    page.wait_for_selector(".node")
    # An entity is a name and a type: the novel and the film are two.
    wait_until(page, lambda: page.locator(".node").count() == 8)
    node = page.get_by_role("button", name="张艺谋（人物），2 条联系")
    node.focus()
    page.keyboard.press("Enter")
    details = page.locator(".graph-details .row")
    assert details.count() == 2
    wait_until(page, lambda: page.locator(".node.on").count() == 3)
    before = node.bounding_box()
    page.mouse.move(before["x"] + before["width"] / 2, before["y"] + 8)
    page.mouse.down()
    page.mouse.move(before["x"] + 60, before["y"] + 50, steps=3)
    page.mouse.up()
    after = node.bounding_box()
    assert abs(after["x"] - before["x"]) + abs(after["y"] - before["y"]) > 20
    size = page.locator(".graph svg").get_attribute("viewBox")
    page.click("[data-label=zoom_in]")
    wait_until(page, lambda: page.locator(".graph svg").get_attribute("viewBox") != size)
    page.locator(".graph svg").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    wait_until(page, lambda: page.locator(".node.on").count() == 0)
    page.click("[data-label=zoom_fit]")
    page.locator(".edge text").filter(has_text="出版社").click()
    page.get_by_role("button", name="看第 1 句").click()
    page.wait_for_selector("#sentence-1:focus")


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", f"{NOVEL}\r\n\r\n{FILM}\n".encode("gb18030"), [NOVEL, FILM]),
        ("a.jsonl", f'\ufeff{{"content": "{NOVEL}"}}\n{{"x": 1}}\nnot\n'.encode(), [NOVEL]),
        ("a.csv", f'编号,句子\n1,"{NOVEL}"\n2,"{NOVEL}"\n3,"一""二\n三"\n'.encode(), [NOVEL, '一"二\n三']),
        ("a.json", json.dumps([NOVEL, {"text": FILM}]).encode("utf-16"), [NOVEL, FILM]),
        (
            "train.jsonl",
            json.dumps({"context": f"Instruction: a\nInput: b\n\n{NOVEL}\nAnswer: ", "target": ""}).encode(),
            [NOVEL],
        ),
    ],
)
def test_files(server: PageServer, open_page: OpenPage, name: str, content: bytes, texts: list[str]) -> None:
    page = open_page(server.address)
    page.set_input_files("#file", {"name": name, "mimeType": "text/plain", "buffer": content})
    page.wait_for_selector("#note.good")
    assert server.requests[0]["texts"] == texts
    wait_until(page, lambda: page.locator("article").count() == len(texts))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"  \n", "文件是空的"),
        ("a.xlsx", b"PK\x03\x04\x00\x00", "不是文本文件"),
        ("a.csv", "甲,乙\n1,2\n".encode(), "要有 text、sentence、content、句子"),
    ],
)
def test_files_that_can_not_be_read(
    server: PageServer, open_page: OpenPage, name: str, content: bytes, said: str
) -> None:
    page = open_page(server.address)
    page.set_input_files("#file", {"name": name, "mimeType": "text/plain", "buffer": content})
    page.wait_for_selector("#note.bad")
    wait_until(page, lambda: said in page.inner_text("#note") and server.requests == [])


def test_a_file_that_is_dropped_and_results_are_shown(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address)
    triplets = [{"predicate": "作者", "subject": "活着", "object": "余华"}, {"predicate": 3}]
    lines = json.dumps({"text": NOVEL, "triplets": triplets}) + "\n"
    page.evaluate(
        """content => {
            const data = new DataTransfer();
            data.items.add(new File([content], "results.jsonl"));
            const drop = document.querySelector(".drop");
            for (const kind of ["dragover", "drop"])
                drop.dispatchEvent(
                    new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        lines,
    )
    page.wait_for_selector("#sentence-1 .arc")
    wait_until(page, lambda: "1 句抽取过的结果" in page.inner_text("#note") and server.requests == [])
    wait_until(page, lambda: page.locator(".score-row").is_hidden())  # there are none


def test_choices_of_the_model(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address)
    page.select_option("#model", "other")
    wait_until(page, lambda: page.locator("#wanted button").count() == 1)
    page.select_option("#model", "demo")
    page.click("summary")
    page.click("#wanted button:has-text('出版社')")
    extract(page, NOVEL)
    assert server.requests[0]["predicates"] == ["出版社"] and server.requests[0]["model"] == "demo"
    wait_until(page, lambda: labels(page) == ["出版社"])
    page.get_by_role("button", name="《活着》").click()
    wait_until(page, lambda: page.input_value("#sentences").startswith("《活着》是作家余华"))
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#sentence-1:has-text('作家余华')")


def test_a_key_is_asked_for(server: PageServer, open_page: OpenPage, watch: Watch) -> None:
    watch.expected = ("401",)
    server.api_key = "right"
    page = open_page(server.address)
    page.wait_for_selector("#key:focus")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=密钥不对。")
    page.fill("#key", "right")
    page.click("text=使用")
    page.wait_for_selector("#key", state="hidden")
    extract(page, NOVEL)
    wait_until(page, lambda: labels(page) == ["作者", "出版社"])
    wait_until(page, lambda: page.evaluate("() => localStorage.getItem('key')") is None)


def test_a_full_service_is_asked_again(server: PageServer, open_page: OpenPage, watch: Watch) -> None:
    watch.expected = ("429", "500")
    server.refusals = [(429, "排队的太多", {"Retry-After": "1"})]
    page = open_page(server.address)
    page.fill("#sentences", NOVEL)
    page.click("#start")
    page.wait_for_selector("text=服务正忙，1 秒后再试。")
    page.wait_for_selector("#note.good")
    server.refusals = [(500, "出了错", {})]
    page.click("#start")
    page.wait_for_selector("#note.bad")
    wait_until(page, lambda: page.inner_text("#note") == "服务拒绝了请求（500）：出了错 已完成 0 / 1 句。")
    page.click("#go-on")
    page.wait_for_selector("#note.good")


def test_stop_and_go_on(server: PageServer, open_page: OpenPage) -> None:
    server.delay = 0.05
    page = open_page(server.address)
    sentences = [f"《书{number}》作者：甲{number}" for number in range(70)]
    page.fill("#sentences", "\n".join(sentences))
    page.click("#start")
    wait_until(page, lambda: page.evaluate("document.querySelector('progress').value > 0.05"))
    page.click("#stop")
    page.wait_for_selector("#note.warn")
    wait_until(page, lambda: "已停止，完成" in page.inner_text("#note"))
    server.delay = 0
    page.click("#go-on")
    page.wait_for_selector("#note.good")
    wait_until(page, lambda: page.inner_text(".counts").split("\n")[:2] == ["70 句", "70 个三元组"])


def test_a_connection_that_breaks_off(server: PageServer, open_page: OpenPage, watch: Watch) -> None:
    server.break_after = 1
    page = open_page(server.address)
    page.fill("#sentences", f"{NOVEL}\n{FILM}\n{RAIN}")
    page.click("#start")
    page.wait_for_selector("#note.bad")
    wait_until(page, lambda: "已完成 1 / 3 句" in page.inner_text("#note"))
    server.break_after = None
    page.click("text=继续其余 2 句")
    page.wait_for_selector("#note.good")
    wait_until(page, lambda: page.locator("article").count() == 3)


def test_no_input(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address)
    page.click("#start")
    wait_until(page, lambda: page.inner_text("#note") == "请先写一个句子。")


def test_text_is_never_markup(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address)
    hostile = "《<img src=x onerror=alert(1)>》作者：<script>alert(2)</script>\u202e，导演：</style>"
    extract(page, hostile)
    for view in ("sentences", "table", "graph", "json"):
        page.click(f"#view-{view}")
        page.wait_for_timeout(100)
    wait_until(page, lambda: page.locator("main img, main script, main style").count() == 0)


def test_ten_thousand_sentences_stay_usable(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address)
    lines = [
        {"text": f"《书{n}》作者：甲{n % 700}，出版社：乙{n % 90}社。", "triplets": [
            {"predicate": p, "subject": f"书{n}", "object": o, "subject_type": "图书作品", "object_type": "x"}
            for p, o in (("作者", f"甲{n % 700}"), ("出版社", f"乙{n % 90}社"))
        ]}
        for n in range(10_000)
    ]  # fmt: skip
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    page.set_input_files("#file", {"name": "r.jsonl", "mimeType": "text/plain", "buffer": content})
    page.wait_for_selector("#sentence-1 .arc")
    wait_until(page, lambda: page.locator("article").count() == 20)
    took = page.evaluate(
        """async () => {
            const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            const start = performance.now();
            const search = document.querySelector(".search");
            search.value = "书9999";
            search.dispatchEvent(new Event("input"));
            while (!document.querySelector("#sentence-10000 .arc")) await frame();
            return performance.now() - start;
        }"""
    )
    assert took < 3000, took  # 0.3 s when the machine is idle
    page.fill(".search", "")
    page.wait_for_selector("#sentence-1")
    page.get_by_role("spinbutton").fill("500")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sentence-9981")
    assert page.get_by_role("button", name="下一页").is_disabled()
    page.click("text=上一页")
    page.wait_for_selector("#sentence-9961")
    page.click("#view-table")
    page.wait_for_selector("tbody tr:nth-child(100)")
    page.click("#view-graph")
    page.wait_for_selector("text=只画了联系最多的 80 个实体")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(server: PageServer, open_page: OpenPage, scheme: str) -> None:
    page = open_page(server.address, color_scheme=scheme)
    assert find_faults(page) == []
    extract(page, NOVEL, FILM, RAIN, "坏")
    page.wait_for_selector("#sentence-1 .arc")
    for view in ("sentences", "table", "graph", "json"):
        page.click(f"#view-{view}")
        page.wait_for_timeout(150)
        assert find_faults(page) == [], view


def test_keyboard_alone(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address)
    page.keyboard.press("Tab")
    wait_until(page, lambda: page.evaluate("document.activeElement.className") == "skip")
    page.keyboard.press("Tab")
    wait_until(page, lambda: page.evaluate("document.activeElement.id") == "tab-extract")
    page.keyboard.press("ArrowRight")
    wait_until(page, page.locator("#extract").is_hidden)
    wait_until(page, lambda: page.evaluate("location.hash") == "#run")
    page.keyboard.press("ArrowLeft")
    wait_until(page, page.locator("#extract").is_visible)
    page.focus("#sentences")
    page.keyboard.insert_text(NOVEL)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#sentence-1 .arc")
    page.focus("#view-sentences")
    page.keyboard.press("ArrowRight")
    wait_until(page, page.locator("#panel-table").is_visible)
    page.keyboard.press("ArrowLeft")
    page.focus("#sentence-1 .fact")  # lights its arc
    wait_until(page, lambda: page.locator("#sentence-1 .arc.on").count() == 1)
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_phone(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address, viewport={"width": 360, "height": 700}, is_mobile=True, has_touch=True)
    extract(page, NOVEL + "很长的话" * 40 + "，作者：很远的人。")
    page.wait_for_selector("#sentence-1 .arc")
    for view in ("sentences", "table", "graph", "json"):
        page.click(f"#view-{view}")
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
    page.click("#view-sentences")
    arcs = page.locator("#sentence-1 .arc text").all_text_contents()
    assert arcs.count("作者") >= 3  # one on its line, one as two stubs
    before = page.locator("#sentence-1 .line").count()
    page.set_viewport_size({"width": 700, "height": 700})  # the phone is turned
    wait_until(page, lambda: page.locator("#sentence-1 .line").count() < before)


def test_language_and_light(server: PageServer, open_page: OpenPage) -> None:
    page = open_page(server.address, color_scheme="light")
    extract(page, NOVEL, RAIN)
    light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.click("#theme")
    wait_until(
        page, lambda: page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != light
    )
    page.click("#language")
    wait_until(
        page, lambda: page.inner_text("h1") == "Triplet extraction" and page.inner_text("#start") == "Extract"
    )
    page.wait_for_selector("text=no triplets")
    wait_until(page, lambda: page.evaluate("document.documentElement.lang") == "en")
    page.reload()
    wait_until(page, lambda: page.inner_text("h1") == "Triplet extraction")  # both are kept
    wait_until(
        page, lambda: page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != light
    )

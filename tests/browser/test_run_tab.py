"""The tab for runs: curves that grow, runs beside each other, the evaluation; training from the form."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="pip install -r requirements-serve.txt")

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from serving import pages, runs, training
from serving.errors import RequestError
from tests.helpers.browser import Watch, find_faults, wait_until
from tests.helpers.run_samples import TRAINER, write_report, write_run

OpenPage = Callable[..., Any]


@dataclass
class RunServer:
    """A service with runs, and without a model."""

    address: str
    root: Path


@pytest.fixture
def run_server(watch: Watch, tmp_path: Path) -> Iterator[RunServer]:
    root, data, script = tmp_path / "runs", tmp_path / "data", tmp_path / "train.py"
    script.write_text(TRAINER, "utf-8")
    data.mkdir()
    (data / "mine.jsonl").touch()
    store = runs.RunStore(root)
    trainer = training.Trainer(
        store,
        data,
        lambda config: [{"verdict": "通过", "item": "显存", "text": f"rank {config.lora_rank}"}],
        (sys.executable, str(script)),
    )
    app = FastAPI()
    for router in (runs.make_router(store, True), training.make_router(trainer), pages.make_router()):
        app.include_router(router)

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestError)
        return JSONResponse(error.body(), error.status_code)

    app.add_exception_handler(RequestError, refuse)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    served = RunServer(f"http://127.0.0.1:{listener.getsockname()[1]}", root)
    yield served
    if trainer._process is not None:
        trainer._process.kill()
        trainer._process.wait()
    server.should_exit = True
    thread.join(30)
    watch.check(served.address, "blob:", "data:")


def read_figure(page: Any, name: str) -> str:
    return page.locator(".figure", has=page.get_by_text(name, exact=True)).first.locator("b").inner_text()


def test_a_run_is_followed_while_it_trains(run_server: RunServer, open_page: OpenPage) -> None:
    path = write_run(run_server.root / "一", steps=5, total_steps=20)
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    page = open_page(f"{run_server.address}/#run")
    page.wait_for_selector("#curves .line", state="attached")
    assert read_figure(page, "步") == "5 / 20"
    wait_until(page, lambda: page.locator("#run-一 .state").inner_text() == "进行中")
    assert read_figure(page, "剩余") == "0:00:15"  # 15 steps of a second each
    with (path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "train", "step": 6, "loss": 0.25, "tokens_seen": 600}) + "\n{")
    wait_until(page, lambda: read_figure(page, "训练损失") == "0.2500")
    wait_until(page, lambda: "训练损失 0.250" in page.locator(".readout").first.inner_text())
    os.close(descriptor)
    wait_until(page, lambda: page.locator("#run-一 .state").inner_text() == "未完成")


def test_runs_beside_each_other(run_server: RunServer, open_page: OpenPage) -> None:
    write_run(
        run_server.root / "a", steps=4, plan={"parts": {"权重": 2**30, "激活值": 2**29}, "budget": 2**31}
    )
    time.sleep(0.01)
    write_run(run_server.root / "b", steps=8, loss=0.3)
    page = open_page(f"{run_server.address}/#run/a")
    page.wait_for_selector("#curves .line", state="attached")
    wait_until(page, lambda: page.locator("#run-a").get_attribute("aria-pressed") == "true")
    rows = page.locator(".compact").first.inner_text().split("\n")
    assert [row.split("\t") for row in rows if "计划的峰值" in row or "预算" in row] == [
        ["计划的峰值", "1.50 GB"], ["预算", "2.00 GB"],
    ]  # fmt: skip
    page.check("#compare-b")
    wait_until(page, lambda: page.locator("#curves figure").first.locator(".line").count() == 4)
    picture = page.locator("#curves svg").nth(1)
    picture.focus()
    page.keyboard.press("ArrowRight")
    readout = page.locator("#curves .readout").nth(1)
    assert readout.inner_text().startswith("步 4")
    page.keyboard.press("ArrowRight")
    assert "步 8" in readout.inner_text() and "b " in readout.inner_text()
    page.locator("#curves svg").first.hover()
    wait_until(page, lambda: page.locator("#curves .readout").first.inner_text().startswith("步 "))
    page.uncheck("#compare-b")
    wait_until(page, lambda: page.locator("#curves figure").first.locator(".line").count() == 2)
    page.click("#run-b")
    assert page.url.endswith("#run/b")


def test_the_evaluation(run_server: RunServer, open_page: OpenPage) -> None:
    write_report(write_run(run_server.root / "a", steps=4), errors=25)
    page = open_page(f"{run_server.address}/#run/a")
    page.wait_for_selector("#error-search")
    first = page.locator("article").first
    first.scroll_into_view_if_needed()
    first.locator(".arc").first.wait_for()
    assert "漏掉" in first.inner_text() and "多出" in first.inner_text()
    wait_until(page, lambda: page.locator("article").count() == 20)
    page.get_by_role("button", name="再看 5 句").click()
    wait_until(page, lambda: page.locator("article").count() == 25)
    page.fill("#error-search", "第7句")
    wait_until(page, lambda: page.locator("article").count() == 1)
    page.click(".predicates .button-link")
    wait_until(page, lambda: page.locator("article").count() == 20)
    wait_until(page, lambda: page.locator("svg[aria-label^='可靠性图']").count() == 1)


@pytest.mark.parametrize(
    "options",
    [{}, {"color_scheme": "dark", "locale": "en-US"}, {"viewport": {"width": 360, "height": 700}}],
    ids=["light", "dark", "phone"],
)
def test_light_dark_and_phone(run_server: RunServer, open_page: OpenPage, options: dict[str, Any]) -> None:
    write_report(
        write_run(run_server.root / "a", steps=4, plan={"parts": {"权重": 1 << 30}, "budget": 2 << 30}), 3
    )
    page = open_page(f"{run_server.address}/#run", **options)
    page.wait_for_selector("#error-search")
    page.click("#new-training")
    page.wait_for_selector("#training-form")
    for summary in page.locator("#training-form summary").all()[1:]:
        summary.click()
    assert find_faults(page) == []
    wait_until(page, lambda: page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0)
    english = "locale" in options
    wait_until(
        page, lambda: page.locator("#curves figcaption").first.inner_text() == ("Loss" if english else "损失")
    )
    page.click("#language")
    wait_until(
        page, lambda: page.locator("#curves figcaption").first.inner_text() == ("损失" if english else "Loss")
    )


def test_training_from_the_form(run_server: RunServer, open_page: OpenPage, watch: Watch) -> None:
    watch.expected = ("422", "409")  # the browser's own lines about refusals
    page = open_page(f"{run_server.address}/#run")
    page.click("#new-training")
    page.wait_for_selector("#training-form")
    for summary in page.locator("#training-form summary").all()[1:]:
        summary.click()
    page.fill("#run-name", "../x")
    page.click("#training-form [type=submit]")
    wait_until(page, lambda: "名字只能有" in page.inner_text("#training-note"))
    page.fill("#run-name", "新的")
    page.fill("#knob-lora_rank", "none")
    page.click("text=看显存计划")
    wait_until(page, lambda: "lora_rank 应当是" in page.inner_text("#training-note"))
    page.fill("#knob-lora_rank", "16")
    page.select_option("#knob-train_path", "mine.jsonl")
    page.uncheck("#knob-fp16")
    page.click("text=看显存计划")
    wait_until(page, lambda: "rank 16" in page.inner_text("#training-plan"))
    assert not run_server.root.exists()
    page.click("#training-form [type=submit]")
    page.wait_for_selector("#stop-training")
    words = json.loads((run_server.root / "新的" / ".training_run.json").read_text("utf-8"))["words"]
    assert (words["lora_rank"], words["fp16"], Path(words["train_path"]).name) == (
        "16",
        "false",
        "mine.jsonl",
    )
    page.click("#log summary")
    wait_until(page, lambda: "训练中" in page.inner_text("#log pre"))
    page.focus("#stop-training")
    page.keyboard.press("Enter")
    page.wait_for_selector("#resume-training")
    page.click("#resume-training")
    page.wait_for_selector("#stop-training")

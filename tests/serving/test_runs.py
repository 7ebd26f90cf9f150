"""Runs read through the service: what is one and what is not, half lines, links, pipes; training
that is started, stopped and resumed from the page."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="pip install -r requirements-serve.txt")

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from glm_config import ProjectConfig
from serving import runs, training
from serving.errors import RequestError
from serving.runs import RunStore
from serving.training import Trainer, Wish
from tests.helpers.run_samples import TRAINER, write_run

REPORT = {
    "dev_loss": 0.4,
    "triplets": {
        "sentences": 2,
        "per_predicate": {"作者": {}},
        "errors": [{"sentence": f"第{n}句", "missing": [], "spurious": []} for n in range(30)],
    },
    "reliability": None,
}


class Client:
    """Asks an application in this process."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def __call__(
        self, path: str, body: Any = None, kind: str = "application/json", method: str | None = None
    ) -> tuple[int, Any]:
        content = json.dumps(body).encode() if body is not None else b""
        where, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method or ("GET" if body is None else "POST"), "path": where,
            "raw_path": where.encode(), "query_string": query.encode(), "http_version": "1.1",
            "headers": [(b"content-type", kind.encode())], "scheme": "http", "server": ("127.0.0.1", 80),
        }  # fmt: skip
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        with ThreadPoolExecutor(1) as pool:  # a browser's tests leave a loop running in this thread
            pool.submit(asyncio.run, self.app(scope, receive, send)).result()
        answer = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], json.loads(answer) if answer else None


def serve(*routers: Any) -> Client:
    app = FastAPI()
    for router in routers:
        app.include_router(router)

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestError)
        return JSONResponse(error.body(), error.status_code)

    app.add_exception_handler(RequestError, refuse)
    return Client(app)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def ask(store: RunStore) -> Client:
    return serve(runs.make_router(store))


def test_no_runs(store: RunStore, ask: Client) -> None:
    assert ask("/v1/runs") == (200, {"runs": [], "allow_training": False})  # not even a folder
    store.root.mkdir()
    (store.root / "token_cache").mkdir()
    (store.root / "file.txt").touch()
    assert ask("/v1/runs")[1]["runs"] == []
    assert ask("/v1/runs/token_cache")[0] == 404


def test_where_runs_stand(store: RunStore, ask: Client) -> None:
    write_run(store.root / "甲", total_steps=9, knobs={"epochs": 3})
    second = write_run(store.root / "b", finished=True)
    os.utime(second / "metrics.jsonl", (1, 1))
    first, other = ask("/v1/runs")[1]["runs"]
    assert (first["name"], first["step"], first["total_steps"], first["loss"], first["triplet_f1"]) == (
        "甲", 3, 9, 0.5, 0.7,
    )  # fmt: skip
    assert (first["running"], first["finished"], other["finished"]) == (False, False, True)
    assert ask("/v1/runs/甲")[1]["about"]["knobs"] == {"epochs": 3}


def test_a_run_that_trains_is_known_by_its_lock(store: RunStore, ask: Client) -> None:
    path = write_run(store.root / "a")
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert ask("/v1/runs/a")[1]["running"] is True
    os.close(descriptor)
    assert ask("/v1/runs/a")[1]["running"] is False


def test_records_are_read_on_from_where_the_last_answer_ended(store: RunStore, ask: Client) -> None:
    path = write_run(store.root / "a", steps=2) / "metrics.jsonl"
    whole = path.read_bytes()
    half = len(whole) - 5
    path.write_bytes(whole[:half])  # the last line is being written
    status, first = ask("/v1/runs/a/metrics")
    assert status == 200 and [(r["kind"], r["step"]) for r in first["records"]] == [
        ("train", 1),
        ("train", 2),
    ]
    path.write_bytes(whole)
    second = ask(f"/v1/runs/a/metrics?after={first['next']}")[1]
    assert (second["from"], [r["kind"] for r in second["records"]]) == (first["next"], ["eval"])
    assert ask(f"/v1/runs/a/metrics?after={second['next']}")[1]["records"] == []
    path.write_bytes(whole[:50])  # a resumed run has dropped records
    again = ask(f"/v1/runs/a/metrics?after={second['next']}")[1]
    assert (again["from"], again["records"], again["more"]) == (0, [], False)
    assert ask("/v1/runs/a/metrics?after=-1")[0] == 422


def test_what_is_no_record_is_passed_over(store: RunStore, ask: Client) -> None:
    path = write_run(store.root / "a", steps=1) / "metrics.jsonl"
    strange = [b"\xff\xfe", b"[1]", b"{", b'{"kind": "x", "step": 1}', b'{"kind": "train", "step": "1"}']
    strange += [b"[" * 100_000, b'{"kind": "train", "step": 7, "loss": NaN, "a": "<b>", "b": [1], "c": true}']
    path.write_bytes(path.read_bytes() + b"\n".join(strange) + b"\n")
    records = ask("/v1/runs/a/metrics")[1]["records"]
    assert [record["step"] for record in records] == [1, 1, 7]
    assert records[-1] == {"kind": "train", "step": 7}
    (path.parent / ".training_run.json").write_bytes(b"[" * 100_000)
    assert ask("/v1/runs/a")[1]["about"] == {}


@pytest.mark.parametrize(
    "name", ["..", ".", "%2e%2e", "a/../b", "%2e%2e%2fsecret", "/etc", "link", "a b", "x" * 300, "\0", "A"]
)
def test_names_are_no_paths(store: RunStore, ask: Client, name: str, tmp_path: Path) -> None:
    write_run(store.root / "a")
    secret = write_run(tmp_path / "secret")
    (store.root / "link").symlink_to(secret)
    for rest in ("", "/metrics", "/report"):
        assert ask(f"/v1/runs/{name}{rest}")[0] == 404
    assert [run["name"] for run in ask("/v1/runs")[1]["runs"]] == ["a"]


@pytest.mark.parametrize("make", ["link", "fifo", "directory", "device"])
def test_only_plain_files_are_read(store: RunStore, ask: Client, make: str, tmp_path: Path) -> None:
    path = write_run(store.root / "a")
    (tmp_path / "secret").write_text('{"kind": "train", "step": 99}\n{"finished": true, "triplets": {}}\n')
    for name in ("metrics.jsonl", "eval_report.json", ".training_run.json"):
        file = path / name
        file.unlink(missing_ok=True)
        if make == "link":
            file.symlink_to(tmp_path / "secret")
        elif make == "fifo":
            os.mkfifo(file)
        elif make == "directory":
            file.mkdir()
        else:
            file.symlink_to("/dev/zero")
    (path / "x").touch()
    start = time.monotonic()
    assert ask("/v1/runs")[1]["runs"] == []  # nothing of a run is left in it
    assert ask("/v1/runs/a/metrics")[0] == 404
    (path / ".training_run.json").unlink() if make != "directory" else (path / ".training_run.json").rmdir()
    (path / ".training_run.json").write_text("{}")
    assert ask("/v1/runs/a/metrics")[1]["records"] == []
    assert ask("/v1/runs/a/report")[0] == 404
    assert time.monotonic() - start < 5


def test_a_report_in_pages(store: RunStore, ask: Client) -> None:
    path = write_run(store.root / "a") / "eval_report.json"
    assert ask("/v1/runs/a/report")[0] == 404
    path.write_text(json.dumps(REPORT), "utf-8")
    report = ask("/v1/runs/a/report?start=10&count=5")[1]
    assert [error["sentence"] for error in report["errors"]] == [f"第{n}句" for n in range(10, 15)]
    assert (report["error_count"], "errors" in report["triplets"]) == (30, False)
    found = ask("/v1/runs/a/report?search=%E7%AC%AC2")[1]
    assert found["error_count"] == 11
    path.write_text("[]")
    assert ask("/v1/runs/a/report")[0] == 422
    assert ask("/v1/runs/a/report?count=9999")[0] == 422


# --- training


@pytest.fixture
def trainer(store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    monkeypatch.setenv("TRIPLET_API_KEY", "secret-secret")
    (script := tmp_path / "train.py").write_text(TRAINER, "utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jsonl").touch()
    (tmp_path / "data" / "notes.txt").touch()
    made = Trainer(
        store,
        tmp_path / "data",
        lambda config: [{"verdict": "通过", "item": "显存", "text": str(config.lora_rank)}],
        (sys.executable, str(script)),
    )
    yield made
    if made._process is not None:
        made._process.kill()
        made._process.wait()


@pytest.fixture
def post(store: RunStore, trainer: Trainer) -> Client:
    return serve(runs.make_router(store, True), training.make_router(trainer))


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_form_has_the_knobs(post: Client) -> None:
    form = post("/v1/training")[1]
    knobs = {knob["name"]: knob for section in form["sections"] for knob in section["knobs"]}
    hidden = {"save_dir", "overwrite_output_dir", "resume_from_checkpoint", "token_cache_dir"}
    assert knobs.keys() == ProjectConfig().to_dict().keys() - hidden
    assert knobs["learning_rate"]["value"] == 2e-4 and knobs["learning_rate"]["help"].startswith("学习率")
    assert knobs["best_metric"]["choices"] == ["triplet_f1", "dev_loss"]
    assert knobs["gradient_checkpointing"]["choices"] == ["auto", "true", "false"]
    assert "mine.jsonl" in knobs["train_path"]["choices"]
    assert not [choice for choice in knobs["train_path"]["choices"] if "/" in choice or "notes" in choice]
    assert form["busy"] is None
    # No knob that names a place is free text, and each has its words in English.
    places = {name for name in knobs if name.endswith(("_path", "_dir", "_file"))} | {
        "pre_model",
        "init_adapter",
    }
    assert all(knobs[name]["kind"] == "choice" for name in places) and len(places) >= 5
    words = (Path(training.__file__).parent / "page" / "knob_words.js").read_text("utf-8")
    assert [name for name in knobs if f"\n  {name}: " not in words] == []
    assert [section["title"] for section in form["sections"] if f'"{section["title"]}": ' not in words] == []


@pytest.mark.parametrize("folder", ["data", "mine", "other"])
def test_what_the_form_shows_is_what_is_trained_on(store: RunStore, tmp_path: Path, folder: str) -> None:
    data = training.PROJECT / "data" if folder == "data" else tmp_path / folder
    data.mkdir(exist_ok=True)
    if folder == "other":  # a file of one's own by the same name
        (data / "mixed_train_dataset.jsonl").touch()
    trainer = Trainer(store, data, lambda config: [])
    knobs = {knob["name"]: knob for section in trainer.form()["sections"] for knob in section["knobs"]}
    for name in ("train_path", "dev_path", "pre_model"):
        shown = knobs[name]["value"]
        assert shown in knobs[name]["choices"]
        assert trainer.choices()[name][shown] == getattr(ProjectConfig(), name)


def test_training_is_started_stopped_and_resumed(post: Client, store: RunStore, trainer: Trainer) -> None:
    wish = {
        "name": "我的-1",
        "knobs": {"train_path": "mine.jsonl", "epochs": 2, "fp16": False, "init_adapter": None},
    }
    assert post("/v1/training", wish) == (202, {"name": "我的-1"})
    wait_for(lambda: store.names() and post("/v1/runs/我的-1")[1]["running"])
    about = post("/v1/runs/我的-1")[1]["about"]
    assert about == {
        "words": {
            "save_dir": str(store.root / "我的-1"), "train_path": str(trainer.data / "mine.jsonl"),
            "epochs": "2", "fp16": "false",
        },
        "key": None,  # the service's key is not the training's to know
    }  # fmt: skip
    status, refusal = post("/v1/training", {"name": "b"})
    assert status == 409 and "一次只能有一个" in refusal["error"]["message"]
    assert post("/v1/training", wish)[0] == 409  # the name is taken
    assert post("/v1/runs/我的-1/resume", {})[0] == 409
    wait_for(lambda: "训练中" in post("/v1/runs/我的-1/log")[1]["text"])
    assert post("/v1/runs/我的-1/stop", {}) == (202, {"name": "我的-1"})
    wait_for(lambda: post("/v1/training")[1]["exit_code"] == 143)
    assert post("/v1/runs/我的-1/log")[1]["text"] == "训练中\nsaved\n"
    status, refusal = post("/v1/runs/我的-1/stop", {})
    assert status == 409 and "没有在运行" in refusal["error"]["message"]
    assert post("/v1/runs/我的-1/resume", {})[0] == 202
    wait_for(lambda: "resume_from_checkpoint" in post("/v1/runs/我的-1")[1]["about"].get("words", {}))


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"name": "../x"}, "名字只能有"),
        ({"name": "-x"}, "名字只能有"),
        ({"name": "a/b"}, "名字只能有"),
        ({"name": "x", "knobs": {"save_dir": "/tmp"}}, "没有名为 'save_dir' 的选项"),
        ({"name": "x", "knobs": {"__class__": 1}}, "没有名为 '__class__' 的选项"),
        ({"name": "x", "knobs": {"train_path": "/etc/passwd"}}, "train_path 只能从列出的里选"),
        ({"name": "x", "knobs": {"init_adapter": ["a"]}}, "init_adapter 只能从列出的里选"),
        ({"name": "x", "knobs": {"epochs": 0}}, "epochs 应当是不小于 1 的整数"),
        ({"name": "x", "knobs": {"epochs": True}}, "epochs 应当是"),
        ({"name": "x", "knobs": {"device": "cpu --debug"}}, "device 应当是"),
        ({"name": "x", "knobs": {"fp16": True, "bf16": True}}, "fp16 与 bf16 不能同时开启"),
    ],
)
def test_wishes_that_are_refused(post: Client, trainer: Trainer, wish: dict[str, Any], said: str) -> None:
    for path in ("/v1/training", "/v1/training/plan"):
        status, refusal = post(path, wish)
        assert status == 422 and said in refusal["error"]["message"]
    assert trainer._process is None


def test_the_plan_comes_first(post: Client, trainer: Trainer) -> None:
    answer = post("/v1/training/plan", {"name": "a", "knobs": {"lora_rank": 3}})
    assert answer == (200, {"rows": [{"verdict": "通过", "item": "显存", "text": "3"}]})
    assert trainer._process is None


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_what_a_form_of_another_site_could_send_is_refused(post: Client, trainer: Trainer, kind: str) -> None:
    for path in ("/v1/training", "/v1/runs/a/stop", "/v1/runs/a/resume"):
        assert post(path, {"name": "a"}, kind)[0] == 415
    assert trainer._process is None


def test_only_training_is_stopped(post: Client, store: RunStore) -> None:
    path = write_run(store.root / "a")
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # by this process, which is no train.py
    status, refusal = post("/v1/runs/a/stop", {})
    os.close(descriptor)
    assert status == 409 and "不能从这里停止" in refusal["error"]["message"]


def test_without_leave_there_are_no_such_routes(ask: Client) -> None:
    assert ask("/v1/training")[0] == 404
    assert ask("/v1/training", {"name": "a"})[0] in (404, 405)


def test_words_of_the_command_line(trainer: Trainer) -> None:
    config = trainer.configure(
        Wish(name="a", knobs={"lora_target_modules": ["--help", "b"], "max_grad_norm": 0})
    )
    assert config.lora_target_modules == ["--help", "b"]
    assert training._as_word(config.lora_target_modules) == "--help,b"

"""`python serve.py` as a process: starting, signals, and what is wrong with a command line."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

import serve
from serving.arguments import read_command
from serving.server import open_address
from tests.helpers.extraction_samples import FILM, FILM_TRIPLETS, TinyRun
from tests.helpers.service import wait_for
from utils.common_utils import EXIT_INTERRUPTED, UserError


class Process:
    """A service that has been started."""

    def __init__(self, root: Path, adapter: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, root / "serve.py", "--adapter", adapter, *words],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            wait_for(
                lambda: any("等请求" in line for line in self.said) or self.process.poll() is not None, 60
            )
        except AssertionError:
            self.process.kill()
            raise
        self.url = self.said[0].removeprefix("在 ").partition(" ")[0]

    def _listens(self) -> bool:
        return any("等请求" in line for line in self.said)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(iter(self.process.stderr.readline, ""))

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=20)

    def extract(self, **body: Any) -> httpx2.Response:
        return httpx2.post(f"{self.url}/v1/extract", json=body, timeout=60)


def test_a_life_after_a_violent_death(root: Path, tiny_run: TinyRun) -> None:
    killed = Process(root, tiny_run.adapter, "--port", "0")
    port = killed.url.rpartition(":")[2]
    client = socket.create_connection(("127.0.0.1", int(port)))
    killed.process.kill()
    killed.process.wait()
    words = ["--port", port, "--batch_size", "2", "--max_new_tokens", "40"]
    service = Process(root, tiny_run.adapter, *words)  # at once, on the same address
    client.close()
    assert service.url == killed.url
    try:
        loading = service.get("/health")  # it answers while it loads
        if loading.json()["status"] == "loading":
            assert loading.status_code == 503
            early = service.extract(text=FILM)  # by now it may have loaded
            assert early.status_code == 200 or early.json()["error"]["code"] == "loading"
        wait_for(lambda: service.get("/health").status_code == 200, 240)
        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(service.extract, texts=[FILM] * 6) for _ in range(10)]
            wait_for(lambda: service.get("/health").json()["waiting"] > 30)
            service.process.send_signal(signal.SIGTERM)
            wait_for(lambda: any("正在停止" in line for line in service.said))
            late = service.extract(text=FILM)  # the address is still open for those who ask
            assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
            assert late.headers["retry-after"] and service.get("/health").json()["status"] == "draining"
            replies = [answer.result() for answer in answers]
            taken = [reply.json()["results"] for reply in replies if reply.status_code == 200]
            assert len(taken) > 5  # more than 30 sentences waited; what came too late was refused
            assert {reply.status_code for reply in replies} <= {200, 503}
            for results in taken:
                assert len(results) == 6
                assert all(len(result["triplets"]) == len(FILM_TRIPLETS) for result in results)
        assert service.process.wait(30) == 0
        assert service.process.stdout and service.process.stdout.read() == ""
        assert not any("Traceback" in line for line in service.said)
    finally:
        service.process.kill()


def test_a_second_signal_ends_it_at_once(root: Path, tiny_run: TinyRun) -> None:
    service = Process(root, tiny_run.adapter, "--port", "0", "--batch_size", "1")
    try:
        wait_for(lambda: service.get("/health").status_code == 200, 60)
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(service.extract, texts=[FILM * 4] * 100) for _ in range(4)]
            wait_for(lambda: service.get("/health").json()["waiting"] > 300)
            service.process.send_signal(signal.SIGTERM)
            wait_for(lambda: any("再按一次" in line for line in service.said))
            service.process.send_signal(signal.SIGINT)
            assert service.process.wait(10) == EXIT_INTERRUPTED
            for answer in answers:
                with pytest.raises(httpx2.HTTPError):
                    answer.result()
        assert not any("Traceback" in line for line in service.said)
    finally:
        service.process.kill()


def test_an_address_that_is_taken() -> None:
    with open_address("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"不能在 127.0.0.1 的端口 {port} 上等请求.*请换一个 --port"):
            open_address("127.0.0.1", port)
    with pytest.raises(UserError, match=r"不能在 no.such.host.invalid 的端口 1 上等请求"):
        open_address("no.such.host.invalid", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "要有密钥：设环境变量 TRIPLET_API_KEY"),
        (["--host", "192.168.1.2"], "确实不要密钥时写 --no_auth"),
        (["--api_key", "short"], "密钥至少要有 8 个字符"),
        (["--api_key", "long enough"], "没有空白的 ASCII 字符"),
        (["--api_key", "long-enough", "--no_auth"], "就不能再写 --no_auth"),
        (["--port", "70000"], "--port 应为 0 到 65535 之间的整数"),
        (["--max_sentences", "9", "--max_queue", "8"], "--max_sentences 不能大于 --max_queue"),
        (["--adapter", "a/x", "--adapter", "b/x"], "两个适配器都叫 x"),
        (["--adapter", "a b=x"], "只能有字母、数字、汉字"),
        (["--schema", "x", "--open_schema"], "--schema 与 --open_schema 不能同时使用"),
        (["--adapter", "x", "--no_adapter"], "--adapter 与 --no_adapter 不能同时使用"),
        (["--device", "gpu"], "--device 应当写成"),
    ],
)
def test_what_a_command_line_may_not_say(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIPLET_API_KEY", raising=False)
    if "--adapter" not in words and "--no_adapter" not in words:
        words = [*words, "--adapter", str(tmp_path)]
    with pytest.raises(UserError, match=said):
        read_command(words)


def test_what_it_comes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPLET_API_KEY", "from-the-environment")
    for name in ("demo/model_best", "other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter_config.json").write_text("{}", encoding="utf-8")
    words = ["--adapter", str(tmp_path / "demo"), "--adapter", f"二号={tmp_path / 'other'}"]
    command = read_command([*words, "--host", "0.0.0.0", "--batch-size", "4", "--timeout", "9"])
    assert {name: str(options.adapter) for name, options in command.models.items()} == {
        "demo": str(tmp_path / "demo" / "model_best"),
        "二号": str(tmp_path / "other"),
    }
    assert all(options.batch_size == 4 for options in command.models.values())
    assert (command.api_key, command.hosts, command.limits.seconds) == ("from-the-environment", None, 9.0)
    monkeypatch.delenv("TRIPLET_API_KEY")
    assert read_command(words).hosts == {"localhost", "127.0.0.1", "::1"}
    named = read_command([*words, "--allowed_host", "Triplets.Example"])
    assert named.hosts and "triplets.example" in named.hosts
    assert read_command(["--no_adapter"]).models.keys() == {"base"}


def test_packages_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "fastapi" else found(name, *rest)
    )
    with pytest.raises(
        UserError, match=r"缺少软件包 fastapi，请运行：pip install -r requirements-serve\.txt。"
    ):
        serve.main(["--adapter", str(tmp_path)])

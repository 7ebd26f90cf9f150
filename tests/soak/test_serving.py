"""Half an hour of load on the service: answers stay the same, memory stays flat, the end is clean.

TRIPLET_SOAK_MINUTES shortens or lengthens it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from extraction.loading import load_extractor
from tests.helpers.extraction_samples import FILM, NOVEL, RAIN, TinyRun
from tests.helpers.service import wait_for

pytestmark = pytest.mark.soak

MINUTES = float(os.environ.get("TRIPLET_SOAK_MINUTES", "30"))
CLIENTS = 12
GROWTH = 1.03  # of memory from the middle third to the last
TEXTS = [FILM, NOVEL, RAIN, "余华写《活着》。", "张玲执导电视剧𠮷😀，何赛飞主演。", FILM * 4]
BAD = (b"{", b'{"text": 3}', b'{"text": "a", "min_score": NaN}', b"[" * 3000, b'{"texts": []}')


class Client(threading.Thread):
    """Asks well, asks badly, reads streams, and leaves in the middle, by the dice."""

    def __init__(self, url: str, seed: int, end: float, expected: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.dice = random.Random(seed)
        self.end = end
        self.expected = expected
        self.tried = self.survived = 0

    def run(self) -> None:
        with httpx2.Client(base_url=self.url, timeout=120) as client:
            while time.monotonic() < self.end:
                self.tried += 1
                self.survived += self.dice.choices((self.ask, self.ask_badly, self.leave), weights=(8, 1, 1))[
                    0
                ](client)

    def ask(self, client: httpx2.Client) -> bool:
        texts = self.dice.choices(TEXTS, k=self.dice.randint(1, 5))
        answer = client.post("/v1/extract", json={"texts": texts, "stream": self.dice.random() < 0.5})
        if "ndjson" in answer.headers["content-type"]:
            lines = sorted(map(json.loads, answer.text.splitlines()), key=lambda line: line["index"])
        else:
            lines = answer.json()["results"]
        return [line["triplets"] for line in lines] == [self.expected[text] for text in texts]

    def ask_badly(self, client: httpx2.Client) -> bool:
        headers = {"Content-Type": "application/json"}
        answer = client.post("/v1/extract", content=self.dice.choice(BAD), headers=headers)
        return answer.status_code in (400, 422)

    def leave(self, client: httpx2.Client) -> bool:
        port = int(self.url.rpartition(":")[2])
        body = json.dumps({"texts": [FILM] * 20, "stream": self.dice.random() < 0.5}).encode()
        head = "POST /v1/extract HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request[: self.dice.randint(1, len(request) * 2)])
            time.sleep(self.dice.random() / 5)
        return True


def test_load(root: Path, tiny_run: TinyRun, tally: dict) -> None:
    extractions = load_extractor(tiny_run.adapter).extract(TEXTS)
    expected = {text: each.to_list(with_spans=True) for text, each in zip(TEXTS, extractions, strict=True)}
    process = subprocess.Popen(
        [
            sys.executable,
            root / "serve.py",
            "--adapter",
            tiny_run.adapter,
            "--port",
            "0",
            "--batch_size",
            "8",
        ],
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    said: list[str] = []
    assert process.stderr is not None
    threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True).start()
    try:
        wait_for(lambda: any("可以用了" in line for line in said), 600)
        url = said[0].removeprefix("在 ").partition(" ")[0]
        end = time.monotonic() + 60 * MINUTES
        clients = [Client(url, seed, end, expected) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        memory = []
        while any(client.is_alive() for client in clients):
            memory.append(psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.5)
        tried, survived = (sum(getattr(each, name) for each in clients) for name in ("tried", "survived"))
        tally["requests answered rightly"] = survived, tried
        third = len(memory) // 3
        middle, last = statistics.median(memory[third : 2 * third]), statistics.median(memory[-third:])
        print(f"memory: {middle / 2**20:.1f} MB, then {last / 2**20:.1f} MB; {tried} requests")
        assert survived == tried > 50
        assert last < middle * GROWTH
        health = httpx2.get(f"{url}/health").json()
        wait_for(lambda: httpx2.get(f"{url}/health").json()["rows"] == 0)
        assert health["status"] == "ready" and health["waiting"] == 0
        assert psutil.Process(process.pid).num_fds() < 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0  # some seconds, if the machine has nothing else to do
        assert not any("Traceback" in line for line in said), said
    finally:
        process.kill()

"""The page behind a server of a few lines: its files, and answers that are made up by rule."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serving import page

PREDICATES = {"作者": ("图书作品", "人物"), "出版社": ("图书作品", "出版社"), "导演": ("影视作品", "人物")}
MODELS = [
    {"id": "demo", "object": "model", "predicates": list(PREDICATES), "half_right_score": 0.3},
    {"id": "other", "object": "model", "predicates": ["作者"], "half_right_score": None},
]
_FACT = re.compile(r"(作者|出版社|导演)：([^，。]+)")


def answer(text: str, predicates: list[str] | None = None) -> dict[str, Any]:
    """Return the result of "《…》作者：…，导演：…": a fact for each; the score falls from 0.9 by 0.25 each.

    "坏" anywhere gives an error instead.
    """
    if "坏" in text:
        return {"text": text, "triplets": [], "error": "模型的回答不是可用的三元组 JSON", "raw": "<b>[{</b>"}
    title = re.search("《(.+?)》", text)
    triplets = []
    for number, match in enumerate(_FACT.finditer(text) if title else []):
        if title is None or (predicates and match[1] not in predicates):
            continue
        types = PREDICATES[match[1]]
        triplets.append(
            {
                "predicate": match[1],
                "object_type": types[1],
                "subject_type": types[0],
                "object": match[2],
                "subject": title[1],
                "score": round(0.9 - 0.25 * number, 2),
                "object_span": list(match.span(2)),
                "subject_span": list(title.span(1)),
            }
        )
    return {"text": text, "triplets": triplets}


@dataclass
class PageServer:
    """What a test may change, and what it may look at."""

    address: str = ""
    api_key: str | None = None
    delay: float = 0.0  # seconds before each answer of a stream
    refusals: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)  # status, message, headers
    break_after: int | None = None  # answers of a stream, then the connection is cut
    requests: list[dict[str, Any]] = field(default_factory=list)  # bodies of /v1/extract


@contextlib.contextmanager
def serve_page() -> Iterator[PageServer]:
    """Serve on loopback until the block ends."""
    state = PageServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                if self._may():
                    self._send(
                        200, json.dumps({"object": "list", "data": MODELS}).encode(), "application/json", {}
                    )
                return
            if self.path == "/health":
                self._send(200, b'{"status": "ready", "limits": {"sentences": 64}}', "application/json", {})
                return
            if self.path == "/v1/runs":
                self._send(200, b'{"runs": [], "allow_training": false}', "application/json", {})
                return
            name = self.path.partition("?")[0].removeprefix("/page/") if self.path != "/" else "index.html"
            file = page.find(name)
            if file is None:
                self.send_error(404)
                return
            self._send(200, file.path.read_bytes(), file.media_type, page.HEADERS)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._may():
                return
            if state.refusals:
                status, message, headers = state.refusals.pop(0)
                self._refuse(status, message, headers)
                return
            state.requests.append(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for index, text in reversed(list(enumerate(body["texts"]))):  # as they come, not as they went
                    if state.break_after is not None and len(body["texts"]) - index > state.break_after:
                        break
                    time.sleep(state.delay)
                    line = {"index": index, **answer(text, body.get("predicates"))}
                    self.wfile.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

        def _may(self) -> bool:
            if state.api_key is None or self.headers.get("Authorization") == f"Bearer {state.api_key}":
                return True
            self._refuse(401, "没有密钥或密钥不对。", {})
            return False

        def _refuse(self, status: int, message: str, headers: dict[str, str]) -> None:
            body = {"error": {"message": message, "type": "error", "code": "error", "param": None}}
            self._send(status, json.dumps(body).encode(), "application/json", headers)

        def _send(self, status: int, body: bytes, media_type: str, headers: dict[str, str]) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            for header, value in headers.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""The page behind a server of a few lines: its files, and answers that are made up by rule."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serving import page


@dataclass
class PageServer:
    """What a test may change, and what it may look at."""

    address: str = ""
    api_key: str | None = None
    delay: float = 0.0  # seconds before each answer of a stream
    requests: list[dict[str, Any]] = field(default_factory=list)  # bodies of /v1/extract


@contextlib.contextmanager
def serve_page() -> Iterator[PageServer]:
    """Serve on loopback until the block ends."""
    state = PageServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0].removeprefix("/page/") if self.path != "/" else "index.html"
            file = page.find(name)
            if file is None:
                self.send_error(404)
                return
            self._send(200, file.path.read_bytes(), file.media_type, page.HEADERS)

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

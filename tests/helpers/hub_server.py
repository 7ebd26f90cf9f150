"""A real HTTP server that plays the APIs of Hugging Face's hub and of ModelScope over files in memory."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves one model, `owner/model.v1`, under both APIs until it is closed.

    Args:
        files: content by name.

    Attributes:
        cut: files whose connection breaks, and after how many bytes of an answer; once for each number.
        corrupt: files that come with a wrong byte.
        status: what every request is answered with instead, if any.
        sent: bytes that went out, by file.
        ranges: values of the `Range` header, in order.
        redirects: requests that were sent to the other address.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.cut: dict[str, list[int]] = {}
        self.corrupt: set[str] = set()
        self.status = 0
        self.sent: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.redirects = 0
        self.requests: list[str] = []
        owner = self

        class Handler(_Handler):
            hub = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def is_large(self, name: str) -> bool:
        """Tell whether a file lies in LFS, as weights do."""
        return name.endswith((".safetensors", ".bin", ".model"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        hub.requests.append(self.path)
        if hub.status:
            self._answer(hub.status, b"{}")
        elif url.path == "/api/v1/models/owner/model.v1/repo/files":
            self._json({"Code": 200, "Data": {"Files": self._modelscope_list()}})
        elif url.path == "/api/v1/models/owner/model.v1/repo":
            self._redirect(query.get("FilePath", ""))
        elif url.path.startswith("/api/models/owner/model.v1/tree/"):
            self._json(self._tree())
        elif url.path.startswith("/api/models/owner/model.v1"):
            self._json({"id": "owner/model.v1", "sha": COMMIT, "siblings": []})
        elif url.path.startswith("/owner/model.v1/resolve/"):
            self._resolve(url.path.split("/", 5)[5])
        elif url.path.startswith("/elsewhere/"):
            self._file(url.path.split("/", 2)[2])
        else:
            self._answer(404, b"{}")

    def _modelscope_list(self) -> list[dict[str, object]]:
        blobs = [
            {"Path": name, "Name": name, "Type": "blob", "Size": len(content), "Sha256": sha256(content)}
            for name, content in self.hub.files.items()
        ]
        return [{"Path": "assets", "Name": "assets", "Type": "tree", "Size": 0, "Sha256": ""}, *blobs]

    def _tree(self) -> list[dict[str, object]]:
        entries = []
        for name, content in self.hub.files.items():
            entry: dict[str, object] = {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": blob_name(content),
            }
            if self.hub.is_large(name):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return entries

    def _resolve(self, name: str) -> None:
        content = self.hub.files[name]
        etag = sha256(content) if self.hub.is_large(name) else blob_name(content)
        if self.hub.is_large(name):
            headers = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
            self._redirect(name, headers | {"X-Repo-Commit": COMMIT})
        else:
            self._file(name, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _redirect(self, name: str, headers: dict[str, str] | None = None) -> None:
        self.hub.redirects += 1
        other = self.hub.address.replace("127.0.0.1", "localhost")  # as the hubs' storage is another host
        self._answer(302, b"", {"Location": f"{other}/elsewhere/{name}"} | (headers or {}))

    def _file(self, name: str, headers: dict[str, str] | None = None) -> None:
        content, status, more = self.hub.files[name], 200, dict(headers or {})
        if name in self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if (wanted := self.headers.get("Range")) and self.command == "GET":
            self.hub.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            more["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        cuts = self.hub.cut.get(name)
        self._answer(
            status, content, more, cut=cuts.pop(0) if cuts and self.command == "GET" else None, name=name
        )

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
        name: str = "",
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        part = content if cut is None else content[:cut]
        self.wfile.write(part)
        self.hub.sent[name] += len(part)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

"""The gate: keys, hosts, origins, sizes; clients that are slow, break off, or send what is no request."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest

from extraction.extractor import TripletExtractor
from serving.limits import Limits
from serving.metrics import Metrics
from serving.security import HEADERS
from tests.helpers.extraction_samples import FILM, NOVEL, RAIN
from tests.helpers.service import Service, make_engine, running, wait_for

KEY = "geheim-1234"
LIMITS = Limits(body_bytes=5000, head_seconds=0.5, body_seconds=0.5, write_seconds=0.5, seconds=60)


@pytest.fixture(scope="module")
def guarded(extractor: TripletExtractor) -> Iterator[Service]:
    """A service with a key and little patience."""
    metrics = Metrics()
    engine = make_engine([("tiny", extractor)], LIMITS, metrics, 4)
    with running(engine, LIMITS, metrics, api_key=KEY) as started:
        yield started


def test_the_key_is_needed_for_all_but_the_page_and_the_state(guarded: Service) -> None:
    for path in ("/", "/page/page.js", "/health", "/docs", "/openapi.json"):
        assert guarded.client.get(path).status_code == 200, path
    for path in ("/v1/models", "/metrics", "/v1/nothing", "/nothing"):
        assert guarded.client.get(path).status_code == 401, path
    wrong = ["", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", KEY, "Bearer ключ".encode()]
    for authorization in wrong:
        headers = {"Authorization": authorization}  # type: ignore[dict-item]
        answer = guarded.client.post("/v1/extract", json={"text": RAIN}, headers=headers)
        assert answer.status_code == 401, authorization
        assert answer.headers["www-authenticate"] == "Bearer"
        assert KEY not in answer.text
    for authorization in (f"Bearer {KEY}", f"bearer {KEY}"):
        headers = {"Authorization": authorization}
        assert guarded.client.post("/v1/extract", json={"text": RAIN}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::1", "a@b", ""]
)
def test_another_host_is_refused(service: Service, host: str) -> None:
    answer = service.client.get("/v1/models", headers={"Host": host})
    assert answer.status_code == 421
    assert "--allowed_host" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8000"])
def test_names_of_this_machine_are_taken(service: Service, host: str) -> None:
    assert service.client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_are_refused(service: Service) -> None:
    own = f"http://127.0.0.1:{service.port}"
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = service.client.post("/v1/extract", json={"text": RAIN}, headers=headers)
        assert answer.status_code == 403, headers
        assert "access-control-allow-origin" not in answer.headers
    assert service.client.post("/v1/extract", json={"text": RAIN}, headers={"Origin": own}).status_code == 200
    # What a page may send without asking first is no JSON by its type.
    plain = service.client.post(
        "/v1/extract", content='{"text": "甲"}', headers={"Content-Type": "text/plain"}
    )
    assert plain.status_code == 422 and "Content-Type: application/json" in plain.json()["error"]["message"]
    asked = service.client.options("/v1/extract", headers={"Origin": "https://evil.example"})
    assert asked.status_code == 405 and asked.headers["allow"] == "POST"
    assert "access-control-allow-origin" not in asked.headers


def test_heads_slashes_and_methods(service: Service) -> None:
    for path in ("/", "/health", "/docs", "/metrics", "/v1/models", "/page/page.js", "/nothing"):
        whole, head = service.client.get(path), service.client.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        assert head.headers["content-type"] == whole.headers["content-type"]
    for path in ("/health/", "/docs/", "/v1/models/", "/v1/models/tiny/"):
        assert service.client.get(path).status_code == 200, path
    assert service.client.post("/v1/extract/", json={"text": RAIN}).status_code == 200
    for method, path, allow in (("PUT", "/v1/extract", "POST"), ("DELETE", "/health/", "GET, HEAD")):
        answer = service.client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allow)
        assert answer.json()["error"]["code"] == "method_not_allowed"


NO_HTTP = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "words": b"hello\r\n\r\n",
    "no version": b"GET /health\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "chunk": b"POST /v1/extract HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("request_", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_told_so_in_json(service: Service, request_: bytes) -> None:
    reply = ask(service, request_)
    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n") and b"connection: close" in reply.lower()
    assert json.loads(read_body(reply))["error"]["code"] == "bad_http"


def test_old_clients_pipelines_and_chunks(service: Service) -> None:
    body = json.dumps({"text": RAIN}).encode()
    head = b"POST /v1/extract HTTP/%s\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head % b"1.1" + b"Content-Length: %d\r\n\r\n" % len(body) + body
    old = whole.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert json.loads(read_body(ask(service, old)))["results"]
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    pipelined = ask(service, whole * 3 + last)
    assert pipelined.count(b"HTTP/1.1 200 OK") == 4 and pipelined.index(b'"results"') < pipelined.index(
        b'"status"'
    )
    parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:3], body[3:])) + b"0\r\n\r\n"
    chunked = ask(service, head % b"1.1" + b"Transfer-Encoding: chunked\r\n\r\n" + parts + last)
    assert chunked.count(b"HTTP/1.1 200 OK") == 2


def test_encodings_of_a_body(service: Service) -> None:
    def post(content: bytes, **headers: str) -> httpx2.Response:
        kind = {"Content-Type": "application/json", **headers}
        return service.client.post("/v1/extract", content=content, headers=kind)

    text = json.dumps({"text": NOVEL}, ensure_ascii=False)
    assert post(text.encode("utf-8-sig")).json()["results"][0]["triplets"]  # as Windows writes it
    for encoding in ("gbk", "utf-16", "utf-16-le"):
        assert "应当是 UTF-8 编码的 JSON" in post(text.encode(encoding)).json()["error"]["message"]
    packed = post(gzip.compress(text.encode()), **{"Content-Encoding": "gzip"})
    assert (packed.status_code, packed.json()["error"]["code"]) == (415, "content_encoding")
    assert "请求体是空的" in post(b"").json()["error"]["message"]


def test_every_answer_keeps_browsers_strict(service: Service) -> None:
    for path in ("/", "/docs", "/health", "/v1/models", "/nothing", "/page/nothing", "/page/page.js"):
        answer = service.client.get(path)
        for name, value in HEADERS:
            assert answer.headers[name.decode()] == value.decode(), (path, name)


@pytest.mark.parametrize(
    "path",
    ["/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/page/__init__.py",
     "/../../etc/passwd", "/page/%00", "/page/..\\app.py"],
)  # fmt: skip
def test_no_other_file_can_be_reached(service: Service, path: str) -> None:
    reply = ask(service, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert reply.startswith(b"HTTP/1.1 404"), reply[:100]
    assert b"import" not in reply


HOSTILE = {
    "nan": b'{"text": "a", "min_score": NaN}',
    "infinity": b'{"text": "a", "timeout": Infinity}',
    "deep": b'{"text": ' + b"[" * 1500 + b"]" * 1500 + b"}",
    "surrogate": b'{"text": "a\\ud800"}',
    "no utf-8": b'{"text": "\xff\xfe"}',
    "cut": b'{"text": "a"',
    "nothing": b"",
    "list": b"[]",
    "digits": b'{"text": "a", "min_score": ' + b"9" * 4900 + b"}",
    "twice": b'{"text": "a"}{"text": "b"}',
    "null": b'{"text": "\\u0000"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_proper_json(guarded: Service, body: bytes) -> None:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    answer = guarded.client.post("/v1/extract", content=body, headers=headers)
    assert answer.status_code in (400, 422), answer.text
    assert set(answer.json()["error"]) >= {"message", "type", "code", "param"}


def test_a_huge_body_is_refused_before_it_is_read(guarded: Service) -> None:
    head = f"POST /v1/extract HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    said = ask(guarded, f"{head}Content-Length: 9999999999\r\nExpect: 100-continue\r\n\r\n".encode())
    assert said.startswith(b"HTTP/1.1 413") and "上限 5,000 字节".encode() in said
    chunked = f"{head}Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n".encode()
    said = ask(guarded, chunked + b"1000\r\n" + b"x" * 0x1000 + b"\r\n1000\r\n" + b"x" * 0x1000 + b"\r\n")
    assert said.startswith(b"HTTP/1.1 413") and b"connection: close" in said.lower()
    for length in ("-1", "1e3", "0x10", "²"):
        said = ask(guarded, f"{head}Content-Length: {length}\r\n\r\n".encode())
        assert said.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))


def test_slow_clients_are_cut_off_and_hold_up_nobody(guarded: Service) -> None:
    head = f"POST /v1/extract HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    slow = [connect(guarded) for _ in range(20)]
    for number, client in enumerate(slow):
        if number % 2:
            client.sendall(b"POST /v1/ext")  # half a head
        else:  # half a body
            client.sendall(
                f'{head}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{"te'.encode()
            )
    started = time.monotonic()
    headers = {"Authorization": f"Bearer {KEY}"}
    assert guarded.client.post("/v1/extract", json={"text": NOVEL}, headers=headers).status_code == 200
    assert time.monotonic() - started < 20
    for number, client in enumerate(slow):
        said = read_all(client)
        assert said == b"" if number % 2 else said.startswith(b"HTTP/1.1 408")
    assert (
        "在 0.5 秒内没有发完"
        in json.loads(read_body(said if said else b"\r\n\r\n{}") or b"{}").get(
            "error", {"message": "在 0.5 秒内没有发完"}
        )["message"]
    )
    assert guarded.figure("triplet_failures_total", kind="body_too_slow") == 10


def test_who_does_not_read_is_cut_off(extractor: TripletExtractor) -> None:
    limits = Limits(write_seconds=0.5, sentences=300, characters=10**7, body_bytes=10**7)
    metrics = Metrics()
    with running(make_engine([("tiny", extractor)], limits, metrics, 8), limits, metrics) as service:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", service.port))
        head = "POST /v1/extract HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        # Blank sentences: each has its error at once, and its text in it; more than the system keeps for us.
        body = json.dumps({"texts": [" " * 30_000] * 300, "stream": True}).encode()
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: service.figure("triplet_requests_total", route="/v1/extract", status="200"), 20)
        received = len(read_all(client))
        client.close()
        assert 0 < received < len(body)
        assert service.extract(text=RAIN)["results"][0]["triplets"] == []


def test_a_client_that_hangs_up_frees_its_rows(extractor: TripletExtractor) -> None:
    gate, metrics = threading.Event(), Metrics()
    engine = make_engine([("tiny", extractor)], LIMITS, metrics, 2, before_step=gate.wait)
    with running(engine, LIMITS, metrics) as service:
        for extra in ({}, {"stream": True}):
            gate.clear()
            client = connect(service)
            body = json.dumps({"texts": [FILM] * 10, **extra}).encode()
            head = "POST /v1/extract HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_for(lambda: engine.rows)
            client.close()
            wait_for(lambda: engine.waiting == 0)
            gate.set()
            wait_for(lambda: engine.rows == 0)
            assert engine.idle
            assert service.extract(text=RAIN)["results"][0]["triplets"] == []
        wait_for(lambda: service.figure("triplet_failures_total", kind="hung_up") == 2)
        assert service.figure("triplet_sentences_total", model="tiny", outcome="ok") == 2


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def ask(service: Service, request: bytes) -> bytes:
    """Send bytes; return all that comes back until the other side closes."""
    with connect(service) as client:
        client.sendall(request)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    said = b""
    try:
        while part := client.recv(1 << 16):
            said += part
    except ConnectionResetError:
        pass
    return said


def read_body(reply: bytes) -> bytes:
    return reply.partition(b"\r\n\r\n")[2]

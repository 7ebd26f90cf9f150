"""The gate before every request: who may ask, from where, how much, how slowly."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from serving import page
from serving.errors import RequestError
from serving.limits import Limits
from serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PUBLIC = ("/", "/health", "/docs", "/openapi.json", "/favicon.ico")  # and the page's files
PUBLIC_FOLDER = "/page/"
HEADERS = (
    *((name.lower().encode(), value.encode()) for name, value in page.HEADERS.items()),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def host_name(value: str) -> str:
    """Return the name in a Host header, without port and brackets, in lower case; "" if it is none."""
    try:
        return urlsplit(f"//{value}").hostname or ""
    except ValueError:
        return ""


class Gate:
    """Refuses, limits and measures; every answer gets the headers that keep browsers strict.

    Args:
        app: what is behind the gate.
        limits: of sizes and times.
        metrics: counts along.
        api_key: that requests must have, but for the page and `/health`; None for no key.
        hosts: names that the Host header may have; None for any. A page of a stranger whose name was made to
            point at this machine has another.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        metrics: Metrics,
        api_key: str | None = None,
        hosts: frozenset[str] | None = None,
    ) -> None:
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.api_key = api_key
        self.hosts = hosts
        self.open = 0  # requests

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        status = 0
        body = _Body(receive, self.limits, scope["headers"])
        scope = {**scope, "path": _without_slash(scope["path"])}
        if scope["method"] == "HEAD":
            scope["method"] = "GET"  # the server sends the head of its answer only

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in HEADERS if h[0] not in own)]
                if not body.whole:  # what is left of it must not be taken for the next request
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self.open += 1
        try:
            self._check(scope)
            await self.app(scope, body.receive, guarded)
        except RequestError as error:
            self.metrics.failed(error.code)
            await JSONResponse(error.body(), error.status_code, error.headers)(scope, receive, guarded)
        finally:
            self.open -= 1
            # Not the path: strangers choose that, and each would be a line of its own.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, time.perf_counter() - started)

    def _check(self, scope: MutableMapping[str, Any]) -> None:
        """Refuse what may not even be read.

        Raises:
            RequestError: with the reason.
        """
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.hosts is not None and host_name(host) not in self.hosts:
            raise RequestError(
                421,
                "wrong_host",
                f"请求的 Host 是 {host[:100]!r}，不是本服务的名字；要用别的名字访问，启动时加 "
                "--allowed_host 名字。",
            )
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._check_origin(headers, host)
        path = scope["path"]
        if self.api_key is not None and path not in PUBLIC and not path.startswith(PUBLIC_FOLDER):
            self._check_key(headers.get(b"authorization", ""))
        if self.open > self.limits.requests:
            raise RequestError(
                503,
                "too_many_requests",
                f"同时进行的请求超过上限 {self.limits.requests} 个，请稍后再试。",
                limit=self.limits.requests,
                retry_after=1,
            )
        encoding = headers.get(b"content-encoding", "")
        if encoding.strip().lower() not in ("", "identity"):
            raise RequestError(
                415, "content_encoding", f"不接受压缩的请求体（Content-Encoding: {encoding[:50]}）。"
            )
        length = headers.get(b"content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > self.limits.body_bytes:
            raise too_large(self.limits.body_bytes)

    def _check_origin(self, headers: dict[bytes, str], host: str) -> None:
        """Refuse what another site's page sends by its visitor's browser."""
        origin = headers.get(b"origin")
        foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
        if foreign or headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise RequestError(403, "cross_origin", "不接受别的网站的页面发来的请求（CORS 是关闭的）。")

    def _check_key(self, authorization: str) -> None:
        """Compare the key, in a time that says nothing about it."""
        scheme, _, given = authorization.partition(" ")
        assert self.api_key is not None
        same = hmac.compare_digest(given.strip().encode("latin-1"), self.api_key.encode())
        if scheme.lower() != "bearer" or not same:
            raise RequestError(
                401, "wrong_key", "缺少 API 密钥，或密钥不对：请求要带 Authorization: Bearer 密钥。"
            )


def too_large(limit: int) -> RequestError:
    """Return the refusal of a body."""
    return RequestError(413, "body_too_large", f"请求体超过上限 {limit:,} 字节，请分几次发送。", limit=limit)


def _without_slash(path: str) -> str:
    """Return a path without the slash that people leave at its end."""
    return path.removesuffix("/") or path


class _Body:
    """A request's body as it comes: not too much of it, and not too slowly."""

    def __init__(self, receive: Receive, limits: Limits, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._receive = receive
        self._limits = limits
        self._end = time.monotonic() + limits.body_seconds
        self._size = 0
        self.whole = not any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)

    async def receive(self) -> Message:
        """Return the next part; when all is there, wait for the client to leave."""
        if self.whole:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._end - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            seconds = self._limits.body_seconds
            raise RequestError(
                408, "body_too_slow", f"请求体在 {seconds:g} 秒内没有发完。", limit=seconds
            ) from None
        if message["type"] == "http.disconnect":
            self.whole = True
            return message
        self._size += len(message.get("body", b""))
        if self._size > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)
        self.whole = not message.get("more_body", False)
        return message

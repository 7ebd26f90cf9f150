"""The server's life: listens at once, loads, answers, and at a signal finishes what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import h11
import uvicorn
from fastapi import APIRouter
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.app import make_app
from serving.arguments import Command
from serving.engine import Engine
from serving.errors import RequestError
from serving.limits import Limits
from serving.loading import prepare
from serving.metrics import Metrics
from utils.common_utils import EXIT_INTERRUPTED, UserError, log, to_json

TICK = 0.05  # seconds between looks at the engine
FLUSH = 5  # seconds that answers have to reach their clients when all else is done
KEEP_ALIVE = 15  # seconds that a connection may rest between two requests


def serve(command: Command, routers: Sequence[APIRouter] = ()) -> int:
    """Run the service until a signal ends it; return the exit code.

    Args:
        command: see there.
        routers: further routes.

    Raises:
        UserError: the address is taken, or the models can't be loaded.
    """
    metrics = Metrics()
    load = prepare(command.models, metrics)
    listener = open_address(command.host, command.port)
    engine = Engine(load, command.limits, metrics)
    app = make_app(
        engine,
        command.limits,
        metrics,
        api_key=command.api_key,
        hosts=command.hosts,
        routers=routers,
    )
    server = Server(make_config(app, command.limits), engine)
    code = asyncio.run(server.live(listener))
    if engine.failure is not None:
        raise engine.failure
    if engine.alive:  # in the middle of a pass, or of loading: torch must not see the interpreter end
        sys.stderr.flush()
        os._exit(code)
    return code


def open_address(host: str, port: int) -> socket.socket:
    """Open the address, before a model is loaded for it.

    Raises:
        UserError: it can't be.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listener = socket.socket(found[0][0], socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found[0][4])
        listener.listen(1024)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"不能在 {host} 的端口 {port} 上等请求（{reason}）：请换一个 --port，或改正 --host。"
        ) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the URL of an open address."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_config(app: Any, limits: Limits) -> uvicorn.Config:
    """Return how uvicorn is to run the application."""
    return uvicorn.Config(
        app,
        http=_protocol(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=FLUSH,
    )


def _protocol(limits: Limits) -> type[H11Protocol]:
    """Return uvicorn's protocol, impatient with heads that don't end and with clients that don't read."""

    class Impatient(H11Protocol):
        _timer: asyncio.TimerHandle | None = None  # of a head
        _writing: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait_for_head()
            else:
                self._stop_waiting()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._writing = self.loop.call_later(limits.write_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_writing()

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # in the middle of an answer
                self.transport.abort()
                return
            error = RequestError(400, "bad_http", "这不是合乎 HTTP/1.1 规定的请求。")
            body = to_json(error.body()).encode()
            headers = {"content-type": "application/json", "connection": "close"}
            headers["content-length"] = str(len(body))
            for event in (
                h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def timeout_keep_alive_handler(self) -> None:
            self.transport.abort()  # `close` would wait for whoever does not read

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self._stop_writing()
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            if self._timer is None:  # from the first byte on, however they drip
                self._timer = self.loop.call_later(limits.head_seconds, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _stop_writing(self) -> None:
            if self._writing is not None:
                self._writing.cancel()
                self._writing = None

    return Impatient


class Server(uvicorn.Server):
    """uvicorn's server; signals let it finish instead of breaking off.

    Args:
        config: of uvicorn.
        engine: started and ended along with it.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self.engine = engine
        self._signals: list[int] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `live`."""
        yield

    async def live(self, listener: socket.socket) -> int:
        """Serve until a signal comes or loading fails; return the exit code.

        The first signal: no new requests (503; `/health` says draining), those begun are answered. A second
        one ends the process at once: whoever still waits sees the connection break.
        """
        numbers = (signal.SIGTERM, signal.SIGINT)
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            signal.signal(number, lambda sig, _: loop.call_soon_threadsafe(self._signals.append, sig))
        log(f"在 {address_of(listener)} 等请求。")
        self.engine.start()
        serving = asyncio.ensure_future(self.serve(sockets=[listener]))
        try:
            await self._watch()
            self.should_exit = True
            if self._signals[1:]:
                sys.stderr.flush()
                os._exit(EXIT_INTERRUPTED)
            await serving
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0

    async def _watch(self) -> None:
        """Return when all is answered after a signal, at a second one, or when the engine has failed."""
        said_ready = False
        while not self._signals:
            if self.engine.state == "failed" or (said_ready and not self.engine.alive):
                return
            if self.engine.state == "ready" and not said_ready:
                said_ready = True
                log(f"可以用了：{'、'.join(self.engine.lanes)}。Ctrl-C 停止。")
            await asyncio.sleep(TICK)
        was_loading = self.engine.state == "loading"
        self.engine.drain()
        log("正在停止：不再接受新的请求，做完已有的就退出（再按一次 Ctrl-C 立即退出）。")
        while len(self._signals) == 1 and not was_loading and not (self.engine.idle and self._answered()):
            await asyncio.sleep(TICK)

    def _answered(self) -> bool:
        """Tell whether no request is in work, but perhaps the reading of one's own state."""
        return not self.server_state.tasks

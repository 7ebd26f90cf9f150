"""The service on loopback within a test's process, around extractors that are loaded once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import uvicorn

from extraction.extractor import TripletExtractor
from serving.app import make_app
from serving.engine import Engine
from serving.lane import Lane
from serving.limits import Limits
from serving.loopback import LOOPBACK_NAMES
from serving.metrics import Metrics
from serving.server import address_of, make_config, open_address


@dataclass
class Service:
    """A running service, and a client of it."""

    url: str
    port: int
    engine: Engine
    metrics: Metrics
    client: httpx2.Client

    def extract(self, **body: Any) -> Any:
        """Ask `/v1/extract`; return what it answers."""
        return self.client.post("/v1/extract", json=body).json()

    def figure(self, name: str, **labels: str) -> float:
        """Return a metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Return as soon as a condition holds.

    Raises:
        AssertionError: it never did.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def make_engine(
    extractors: Sequence[tuple[str, TripletExtractor]],
    limits: Limits,
    metrics: Metrics,
    capacity: int | None = None,
    before_step: Callable[[], None] | None = None,
) -> Engine:
    """Return an engine whose lanes need no loading."""
    lanes = [Lane(name, extractor, before_step or (lambda: None), metrics) for name, extractor in extractors]
    for lane in lanes:
        lane.capacity = capacity or lane.capacity
    return Engine(lambda: lanes, limits, metrics)


@contextlib.contextmanager
def running(engine: Engine, limits: Limits, metrics: Metrics, **options: Any) -> Iterator[Service]:
    """Run the service until the block ends."""
    options = {"hosts": frozenset(LOOPBACK_NAMES), **options}
    listener = open_address("127.0.0.1", 0)
    config = make_config(make_app(engine, limits, metrics, **options), limits)
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    url = address_of(listener)
    engine.start()
    thread.start()
    wait_for(lambda: server.started)
    wait_for(lambda: engine.state != "loading")
    try:
        with httpx2.Client(base_url=url, timeout=60) as client:
            yield Service(url, listener.getsockname()[1], engine, metrics, client)
    finally:
        server.should_exit = True
        thread.join(20)
        engine.drain()
        engine.join(20)

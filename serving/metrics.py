"""Figures for Prometheus: what waits, what runs, how long it takes, what fails and why."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric, SummaryMetricFamily

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
QUANTILES = (0.5, 0.9, 0.95, 0.99)
RECENT = 1024  # requests of a route that the quantiles are of
LATELY = 30.0  # seconds: before them, there may have been nothing to do


class _Latencies:
    """The quantiles of the last requests, by route."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._totals: dict[str, tuple[int, float]] = {}

    def add(self, route: str, seconds: float) -> None:
        self._recent[route].append(seconds)
        count, total = self._totals.get(route, (0, 0.0))
        self._totals[route] = count + 1, total + seconds

    def collect(self) -> Iterator[Metric]:
        family = SummaryMetricFamily(
            "triplet_request_recent_seconds",
            f"Latency of requests; the quantiles are of the last {RECENT} of a route",
            labels=["route"],
        )
        for route, (count, total) in list(self._totals.items()):
            ordered = sorted(self._recent[route])
            for quantile in QUANTILES:
                value = ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]
                labels = {"route": route, "quantile": str(quantile)}
                family.add_sample("triplet_request_recent_seconds", labels, value)
            family.add_metric([route], count_value=count, sum_value=total)
        yield family


class Metrics:
    """All figures of one service, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "triplet_requests", "Requests answered", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "triplet_request_seconds",
            "Latency of requests",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._latencies = _Latencies()
        self.registry.register(self._latencies)
        self._waited = Histogram(
            "triplet_wait_seconds",
            "Time that sentences waited for a row",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._sentences = Counter(
            "triplet_sentences", "Sentences answered", ["model", "outcome"], registry=self.registry
        )
        self._finished: deque[float] = deque(maxlen=RECENT)  # when sentences were answered
        self._tokens = Counter("triplet_tokens", "Tokens", ["model", "kind"], registry=self.registry)
        self._failures = Counter(
            "triplet_failures", "What was refused or failed, by kind", ["kind"], registry=self.registry
        )

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Show a figure that is read when it is asked for."""
        Gauge(f"triplet_{name}", what, registry=self.registry).set_function(read)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)
        self._latencies.add(route, seconds)

    def waited(self, seconds: float) -> None:
        """Count a sentence that got its row."""
        self._waited.observe(seconds)

    def sentence(self, model: str, outcome: str, prompt_tokens: int, answer_tokens: int) -> None:
        """Count an answered sentence: "ok", "truncated" or "error"."""
        self._sentences.labels(model, outcome).inc()
        self._finished.append(time.monotonic())
        self._tokens.labels(model, "prompt").inc(prompt_tokens)
        self._tokens.labels(model, "answer").inc(answer_tokens)

    def rate(self) -> float:
        """Return the sentences answered in a second, of late; 0 if that is not known."""
        now = time.monotonic()
        recent = [moment for moment in list(self._finished) if now - moment < LATELY]
        return len(recent) / max(now - recent[0], 1e-3) if recent else 0.0

    def failed(self, kind: str) -> None:
        """Count a refusal or a failure."""
        self._failures.labels(kind).inc()

    def text(self) -> bytes:
        """Return all figures in Prometheus' notation."""
        return generate_latest(self.registry)

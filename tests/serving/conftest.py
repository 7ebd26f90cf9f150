"""What the tests of the service share: the small model that knows some answers by heart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from extraction.extractor import TripletExtractor
from extraction.loading import load_extractor
from serving.limits import Limits
from serving.metrics import Metrics
from tests.helpers.extraction_samples import TinyRun
from tests.helpers.service import Service, make_engine, running

LIMITS = Limits(queue=400, sentences=40, characters=5000, body_bytes=20_000, seconds=60)


@pytest.fixture(scope="session")
def extractor(tiny_run: TinyRun) -> TripletExtractor:
    """The model with its adapter."""
    return load_extractor(tiny_run.adapter)


@pytest.fixture(scope="module")
def service(extractor: TripletExtractor) -> Iterator[Service]:
    """A service that nobody has changed."""
    metrics = Metrics()
    with running(make_engine([("tiny", extractor)], LIMITS, metrics, 8), LIMITS, metrics) as started:
        yield started

"""The service's description of itself: requests made after it never find the service at fault."""

from __future__ import annotations

import re

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import checks

from tests.helpers.service import Service

# What fits the description may still ask for a model or predicate that isn't there: a refusal is right.
CHECKED = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_after_the_description(service: Service, method: str) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    chosen = [operation for operation in operations if operation.method.upper() == method]
    assert len(chosen) >= 2
    for operation in chosen:
        modes = [schemathesis.GenerationMode.POSITIVE]
        if method == "POST":
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:

            @hypothesis.settings(
                max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck)
            )
            @hypothesis.seed(0)
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def check(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=CHECKED)

            check()


def test_the_page_for_people_names_every_route_and_loads_nothing_from_elsewhere(service: Service) -> None:
    page = service.client.get("/docs").text
    for path in service.client.get("/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in page
    assert not re.search(r"<script|https?://(?!127\.0\.0\.1:8000)|style=", page)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"/page/docs.css", "/openapi.json"}
    assert service.client.get("/page/docs.css").headers["content-type"].startswith("text/css")


def test_figures_for_prometheus(service: Service) -> None:
    service.extract(texts=["余华写《活着》。", ""])
    text = service.client.get("/metrics").text
    for line in (
        r'triplet_requests_total\{route="/v1/extract",status="200"\} ',
        r'triplet_request_seconds_bucket\{le="0.5",route="/v1/extract"\} ',
        r'triplet_request_recent_seconds\{quantile="0.95",route="/v1/extract"\} ',
        r'triplet_sentences_total\{model="tiny",outcome="ok"\} ',
        r'triplet_tokens_total\{kind="answer",model="tiny"\} ',
        r"triplet_rows_in_use 0.0",
        r"triplet_rows_capacity 8.0",
        r"triplet_queue_sentences 0.0",
        r"triplet_wait_seconds_count ",
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["triplet_requests"].type == "counter"
    assert families["triplet_request_seconds"].type == "histogram"
    service.client.get("/strangers/choose/this")
    assert "strangers" not in service.client.get("/metrics").text
    health = service.client.get("/health").json()
    assert (health["status"], health["models"], health["limits"]["sentences"]) == ("ready", ["tiny"], 40)

"""`POST /v1/extract`: triplets of sentences, at once or as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from extraction.records import typed_problem
from serving.answers import Extractions, check_size, choose
from serving.body import StrictRoute
from serving.engine import Engine
from serving.errors import RequestError
from serving.limits import Limits
from serving.metrics import Metrics
from serving.schemas import ExtractRequest, ExtractResponse, StreamedResult
from utils.common_utils import to_json

NDJSON, SSE = "application/x-ndjson", "text/event-stream"
T = TypeVar("T")


def make_router(engine: Engine, limits: Limits, metrics: Metrics) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=StrictRoute, tags=["抽取"])
    streamed = {
        NDJSON: {"schema": StreamedResult.model_json_schema(ref_template="#/components/schemas/{model}")},
        SSE: {"schema": {"type": "string"}},
    }

    @router.post("/v1/extract", response_model=ExtractResponse, responses={200: {"content": streamed}})
    async def extract(request: Request, body: ExtractRequest) -> Response:
        """抽取一个或多个句子的三元组。

        结果的写法与命令 `inference_triplet.py --input … --output …` 的一行相同，另有位置。要随到随得，
        写 `"stream": true`，或用请求头 `Accept: application/x-ndjson`（每句一行）、
        `Accept: text/event-stream`（SSE）。
        """
        lane = engine.find(body.model)
        check_size(body.sentences, limits)
        if body.text is not None and (problem := typed_problem(body.text)):
            raise RequestError(422, "bad_sentence", f"text 不能抽取：{problem}。", param="text")
        wanted = choose(lane, body)
        seconds = min(body.timeout or limits.seconds, limits.seconds)
        extractions = Extractions(engine, lane, body.sentences, wanted, seconds)
        if (kind := stream_kind(request, body.stream)) is not None:
            return StreamingResponse(stream(extractions, kind, metrics), media_type=kind)
        results = await unless_gone(request, collect(extractions))
        if extractions.answers.timed_out and all("error" in each for each in results):
            raise RequestError(
                504, "timeout", f"超过了 {seconds:g} 秒的时限，一句也没有做完。", limit=seconds
            )
        return json_response({"model": lane.name, "results": results})

    return router


def stream_kind(request: Request, wanted: bool) -> str | None:
    """Return the media type of a stream, if one is wanted by the body or by the Accept header."""
    accepted = request.headers.get("accept", "").lower()
    if SSE in accepted:
        return SSE
    return NDJSON if wanted or "ndjson" in accepted or "jsonl" in accepted else None


async def stream(extractions: Extractions, kind: str, metrics: Metrics) -> AsyncIterator[bytes]:
    """Yield each result as soon as it is there, with its place in the request."""
    try:
        async for index, fields in extractions:
            line = to_json({"index": index, **fields})
            yield (f"event: result\ndata: {line}\n\n" if kind == SSE else f"{line}\n").encode()
        if kind == SSE:
            yield b"event: done\ndata: {}\n\n"
    except (asyncio.CancelledError, GeneratorExit):
        metrics.failed("hung_up")
        raise
    finally:
        extractions.answers.cancel()


async def collect(extractions: Extractions) -> list[dict[str, Any]]:
    """Return all results in the order of the sentences."""
    try:
        results = {index: fields async for index, fields in extractions}
    finally:
        extractions.answers.cancel()
    return [results[index] for index in sorted(results)]


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for a result, but not for a client that has hung up.

    Raises:
        RequestError: it has; nobody reads it.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, gone = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise RequestError(499, "hung_up", "客户端已断开。")
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()


def json_response(content: dict[str, Any]) -> Response:
    """Return JSON with Chinese as it is."""
    return Response(to_json(content).encode(), media_type="application/json")

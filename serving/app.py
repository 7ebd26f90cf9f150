"""The routes of the service, and what stands around all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from serving import description, extract, openai, pages
from serving.body import describe
from serving.engine import Engine
from serving.errors import RequestError
from serving.limits import Limits
from serving.metrics import Metrics
from serving.schemas import ErrorModel, Health, ModelDetails, ModelList
from serving.security import Gate
from utils import __version__

_PLAIN = {
    404: ("not_found", "没有这个地址，用法见 /docs。"),
    405: ("method_not_allowed", "这个地址不接受这种方法，用法见 /docs。"),
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorModel, "description": text}
    for status, text in {
        400: "请求不能满足",
        401: "没有密钥或密钥不对",
        403: "别的网站的页面发来的",
        404: "没有这个模型",
        408: "请求体发得太慢",
        413: "超过了大小的上限",
        421: "Host 不是本服务的名字",
        422: "字段不合要求",
        429: "排队的太多，Retry-After 秒后再试",
        503: "在加载或正在停止",
        504: "超过时限",
    }.items()
}


def make_app(
    engine: Engine,
    limits: Limits,
    metrics: Metrics,
    *,
    api_key: str | None = None,
    hosts: frozenset[str] | None = None,
    routers: Sequence[APIRouter] = (),
) -> Gate:
    """Return the whole service as an ASGI application.

    Args:
        engine: answers.
        limits, metrics: of requests.
        api_key, hosts: see `Gate`.
        routers: further routes.
    """
    app = FastAPI(
        title="三元组抽取服务",
        version=__version__,
        description="从中文句子中抽取三元组。用法见 /docs。",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # the gate drops them
    )
    app.include_router(extract.make_router(engine, limits, metrics), responses=REFUSALS)
    app.include_router(openai.make_router(engine, limits, metrics), responses=REFUSALS)
    app.include_router(_make_router(engine, limits, metrics))
    for router in routers:
        app.include_router(router)
    app.include_router(pages.make_router())
    app.include_router(description.make_router(app))

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            error = describe(error)
        elif isinstance(error, HTTPException) and not isinstance(error, RequestError):
            code, said = _PLAIN.get(error.status_code, ("refused", str(error.detail)))
            allow = (error.headers or {}).get("Allow")
            allow = _allowed(app, request, allow) if allow is not None else None
            error = RequestError(error.status_code, code, said, allow=allow)
        assert isinstance(error, RequestError)
        metrics.failed(error.code)
        return JSONResponse(error.body(), error.status_code, error.headers)

    async def apologise(request: Request, error: Exception) -> Response:
        failure = RequestError(500, "internal", f"服务内部出错：{type(error).__name__}。")
        metrics.failed(failure.code)
        return JSONResponse(failure.body(), failure.status_code)

    app.add_exception_handler(Exception, apologise)
    for kind in (RequestValidationError, HTTPException):
        app.add_exception_handler(kind, refuse)
    return Gate(app, limits, metrics, api_key, hosts)


def _allowed(app: FastAPI, request: Request, first: str) -> str:
    """Return the methods that an address takes, knowing those of the first route that it fits."""
    path = getattr(request.scope.get("route"), "path", "")
    described = app.openapi()["paths"].get(path, {})
    methods = {*filter(None, first.split(", ")), *map(str.upper, described)}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _make_router(engine: Engine, limits: Limits, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["服务"])

    @router.get(
        "/health", response_model=Health, responses={503: {"model": Health, "description": "还不能用"}}
    )
    async def health() -> Response:
        """服务的状态：loading（在加载）、ready（可以用）、draining（正在停止）；后两种以外是 503。"""
        content = {
            "status": engine.state,
            "models": list(engine.lanes),
            "waiting": engine.waiting,
            "rows": engine.rows,
            "capacity": engine.capacity,
            "limits": asdict(limits),
        }
        return JSONResponse(content, 200 if engine.state == "ready" else 503)

    @router.get("/metrics", response_class=Response)
    async def figures() -> Response:
        """给 Prometheus 的数字：队列、正在用的行、token、延迟的分布与分位数、各种失败。"""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/v1/models", response_model=ModelList, responses={503: REFUSALS[503]})
    async def models() -> Response:
        """可用的模型：一个基座上的各个适配器。"""
        engine.find(None)
        data = [openai.describe_model(engine, lane) for lane in engine.lanes.values()]
        return JSONResponse({"object": "list", "data": data})

    @router.get(
        "/v1/models/{name}", response_model=ModelDetails, responses={n: REFUSALS[n] for n in (404, 503)}
    )
    async def model(name: str) -> Response:
        """一个模型，和它的 schema 里的全部关系。"""
        return JSONResponse(openai.describe_model(engine, engine.find(name), whole=True))

    return router

"""The routes of the page: its own files by their names, nothing else of the disk."""

from __future__ import annotations

import hashlib

from fastapi import APIRouter, Request
from starlette.responses import Response

from serving import page
from serving.errors import RequestError


def make_router() -> APIRouter:
    """Return the routes: the page at `/`, its files below `/page/`."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        return _answer(request, "index.html")

    @router.get("/page/{name}")
    async def file(request: Request, name: str) -> Response:
        return _answer(request, name)

    return router


def _answer(request: Request, name: str) -> Response:
    if (file := page.find(name)) is None:
        raise RequestError(404, "not_found", "没有这个文件。")
    content = file.path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**page.HEADERS, "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=file.media_type, headers=headers)

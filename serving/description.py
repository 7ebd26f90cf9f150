"""The service's description of itself: `/openapi.json` for programs, `/docs` for people, without a script."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import HTMLResponse, JSONResponse, Response

_CODE, _AS_CODE = re.compile("`([^`]+)`"), r"<code>\1</code>"
_EXAMPLES = {
    "/v1/extract": """curl http://127.0.0.1:8000/v1/extract -H 'Content-Type: application/json' \\
  -d '{"text": "《活着》是余华的小说。", "scores": true}'""",
    "/v1/chat/completions": """curl http://127.0.0.1:8000/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
  -d '{"messages": [{"role": "user", "content": "《活着》是余华的小说。"}],
       "response_format": {"type": "json_object"}}'""",
    "/health": "curl http://127.0.0.1:8000/health",
    "/metrics": "curl http://127.0.0.1:8000/metrics",
    "/v1/models": "curl http://127.0.0.1:8000/v1/models",
}


def make_router(app: FastAPI) -> APIRouter:
    """Return the routes that describe all others of an application."""
    router = APIRouter(include_in_schema=False)

    @router.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(app.openapi())

    @router.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(_page(app.openapi()))

    return router


def _page(content: dict[str, Any]) -> str:
    """Return the description as a page."""
    schemas = content.get("components", {}).get("schemas", {})
    parts = []
    for path, methods in content["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<section><h2>{method.upper()} <code>{escape(path)}</code></h2>")
            parts.append(_paragraphs(operation.get("description", "")))
            if path in _EXAMPLES:
                parts.append(f"<pre>{escape(_EXAMPLES[path])}</pre>")
            body = (
                operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            )
            if body:
                parts.append("<h3>请求</h3>" + _fields(body, schemas))
            answer = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
            if answer.get("schema"):
                parts.append("<h3>回答</h3>" + _fields(answer["schema"], schemas))
            refusals = {code: each for code, each in operation["responses"].items() if code != "200"}
            if refusals:
                rows = [
                    (f"<code>{code}</code>", escape(each["description"])) for code, each in refusals.items()
                ]
                parts.append("<h3>拒绝</h3>" + _table(("状态", "意思"), rows))
            parts.append("</section>")
    title = escape(content["info"]["title"])
    return (
        f'<!doctype html><html lang="zh"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/page/docs.css"></head><body><main>'
        f"<h1>{title} {escape(content['info']['version'])}</h1>{_paragraphs(content['info']['description'])}"
        '<p>给程序读的描述在 <a href="/openapi.json">openapi.json</a>。</p>'
        f"{''.join(parts)}</main></body></html>"
    )


def _paragraphs(text: str) -> str:
    """Return paragraphs of Chinese, whose lines join without a blank; `…` is code."""
    parts = (escape(part.replace("\n", "")) for part in text.split("\n\n") if part.strip())
    return "".join(f"<p>{_CODE.sub(_AS_CODE, part)}</p>" for part in parts)


def _fields(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Return a table of an object's fields."""
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    needed = set(schema.get("required", ()))
    rows = []
    for name, part in schema.get("properties", {}).items():
        default = "必填" if name in needed else json.dumps(part.get("default"), ensure_ascii=False)
        kind = f"<code>{escape(_kind(part))}</code>"
        rows.append(
            (f"<code>{escape(name)}</code>", kind, escape(default), escape(part.get("description", "")))
        )
    return _table(("字段", "类型", "默认", "说明"), rows)


def _kind(part: dict[str, Any]) -> str:
    """Return a short name of a type."""
    if "$ref" in part:
        return str(part["$ref"]).rpartition("/")[2]
    if "anyOf" in part:
        return " | ".join(_kind(each) for each in part["anyOf"])
    if "enum" in part or "const" in part:
        return " | ".join(json.dumps(each) for each in part.get("enum", [part.get("const")]))
    if part.get("type") == "array":
        return f"[{_kind(part.get('items', {}))}]"
    return str(part.get("type", "any"))


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

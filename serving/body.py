"""Reading requests' bodies: strict JSON, and what is wrong with it in Chinese."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Coroutine
from typing import Any

import pydantic_core
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from serving.errors import RequestError

SHOWN = 5  # problems in one answer
# What pydantic says of values, by its types of errors; {…} are of its context.
_PROBLEMS = {
    "missing": "缺少这个字段",
    "extra_forbidden": "没有这个字段",
    "string_type": "应当是字符串",
    "list_type": "应当是列表",
    "bool_type": "应当是 true 或 false",
    "int_type": "应当是整数",
    "float_type": "应当是数",
    "finite_number": "应当是有限的数",
    "dict_type": "应当是对象",
    "model_type": "应当是对象",
    "model_attributes_type": "应当是对象",
    "too_short": "至少要有 {min_length} 项",
    "too_long": "至多 {max_length} 项，现在是 {actual_length} 项",
    "string_too_short": "不能是空的",
    "string_too_long": "至多 {max_length} 个字符",
    "greater_than": "应大于 {gt}",
    "greater_than_equal": "应不小于 {ge}",
    "less_than_equal": "应不大于 {le}",
    "literal_error": "应为 {expected}",
    "json_invalid": "不是合法的 JSON（{error}）",
    "string_unicode": "含有不成对的代理字符",
}


class StrictRequest(Request):
    """A request whose body is JSON as the standard has it: no NaN, no halves of characters, no abyss."""

    async def json(self) -> Any:
        """Return the body's content."""
        body = (await self.body()).removeprefix(codecs.BOM_UTF8)
        try:
            return pydantic_core.from_json(body, allow_inf_nan=False)
        except ValueError as error:
            problem = f"不是合法的 JSON：{error}" if _is_utf8(body) else "应当是 UTF-8 编码的 JSON"
            raise RequestError(400, "invalid_json", f"请求体{problem}。") from None


class StrictRoute(APIRoute):
    """A route whose requests are read strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what FastAPI calls for each request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


def describe(error: RequestValidationError) -> RequestError:
    """Return the refusal that says what is wrong with a request's fields."""
    problems = []
    for each in error.errors():
        # Of a choice of types, pydantic has each one's name as a part: "str", "list[…]".
        parts = [str(part) for part in each["loc"] if part not in ("body", "str")]
        place = ".".join(part for part in parts if "[" not in part)
        context = each.get("ctx") or {}
        if each["type"] == "value_error":
            said = str(context.get("error", each["msg"]))
        else:
            said = _PROBLEMS.get(each["type"], each["msg"]).format_map(_Known(context))
        if not place and each["type"] == "missing":
            said = "请求体是空的，应当是 JSON 对象"
        elif not place and each["type"] == "model_attributes_type":
            said = "请求体应当是 JSON 对象，并写明 Content-Type: application/json"
        problems.append(f"{place[:100]} {said}" if place else said)
    text = "；".join(problems[:SHOWN]) + (f"；等 {len(problems)} 处" if len(problems) > SHOWN else "")
    first = next(iter(error.errors()), {"loc": ()})["loc"]
    param = next((str(part) for part in first if part != "body"), None)
    return RequestError(422, "invalid_request", f"请求不符合要求：{text}。", param=param)


def _is_utf8(body: bytes) -> bool:
    try:
        return "\0" not in body.decode("utf-8")  # UTF-16 without its mark is full of them
    except UnicodeDecodeError:
        return False


class _Known(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "…"

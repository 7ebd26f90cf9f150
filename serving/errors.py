"""Refusals: one shape for all of them, the one that clients of the OpenAI kind know."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class RequestError(HTTPException):
    """A request that is refused, or could not be answered.

    Args:
        status: of HTTP.
        code: for programs.
        message: for people, in Chinese.
        param: the field of the request that it is about.
        limit: the number that was passed, if it is one.
        retry_after: seconds after which to try again.
        allow: the methods that would do.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        limit: float | None = None,
        retry_after: int | None = None,
        allow: str | None = None,
    ) -> None:
        headers = {"retry-after": str(retry_after)} if retry_after is not None else {}
        headers |= {"allow": allow} if allow is not None else {}
        headers |= {"www-authenticate": "Bearer"} if status == 401 else {}
        super().__init__(status, message, headers)
        self.code = code
        self.param = param
        self.limit = limit

    def body(self) -> dict[str, Any]:
        """Return what the client is told."""
        kind = _TYPES.get(
            self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error"
        )
        error: dict[str, Any] = {"message": self.detail, "type": kind, "code": self.code, "param": self.param}
        if self.limit is not None:
            error["limit"] = self.limit
        return {"error": error}

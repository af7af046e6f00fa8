"""Errors as the OpenAI API writes them: {"error": {"message", "type", "param", "code"}} under a status."""

from __future__ import annotations

from typing import Any

_TYPES = {401: "authentication_error", 408: "timeout_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """param: the field of the request that is wrong. retry_after: seconds after which to come again."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def as_json(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A mistake in the request, status 400."""
    return ApiError(400, message, param=param, code=code)

"""Errors in the words of each API: every client library understands only its own (spec: python-io.md, Clients)."""

from __future__ import annotations

import html
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec.json

from supervisor.errors import (
    ConcurrencyLimit,
    ConfigRejected,
    MethodNotAllowed,
    ModelCrashed,
    ModelFailed,
    SupervisorError,
    Unauthorized,
)

if TYPE_CHECKING:
    from supervisor.proxy.heads import Headers

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Dialect(Enum):
    """Whose error shape a route speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


def status_of(error: SupervisorError) -> int:
    """A failure nobody but the owner can mend is a 500; one that may pass is a 503, which clients retry."""
    if isinstance(error, ModelFailed) and not isinstance(error, ModelCrashed):
        return HTTPStatus.INTERNAL_SERVER_ERROR if error.failure.permanent else HTTPStatus.SERVICE_UNAVAILABLE
    return error.status


def error_json(error: SupervisorError, dialect: Dialect = Dialect.OPENAI) -> dict[str, object]:
    """The error as the body of an answer."""
    message = f"{error.message}; hint: {error.hint}" if error.hint else error.message
    failure: dict[str, object] = {}
    if isinstance(error, ModelFailed):
        failure = {"failure": error.failure.as_json()}
    elif isinstance(error, ConfigRejected):
        failure = {"problems": error.problems}
    if dialect is Dialect.ANTHROPIC:
        kind = _ANTHROPIC_TYPES.get(status_of(error), "api_error")
        return {"type": "error", "error": {"type": kind, "message": message, **failure}}
    code = error.failure.cause if isinstance(error, ModelFailed) else error.code
    return {"error": {"message": message, "type": error.type, "param": None, "code": code, **failure}}


def error_response(error: SupervisorError, dialect: Dialect, accept: bytes) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an answer; text or HTML for who prefers that."""
    kind, body = _body(error, dialect, accept)
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after))))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b'Basic realm="llama-supervise"'))  # a browser asks for the key
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allowed.encode()))
    if isinstance(error, ModelFailed) and error.failure.permanent:
        headers.append((b"x-should-retry", b"false"))  # what the openai and anthropic clients obey
    return status_of(error), headers, body


def error_event(error: SupervisorError, dialect: Dialect) -> bytes:
    """The error as the last event of a stream, in the form that makes the route's own client raise."""
    data = msgspec.json.encode(error_json(error, dialect))
    if dialect is Dialect.ANTHROPIC:
        return b"event: error\ndata: " + data + b"\n\n"
    return b"data: " + data + b"\n\n"


def _body(error: SupervisorError, dialect: Dialect, accept: bytes) -> tuple[bytes, bytes]:
    if isinstance(error, ConcurrencyLimit):
        accept = b""  # clients that retry read its code
    text = f"{error.message}\nhint: {error.hint}\n" if error.hint else f"{error.message}\n"
    if b"json" not in accept and b"text/plain" in accept:
        return b"text/plain; charset=utf-8", text.encode()
    if b"json" not in accept and b"text/html" in accept:
        page = f"<!doctype html><title>llama-supervise</title><pre>{html.escape(text)}</pre>"
        return b"text/html; charset=utf-8", page.encode()
    return b"application/json", msgspec.json.encode(error_json(error, dialect))

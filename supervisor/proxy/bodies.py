"""A request's body: read within bounds, and the model it names found without decoding the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from supervisor.errors import BodyTooLarge, InvalidRequest
from supervisor.proxy.heads import header

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

NAME_LIMIT = 4096
"""Bytes of a model's name in a form."""


class ClientGone(Exception):
    """Raised when the client left before it had sent its request."""


class Head(msgspec.Struct):
    """The fields of a request's JSON that concern us; the rest is not decoded."""

    model: str | None = None
    stream: msgspec.Raw = msgspec.Raw()

    @property
    def wants_stream(self) -> bool:
        return bytes(self.stream) == b"true"


_decoder = msgspec.json.Decoder(Head)
_BOUNDARY = re.compile(rb'boundary="?([^";,\s]{1,70})', re.IGNORECASE)
_DISPOSITION = re.compile(rb"\r\ncontent-disposition:([^\r\n]*)", re.IGNORECASE)
_PARAMETER = re.compile(rb';\s*([\w*-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body; raises `BodyTooLarge` as soon as that is certain, `ClientGone` when it will never be whole."""
    announced = header(scope["headers"], b"content-length")
    if announced is not None and int(announced) > limit:
        raise _too_large(int(announced), limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(size, limit)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def head_of_json(body: bytes) -> Head:
    """The head of a JSON object; raises `InvalidRequest` when it is none."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"the request body: {exc}", hint='expected a JSON object with "model": "NAME"') from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc


def model_in_form(content_type: bytes, body: bytes) -> str | None:
    """The field `model` of a multipart form, wherever in it; raises `InvalidRequest` when it is no form."""
    boundary = _BOUNDARY.search(content_type)
    if b"multipart/form-data" not in content_type.lower() or boundary is None:
        raise InvalidRequest("expected a multipart/form-data body with a boundary", hint="send the file as a form")
    delimiter = b"\r\n--" + boundary[1]
    start = 0 if body.startswith(delimiter[2:]) else body.find(delimiter)
    while start >= 0:
        head_end = body.find(b"\r\n\r\n", start)
        if head_end < 0:
            return None
        end = body.find(delimiter, head_end)
        if _is_model_field(body[start:head_end]):
            value = body[head_end + 4 : end if end >= 0 else len(body)]
            return value[:NAME_LIMIT].decode(errors="replace").strip()
        start = end
    return None


def _is_model_field(head: bytes) -> bool:
    """Whether a part is the field `model`, and no file that happens to be called so."""
    disposition = _DISPOSITION.search(head)
    if disposition is None:
        return False
    parameters = {name.lower(): value.strip(b' "') for name, value in _PARAMETER.findall(disposition[1])}
    return parameters.get(b"name") == b"model" and b"filename" not in parameters


def _too_large(size: int, limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the request body has {size} bytes or more; at most {limit} are allowed", hint="`server.max_body` sets it"
    )

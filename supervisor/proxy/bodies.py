"""The model that a request's body names, found without decoding the rest."""

from __future__ import annotations

import re

import msgspec

from supervisor.errors import InvalidRequest

NAME_LIMIT = 4096
"""Bytes of a model's name in a form."""


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


def head_of_json(body: bytes) -> Head:
    """The head of a JSON object; raises `InvalidRequest` when it is none."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"the request body: {exc}", hint='expected a JSON object with "model": "NAME"') from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc


def model_in_form(content_type: bytes, body: bytes, *, is_whole: bool = True) -> str | None:
    """The field `model` of a multipart form, wherever in it; of one on its way, as soon as that part has ended.

    Raises `InvalidRequest` when it is no form.
    """
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
            if end < 0 and not is_whole:
                return None
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

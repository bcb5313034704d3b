"""The model that a request's body names, found without decoding the rest."""

from __future__ import annotations

import re

import msgspec

from supervisor.errors import InvalidRequest

NAME_LIMIT = 4096
"""Bytes of a model's name in a form."""


class Name(str):
    """A model's name as JSON has it. Of a type of ours, so that each is heard of: one name may be given twice."""

    __slots__ = ()


class Head(msgspec.Struct):
    """The fields of a request's JSON that concern us; the rest is not decoded."""

    model: Name | None = None
    stream: msgspec.Raw = msgspec.Raw()

    @property
    def wants_stream(self) -> bool:
        return bytes(self.stream) == b"true"


_given: list[str] = []
"""The names in the JSON that is being decoded."""


def _named(_: type, value: object) -> Name:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    _given.append(str(value))  # a number is a name that a client has taken for one
    return Name(value)


_decoder = msgspec.json.Decoder(Head, dec_hook=_named)
_BOUNDARY = re.compile(rb'boundary="?([^";,\s]{1,70})', re.IGNORECASE)
_DISPOSITION = re.compile(rb"\r\ncontent-disposition:([^\r\n]*)", re.IGNORECASE)
_PARAMETER = re.compile(rb';\s*([\w*-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')


def head_of_json(body: bytes) -> Head:
    """The head of a JSON object; raises `InvalidRequest` when it is none."""
    _given.clear()
    try:
        head = _decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"the request body: {exc}", hint='expected a JSON object with "model": "NAME"') from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc
    if len(_given) > 1:
        raise InvalidRequest("the request body names `model` twice", hint="who reads it next may take the other one")
    return head


def model_in_form(content_type: bytes, body: bytes, *, is_whole: bool = True) -> str | None:
    """The field `model` of a multipart form, wherever in it; of one on its way, as soon as that part has ended.

    Raises `InvalidRequest` when it is no form.
    """
    found = _model_field(content_type, body)
    if found is None or (found[1] is None and not is_whole):
        return None
    begin, end = found
    return body[begin:end][:NAME_LIMIT].decode(errors="replace").strip()


def renamed_in_form(content_type: bytes, body: bytes, model: str) -> bytes:
    """The same form with another value of its field `model`; all else stays byte for byte."""
    found = _model_field(content_type, body)
    if found is None:
        return body
    begin, end = found
    return body[:begin] + model.encode() + (body[end:] if end is not None else b"")


def _model_field(content_type: bytes, body: bytes) -> tuple[int, int | None] | None:
    """Where the value of the field `model` begins and ends; it ends nowhere yet if the form is not whole."""
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
            return head_end + 4, end if end >= 0 else None
        start = end
    return None


def _is_model_field(head: bytes) -> bool:
    """Whether a part is the field `model`, and no file that happens to be called so."""
    disposition = _DISPOSITION.search(head)
    if disposition is None:
        return False
    parameters = {name.lower(): value.strip(b' "') for name, value in _PARAMETER.findall(disposition[1])}
    return parameters.get(b"name") == b"model" and b"filename" not in parameters

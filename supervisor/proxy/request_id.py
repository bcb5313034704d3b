"""The name of a request, by which its client, its answer, our log and the model's server can speak of the same one."""

from __future__ import annotations

import re
import secrets
from itertools import count
from typing import TYPE_CHECKING

from supervisor.proxy.heads import fields_of

if TYPE_CHECKING:
    from supervisor.proxy.heads import Fields, Headers

REQUEST_ID = b"x-request-id"
VALID = re.compile(rb"[!-~]{1,128}")
"""What is taken over from a client: visible ASCII, so that it can be neither two lines of a log nor a long story."""

_PREFIX = secrets.token_hex(4)
"""Tells the requests of this process from those of any other."""
_count = count(1)


def new_request_id() -> str:
    """A name that no other request has."""
    return f"{_PREFIX}-{next(_count):x}"


def request_id_of(headers: Headers, fields: Fields) -> str:
    """The name of the request with these headers: its client's, or a new one."""
    given = fields.get(REQUEST_ID)
    if given is None or not VALID.fullmatch(given) or sum(name == REQUEST_ID for name, _ in headers) > 1:
        return new_request_id()
    return given.decode()


def with_request_id(headers: Headers) -> Headers:
    """The headers of a request, its name once among them."""
    name = request_id_of(headers, fields_of(headers))
    return [*(pair for pair in headers if pair[0] != REQUEST_ID), (REQUEST_ID, name.encode())]

"""The name of a request, by which its client, its answer, our log and the model's server can speak of the same one."""

from __future__ import annotations

import re
import secrets
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.proxy.heads import Headers

REQUEST_ID = b"x-request-id"
VALID = re.compile(rb"[!-~]{1,128}")
"""What is taken over from a client: visible ASCII, so that it can be neither two lines of a log nor a long story."""

_PREFIX = secrets.token_hex(4)
"""Tells the requests of this process from those of any other."""
_count = count(1)


def new_request_id() -> str:
    """A name that no other request has."""
    return f"{_PREFIX}-{next(_count):x}"


def request_id_of(headers: Headers) -> str:
    """The name of the request with these headers: its client's, or a new one."""
    given = [value for name, value in headers if name == REQUEST_ID]
    return given[0].decode() if len(given) == 1 and VALID.fullmatch(given[0]) else new_request_id()


def with_request_id(headers: Headers) -> Headers:
    """The headers of a request, its name once among them."""
    return [*(pair for pair in headers if pair[0] != REQUEST_ID), (REQUEST_ID, request_id_of(headers).encode())]

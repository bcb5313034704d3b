"""What a request asks for: which model, and whether as a stream, wherever its kind of body says so.

llama-swap goes by the content type alone (spec: llama-swap.md, section 1.2); JSON is understood without one, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

from supervisor.errors import InvalidRequest
from supervisor.proxy.bodies import head_of_json, model_in_form
from supervisor.proxy.routes import Source

if TYPE_CHECKING:
    from supervisor.proxy.client import Client

URLENCODED_LIMIT = 64 * 1024
"""Bytes of a form of names and values; nobody sends prompts so."""


class Asked(NamedTuple):
    """What was understood of a request."""

    model: str | None
    source: Source | None
    """The kind of body the model was found in; None for one that cannot be changed."""
    wants_stream: bool = False


def kind_of(client: Client) -> Source | None:
    """The kind of body its content type tells."""
    content_type = client.fields.get(b"content-type", b"").lower()
    if b"json" in content_type:
        return Source.JSON
    return Source.FORM if b"multipart/form-data" in content_type else None


def asked_of(client: Client, usual: Source, body: bytes) -> Asked:
    """What a request asks for; `usual` is where its route has the model. Raises `InvalidRequest`."""
    if usual is Source.JSON and body.startswith(b"{"):
        return _in_json(client, body)
    if usual is Source.QUERY:
        return Asked(_in_query(client.query), Source.QUERY)
    match kind_of(client) or usual:
        case Source.FORM:
            return Asked(model_in_form(client.fields.get(b"content-type", b""), body), Source.FORM)
        case _:
            return _in_json(client, body)


def _in_json(client: Client, body: bytes) -> Asked:
    try:
        head = head_of_json(body)
    except InvalidRequest:
        name = None if kind_of(client) is Source.JSON else _in_pairs(client, body)
        if name is None and b"urlencoded" not in client.fields.get(b"content-type", b""):
            raise
        return Asked(name, None)
    return Asked(head.model, Source.JSON, head.wants_stream)


def _in_pairs(client: Client, body: bytes) -> str | None:
    """The model in a body of names and values as HTML forms send it, or else in the query."""
    text = body.decode("latin-1") if len(body) <= URLENCODED_LIMIT else ""
    return next(iter(parse_qs(text).get("model", ())), None) or _in_query(client.query)


def _in_query(query: bytes) -> str | None:
    return next(iter(parse_qs(query.decode("latin-1")).get("model", ())), None)

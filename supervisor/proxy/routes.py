"""The routes that lead to a child: where each names its model, and whose errors it speaks. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from supervisor.proxy.dialects import Dialect


class Source(Enum):
    """Where a request names its model."""

    JSON = "json"
    FORM = "form"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Route:
    """One path of the data plane."""

    source: Source
    methods: frozenset[str]
    dialect: Dialect = Dialect.OPENAI
    wakes: bool = True
    """Whether a request loads the model; looking at a child must not start it."""
    streams: bool = False
    """Whether `"stream": true` makes the answer an event stream, which comments may precede."""


_POST = frozenset({"POST"})
_GET = frozenset({"GET", "HEAD"})

_JSON = Route(Source.JSON, _POST)
_CHAT = Route(Source.JSON, _POST, streams=True)
_FORM = Route(Source.FORM, _POST)
_ANTHROPIC = Route(Source.JSON, _POST, Dialect.ANTHROPIC, streams=True)

ROUTES: dict[str, Route] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _CHAT,
    "/v1/responses": _CHAT,
    "/v1/embeddings": _JSON,
    "/v1/messages": _ANTHROPIC,
    "/v1/messages/count_tokens": _ANTHROPIC,
    "/v1/rerank": _JSON,
    "/v1/reranking": _JSON,
    "/rerank": _JSON,
    "/reranking": _JSON,
    "/v1/audio/transcriptions": _FORM,
    "/v1/audio/speech": _JSON,
    "/v1/images/generations": _JSON,
    "/v1/images/edits": _FORM,
    "/infill": _CHAT,
    "/completion": _CHAT,
    "/completions": _CHAT,
    "/chat/completions": _CHAT,
    "/embedding": _JSON,
    "/embeddings": _JSON,
    "/tokenize": _JSON,
    "/detokenize": _JSON,
    "/apply-template": _JSON,
    "/props": Route(Source.QUERY, _GET),
    "/slots": Route(Source.QUERY, _GET, wakes=False),
    "/metrics": Route(Source.QUERY, _GET, wakes=False),
}

UPSTREAM = "/upstream/"
"""Everything behind this and a model's name goes to its child as it is."""


def dialect_of(path: str) -> Dialect:
    """Whose errors the clients of a path understand."""
    return Dialect.ANTHROPIC if "/v1/messages" in path else Dialect.OPENAI

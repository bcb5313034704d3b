"""The routes that lead to a child: where each names its model, and whose errors it speaks. Data only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from supervisor.proxy.dialects import Dialect
from supervisor.proxy.loading_state import Telling


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
    telling: Telling | None = None
    """In whose words a stream may be told how its model loads."""
    path: str | None = None
    """What its child calls it; None: the same."""
    other: Route | None = None
    """The same path with other methods."""

    def of(self, method: str) -> Route | None:
        """The route for this method; None if there is none."""
        if method in self.methods:
            return self
        return self.other.of(method) if self.other is not None else None

    @property
    def all_methods(self) -> frozenset[str]:
        return self.methods | (self.other.all_methods if self.other is not None else frozenset())


_POST = frozenset({"POST"})
_GET = frozenset({"GET", "HEAD"})

_JSON = Route(Source.JSON, _POST)
_STREAM = Route(Source.JSON, _POST, streams=True)
_CHAT = replace(_STREAM, telling=Telling.CHAT)
_TEXT = replace(_STREAM, telling=Telling.TEXT)
_RESPONSES = replace(_STREAM, telling=Telling.RESPONSES)
_FORM = Route(Source.FORM, _POST)
_QUERY = Route(Source.QUERY, _GET)
_ANTHROPIC = Route(Source.JSON, _POST, Dialect.ANTHROPIC, streams=True)
_MESSAGES = replace(_ANTHROPIC, telling=Telling.MESSAGES)

_SHORT = {
    path: replace(route, path=path.removeprefix("/v"))
    for path, route in {
        "/v/chat/completions": _CHAT,
        "/v/responses": _RESPONSES,
        "/v/completions": _TEXT,
        "/v/messages": _MESSAGES,
        "/v/messages/count_tokens": _ANTHROPIC,
        "/v/embeddings": _JSON,
        "/v/rerank": _JSON,
        "/v/reranking": _JSON,
    }.items()
}
"""For clients that put the version into their base URL (llama-swap #728)."""

ROUTES: dict[str, Route] = _SHORT | {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _TEXT,
    "/v1/responses": _RESPONSES,
    "/v1/embeddings": _JSON,
    "/v1/messages": _MESSAGES,
    "/v1/messages/count_tokens": _ANTHROPIC,
    "/v1/rerank": _JSON,
    "/v1/reranking": _JSON,
    "/rerank": _JSON,
    "/reranking": _JSON,
    "/v1/audio/transcriptions": _FORM,
    "/v1/audio/speech": _JSON,
    "/v1/audio/voices": replace(_JSON, other=_QUERY),
    "/audioapi/v1/tasks/run": replace(_JSON, path="/v1/tasks/run"),
    "/sdapi/v1/txt2img": _JSON,
    "/sdapi/v1/img2img": _JSON,
    "/sdapi/v1/loras": _QUERY,
    "/v1/images/generations": _JSON,
    "/v1/images/edits": _FORM,
    "/infill": _STREAM,
    "/completion": _STREAM,
    "/completions": _STREAM,
    "/chat/completions": _CHAT,
    "/embedding": _JSON,
    "/embeddings": _JSON,
    "/tokenize": _JSON,
    "/detokenize": _JSON,
    "/apply-template": _JSON,
    "/props": _QUERY,
    "/slots": Route(Source.QUERY, _GET, wakes=False),
    "/metrics": Route(Source.QUERY, _GET, wakes=False),
}

UPSTREAM = "/upstream/"
"""Everything behind this and a model's name goes to its child as it is."""
COMFYUI = "/comfyui/"
"""Everything behind this goes to the model `comfyui_auto`; only this path itself may load it."""
COMFYUI_MODEL = "comfyui_auto"


def dialect_of(path: str) -> Dialect:
    """Whose errors the clients of a path understand."""
    return Dialect.ANTHROPIC if "/messages" in path and "/v" in path else Dialect.OPENAI

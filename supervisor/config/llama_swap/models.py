"""A model's and a peer's fields as values: llama-swap's defaults filled in, its units turned into ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from supervisor.config.filters import filters, merged
from supervisor.config.values import Capabilities, Filters, Model, Overload, Peer, Timeouts, Transport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Json

Fields = dict[str, object]

CONCURRENCY = 10
HEALTH_CHECK_TIMEOUT = 120
SHORTEST_HEALTH_CHECK = 15
UNLOAD_TIMEOUT = 10
COMFYUI = "comfyui_auto"
"""The model behind /comfyui: a page with websockets and many small requests."""
COMFYUI_CONCURRENCY = 50

_SAME = ("name", "description", "unlisted", "metadata")
_TIMEOUTS = {
    "connect": "connect",
    "keepalive": "keepalive",
    "responseHeader": "response_header",
    "tlsHandshake": "tls_handshake",
    "expectContinue": "expect_continue",
    "idleConn": "idle_connection",
}


def model(name: str, fields: Fields, file: Mapping[str, object], *, env: Mapping[str, str], port: int | None) -> Model:
    """The model; `file` has what holds where it says nothing itself."""
    own, by_name = _filters(fields)
    health = float(max(SHORTEST_HEALTH_CHECK, _number(file, "healthCheckTimeout", HEALTH_CHECK_TIMEOUT)))
    compat = _table(fields, "compat")
    capabilities = _table(fields, "capabilities")
    return Model(
        id=name,
        cmd=cast("tuple[str, ...]", fields.get("cmd", ())),
        shown_cmd=str(fields.get("shown_cmd", "")),
        cmd_stop=cast("tuple[str, ...]", fields.get("cmdStop", ())),
        proxy=cast("str | None", fields.get("proxy")),
        port=port,
        env=env,
        transport=Transport.TCP,
        check_endpoint=_path(str(fields.get("checkEndpoint", "/health"))),
        load_timeout=health,
        load_limit=health,
        stall_timeout=None,
        unload_timeout=float(_number(fields, "unloadTimeout", 0) or unload_timeout(file)),
        ttl=_ttl(fields, file),
        concurrency=_concurrency(name, fields),
        overload=Overload.REFUSE,
        timeouts=_timeouts(fields, Timeouts()),
        ignore_websockets=bool(compat.get("ignoreWebsockets")) or name == COMFYUI,
        send_loading_state=bool(fields.get("sendLoadingState", file.get("sendLoadingState", False))),
        use_model_name=cast("str", fields.get("useModelName", "")) or None,
        filters=own,
        filters_by_name=by_name,
        capabilities=_capabilities(capabilities) if any(capabilities.values()) else None,
        aliases=cast("tuple[str, ...]", fields.get("aliases", ())),
        **{key: fields[key] for key in _SAME if key in fields},  # type: ignore[arg-type] # checked by `schema`
    )


def peer(fields: Fields) -> Peer:
    """The peer."""
    own, by_name = _filters(fields)
    return Peer(
        proxy=str(fields.get("proxy", "")),
        models=cast("tuple[str, ...]", fields.get("models", ())),
        api_key=cast("str", fields.get("apiKey", "")) or None,
        timeouts=_timeouts(fields, Timeouts(response_header=60.0)),
        filters=own,
        filters_by_name=by_name,
    )


def unload_timeout(file: Mapping[str, object]) -> float:
    """Seconds, where a model says nothing else."""
    return float(_number(file, "unloadTimeout", 0) or UNLOAD_TIMEOUT)


def _path(endpoint: str) -> str:
    """Empty for `none`: here that means that nobody asks, while ours waits for a connection."""
    if endpoint == "none":
        return ""
    return endpoint if endpoint.startswith("/") else f"/{endpoint}"


def _ttl(fields: Fields, file: Mapping[str, object]) -> float | None:
    own = _number(fields, "ttl", -1)
    seconds = _number(file, "globalTTL", 0) if own == -1 else own
    return float(seconds) if seconds > 0 else None


def _concurrency(name: str, fields: Fields) -> int:
    limit = _number(fields, "concurrencyLimit", 0)
    if name == COMFYUI:
        return max(COMFYUI_CONCURRENCY, limit)
    return limit if limit > 0 else CONCURRENCY


def _timeouts(fields: Fields, defaults: Timeouts) -> Timeouts:
    """Whole seconds, of which 0 is no limit."""
    said = {_TIMEOUTS[key]: float(cast("int", value)) or None for key, value in _table(fields, "timeouts").items()}
    return Timeouts(**{name: said.get(name, getattr(defaults, name)) for name in _TIMEOUTS.values()})


def _capabilities(fields: Fields) -> Capabilities:
    return Capabilities(
        inputs=cast("tuple[str, ...]", fields.get("in", ())),
        outputs=cast("tuple[str, ...]", fields.get("out", ())),
        tools=bool(fields.get("tools")),
        reranker=bool(fields.get("reranker")),
        context=_number(fields, "context", 0),
    )


def _filters(fields: Fields) -> tuple[Filters, dict[str, Filters]]:
    """Those of every request, and those of requests by a name with settings of its own."""
    said = _table(fields, "filters")
    strip = cast("tuple[str, ...]", said.get("stripParams") or said.get("strip_params") or ())
    own = filters(strip, force=cast("Mapping[str, Json]", said.get("setParams", {})))
    by_name = cast("Mapping[str, Mapping[str, Json]]", said.get("setParamsByID", {}))
    return own, {name: merged(own, filters(force=force)) for name, force in by_name.items()}


def _number(fields: Mapping[str, object], key: str, default: int) -> int:
    return cast("int", fields.get(key, default))


def _table(fields: Mapping[str, object], key: str) -> Fields:
    return cast("Fields", fields.get(key, {}))

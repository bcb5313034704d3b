"""The keys of a llama-swap file: the kind of each value, its default, and how models.toml says the same.

The one place that says so: reading and docs/llama-swap.md both follow these tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.config.access import hidden
from supervisor.config.filters import path
from supervisor.config.kinds import list_of, not_empty, requiring
from supervisor.config.llama_swap.kinds import (
    BOOLEAN,
    COMMAND,
    FILLED,
    NEEDED_COMMAND,
    PATTERNS,
    TABLE,
    TEXT,
    TEXTS,
    URL,
    Key,
    duration,
    fields_of,
    integer,
    mapping_of,
    of,
    text,
    word,
    word_or_else,
)
from supervisor.config.problems import Mismatch
from supervisor.config.values import Console, Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.place import Place
    from supervisor.config.values import Json

LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "error": "error"}
TIME_FORMATS = [
    "ansic",
    "unixdate",
    "rubydate",
    "rfc822",
    "rfc822z",
    "rfc850",
    "rfc1123",
    "rfc1123z",
    "rfc3339",
    "rfc3339nano",
    "kitchen",
    "stamp",
    "stampmilli",
    "stampmicro",
    "stampnano",
]
MODALITIES = word({name: name for name in ("text", "audio", "image")})


def _api_key(place: Place) -> str:
    value = text(place)
    if not value or " " in value:
        raise Mismatch("a key that is neither empty nor has spaces")
    return value


def _session_headers(place: Place) -> tuple[str, ...]:
    """Header names trimmed, each once whatever its capitals."""
    names = {name.lower(): name for name in reversed([name.strip() for name in TEXTS.read(place)]) if name}
    return tuple(reversed(names.values()))


def _pin(place: Place) -> str | None:
    return text(place) or None


def _stripped(place: Place) -> tuple[str, ...]:
    """Names with commas between; `model` stays where it is."""
    names = {name.strip() for name in text(place).split(",")} - {""}
    if any(map(_is_protected, names)):
        place.warn("any field but `model`", "`model` is never removed")
    return tuple(sorted(name for name in names if not _is_protected(name)))


def _settings(place: Place) -> dict[str, Json]:
    """Fields to set, in the order of their names; `model` is never set."""
    settings = TABLE.read(place)
    for name in filter(_is_protected, settings):
        place.at(name).warn("the name of a field, and not `model`", "it is never set", found=name)
    return {name: settings[name] for name in sorted(settings) if not _is_protected(name)}


def _is_protected(field: str) -> bool:
    return not field or path(field)[0].name == "model"


def _profile(place: Place) -> dict[str, object]:
    if isinstance(place.written, list):
        raise Mismatch("a mapping with `pins`", "lists of models are no longer profiles")
    return requiring(fields_of(PROFILE), "pins").read(place)


SETTINGS = of(_settings)
STRIPPED = of(_stripped)
SECONDS = integer(0)

TIMEOUTS = {
    "connect": Key(SECONDS, "timeouts.connect", "30"),
    "keepalive": Key(SECONDS, "timeouts.keepalive", "30"),
    "responseHeader": Key(SECONDS, "timeouts.response_header", "0", "0 is never, in all timeouts"),
    "tlsHandshake": Key(SECONDS, "timeouts.tls_handshake", "10"),
    "expectContinue": Key(SECONDS, "timeouts.expect_continue", "1"),
    "idleConn": Key(SECONDS, "timeouts.idle_connection", "90"),
}
"""In seconds, 0 for none; the same keys for models and peers."""

FILTERS = {
    "stripParams": Key(STRIPPED, "strip_params", "", "names with commas between"),
    "strip_params": Key(STRIPPED, "strip_params", "", "an older name of `stripParams`"),
    "setParams": Key(SETTINGS, "set_params"),
    "setParamsByID": Key(mapping_of(SETTINGS), "set_params_by_name", "", "its keys are aliases too"),
}

CAPABILITIES = {
    "in": Key(list_of(MODALITIES), "capabilities.inputs"),
    "out": Key(list_of(MODALITIES), "capabilities.outputs"),
    "tools": Key(BOOLEAN, "capabilities.tools", "false"),
    "reranker": Key(BOOLEAN, "capabilities.reranker", "false"),
    "context": Key(integer(0), "capabilities.context", "0"),
}

COMPAT = {"ignoreWebsockets": Key(BOOLEAN, "ignore_websockets", "false")}

MODEL = {
    "cmd": Key(NEEDED_COMMAND, "cmd"),
    "cmdStop": Key(COMMAND, "cmd_stop"),
    "proxy": Key(URL, "proxy", "http://localhost:${PORT}"),
    "aliases": Key(TEXTS, "aliases"),
    "env": Key(TEXTS, "env", "", "`KEY=VALUE` each"),
    "checkEndpoint": Key(TEXT, "check_endpoint", "/health"),
    "ttl": Key(integer(-1), "ttl", "-1", "`globalTTL`; 0 is never"),
    "unloadTimeout": Key(SECONDS, "unload_timeout", "0", "that of the file"),
    "unlisted": Key(BOOLEAN, "unlisted", "false"),
    "useModelName": Key(TEXT, "use_model_name"),
    "name": Key(TEXT, "name"),
    "description": Key(TEXT, "description"),
    "concurrencyLimit": Key(integer(), "concurrency", "0", "10; one request more is refused, where ours wait"),
    "filters": Key(fields_of(FILTERS), ""),
    "macros": Key(TABLE, "", "", "on top of those of the file"),
    "metadata": Key(TABLE, "metadata"),
    "sendLoadingState": Key(BOOLEAN, "send_loading_state", "", "that of the file"),
    "timeouts": Key(fields_of(TIMEOUTS), ""),
    "compat": Key(fields_of(COMPAT), ""),
    "capabilities": Key(fields_of(CAPABILITIES), ""),
    "healthCheckTimeout": Key(integer(), "load_timeout", "", "that of the file, whatever it says"),
}

GROUP = {
    "swap": Key(BOOLEAN, "[groups.NAME] swap", "true"),
    "exclusive": Key(BOOLEAN, "[groups.NAME] exclusive", "true"),
    "persistent": Key(BOOLEAN, "[groups.NAME] persistent", "false"),
    "members": Key(TEXTS, "[groups.NAME] members"),
}

MATRIX = {
    "vars": Key(mapping_of(TEXT), "[matrix] vars"),
    "evict_costs": Key(mapping_of(integer(1)), "[matrix] evict_costs", "1"),
    "sets": Key(not_empty(mapping_of(TEXT)), "[matrix] sets"),
}

GROUPS_KIND = mapping_of(requiring(fields_of(GROUP), "members"))
MATRIX_KIND = requiring(fields_of(MATRIX), "sets")

ROUTER_SETTINGS = {"groups": Key(GROUPS_KIND, ""), "matrix": Key(MATRIX_KIND, "")}
ROUTER = {
    "use": Key(word({"group": "group", "matrix": "matrix"}), "", "group", "there: whichever is said"),
    "settings": Key(fields_of(ROUTER_SETTINGS), ""),
}
FIFO = {"priority": Key(mapping_of(integer()), "priority", "0", "there: a key of the model")}
SCHEDULER_SETTINGS = {"fifo": Key(fields_of(FIFO), "")}
SCHEDULER = {
    "use": Key(word({"fifo": "fifo"}), "", "fifo", "there is no other"),
    "settings": Key(fields_of(SCHEDULER_SETTINGS), ""),
}
ROUTING = {"router": Key(fields_of(ROUTER), ""), "scheduler": Key(fields_of(SCHEDULER), "")}

PROFILE = {
    "description": Key(TEXT, "[profiles.NAME] description"),
    "pins": Key(not_empty(mapping_of(of(_pin))), "[profiles.NAME] pins", "", "null and empty text switch a name off"),
}

SELECTOR_SETTINGS = {"spillover": Key(integer(1), "[selectors.NAME] spillover", "1")}
SELECTOR = {
    "strategy": Key(word({each.value: each for each in Strategy}), "[selectors.NAME] strategy"),
    "targets": Key(not_empty(list_of(FILLED)), "[selectors.NAME] targets"),
    "settings": Key(fields_of(SELECTOR_SETTINGS), ""),
    "name": Key(TEXT, "[selectors.NAME] name"),
    "description": Key(TEXT, "[selectors.NAME] description"),
    "unlisted": Key(BOOLEAN, "[selectors.NAME] unlisted", "false"),
    "metadata": Key(TABLE, "[selectors.NAME] metadata"),
}

PEER = {
    "proxy": Key(URL, "[peers.NAME] proxy"),
    "models": Key(not_empty(list_of(FILLED)), "[peers.NAME] models"),
    "apiKey": Key(TEXT, "[peers.NAME] api_key"),
    "filters": Key(fields_of(FILTERS), "[peers.NAME] strip_params, set_params, set_params_by_name", "", "as in models"),
    "timeouts": Key(fields_of(TIMEOUTS), "[peers.NAME] timeouts", "", "as in models, but `responseHeader` is 60"),
}

STORE = {"path": Key(FILLED, "[server] store")}
ACTIVITY = {
    "session_id": Key(of(_session_headers), "[server] session_id_headers", "[X-Session-ID, X-Litellm-Session-Id]")
}
UI = {"activity": Key(fields_of(ACTIVITY), "")}
PERFORMANCE = {
    "disabled": Key(BOOLEAN, "[server] performance.disabled", "false"),
    "every": Key(duration(5.0), "[server] performance.every", "5s"),
}
UPSTREAM = {"ignorePaths": Key(PATTERNS, "[server] ignore_paths", "", "files that browsers ask for by themselves")}
ON_STARTUP = {"preload": Key(TEXTS, "[server] preload")}
HOOKS = {"on_startup": Key(fields_of(ON_STARTUP), "")}

FILE = {
    "healthCheckTimeout": Key(integer(), "load_timeout, load_limit", "120", "at least 15"),
    "logLevel": Key(word_or_else(LEVELS, "info", "it is taken for info"), "[server] log_level", "info"),
    "logTimeFormat": Key(
        word_or_else({"": "", **{name: name for name in TIME_FORMATS}}, "", "lines have no time"),
        "",
        "",
        "without it lines have no time",
    ),
    "logToStdout": Key(word({each.value: each for each in Console}), "", "proxy", "there: our own log"),
    "logRequests": Key(BOOLEAN, "", "", "has had no effect for long"),
    "metricsMaxInMemory": Key(integer(), "[server] metrics_max_in_memory", "1000"),
    "captureBuffer": Key(integer(), "[server] capture_buffer", "5", "MB; 0 for none, which is the default there"),
    "store": Key(requiring(fields_of(STORE), "path"), ""),
    "ui": Key(fields_of(UI), ""),
    "performance": Key(fields_of(PERFORMANCE), ""),
    "startPort": Key(integer(1), "", "5800", "ports are free ones"),
    "sendLoadingState": Key(BOOLEAN, "[defaults] send_loading_state", "false"),
    "includeAliasesInList": Key(BOOLEAN, "[server] aliases_in_list", "false"),
    "globalTTL": Key(SECONDS, "[defaults] ttl", "0", "0 is never"),
    "unloadTimeout": Key(SECONDS, "[defaults] unload_timeout", "10"),
    "macros": Key(TABLE, "", "", "`${NAME}` in values; there, `[defaults]` has what models share"),
    "apiKeys": Key(list_of(hidden(of(_api_key))), "[server] api_keys"),
    "upstream": Key(fields_of(UPSTREAM), ""),
    "models": Key(mapping_of(requiring(fields_of(MODEL), "cmd")), ""),
    "groups": Key(GROUPS_KIND, "", "", "an older place of `routing.router.settings.groups`"),
    "matrix": Key(MATRIX_KIND, "", "", "an older place of `routing.router.settings.matrix`"),
    "routing": Key(fields_of(ROUTING), ""),
    "hooks": Key(fields_of(HOOKS), ""),
    "profiles": Key(mapping_of(of(_profile)), ""),
    "selectors": Key(mapping_of(requiring(fields_of(SELECTOR), "strategy", "targets")), ""),
    "peers": Key(mapping_of(requiring(fields_of(PEER), "proxy", "models")), ""),
}

TABLES: Mapping[str, Mapping[str, Key]] = {
    "": FILE,
    "store.": STORE,
    "ui.activity.": ACTIVITY,
    "performance.": PERFORMANCE,
    "upstream.": UPSTREAM,
    "hooks.on_startup.": ON_STARTUP,
    "routing.router.": ROUTER,
    "routing.router.settings.groups.NAME.": GROUP,
    "routing.router.settings.matrix.": MATRIX,
    "routing.scheduler.": {"use": SCHEDULER["use"]},
    "routing.scheduler.settings.fifo.": FIFO,
    "profiles.NAME.": PROFILE,
    "selectors.NAME.": SELECTOR,
    "selectors.NAME.settings.": SELECTOR_SETTINGS,
    "peers.NAME.": PEER,
    "models.NAME.": MODEL,
    "models.NAME.filters.": FILTERS,
    "models.NAME.timeouts.": TIMEOUTS,
    "models.NAME.compat.": COMPAT,
    "models.NAME.capabilities.": CAPABILITIES,
}
"""Every table by the path its keys have; peers have the same `filters` and `timeouts` as models."""

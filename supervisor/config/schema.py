"""The keys of `models.toml`: the kind of each value, what it is for, its default.

The one place that says so: reading the file and its JSON Schema both follow these tables. A key has the name of its
field in `values`, or is turned into it by `toml`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.config import access, quantities
from supervisor.config.access import API_KEY
from supervisor.config.filters import path
from supervisor.config.kinds import (
    BOOLEAN,
    COMMAND,
    FILLED,
    JSON,
    OPTION,
    STRING,
    Key,
    Kind,
    dashed,
    integer,
    list_of,
    not_empty,
    of,
    offering,
    one_of,
    record,
    refused,
    requiring,
    scalar,
    table_of,
)
from supervisor.config.options import OPTIONS, SAMPLING
from supervisor.config.patterns import pattern
from supervisor.config.problems import Mismatch
from supervisor.config.values import STATIC_ASSETS, LogFormat, Management, Spread, Strategy, Transport

if TYPE_CHECKING:
    from supervisor.config.place import Place

_DEVICE = re.compile(r"host|[A-Za-z]+[0-9]+(?:@.+)?")


def _name(place: Place) -> str:
    value = STRING.read(place)
    return place.take_name(value)


def _name_in_key(place: Place) -> str:
    return place.take_name(str(place.key))


def _variable(place: Place) -> str:
    name = str(place.key)
    if not name or "=" in name or "\0" in name:
        raise Mismatch("the name of an environment variable")
    return name


def _variable_value(value: object) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(scalar(value))
    raise Mismatch("a string or an integer")


def _field(name: str) -> str:
    if not name:
        raise Mismatch("the name of a field")
    if path(name)[0].name == "model":
        raise Mismatch("any field but `model`", "`model` decides where a request goes")
    return name


def _field_of_request(value: object) -> str:
    return _field(value if isinstance(value, str) else "")


def _field_in_key(place: Place) -> str:
    return _field(str(place.key))


def _sampling(place: Place) -> str:
    return _field(dashed(place))


def _path_of_url(value: object) -> str:
    if isinstance(value, str) and (value.startswith("/") or value == "none"):
        return value
    raise Mismatch('a path such as "/health", or "none"')


def _pause(value: object) -> float:
    if (seconds := quantities.duration(value)) >= 1:
        return seconds
    raise Mismatch("a second or more")


def _pin(value: object) -> str | None:
    if isinstance(value, str):
        return value or None
    raise Mismatch('the name of a model, or "" for none')


def _device(place: Place) -> str:
    """`host`, or a name as `llama-server --list-devices` prints it."""
    name = str(place.key)
    if not _DEVICE.fullmatch(name):
        raise Mismatch('"host", or a device as `llama-server --list-devices` names it, such as "CUDA0"')
    return name


DURATION = of(quantities.duration, {"$ref": "#/$defs/duration"})
POSITIVE_DURATION = of(quantities.positive_duration, {"$ref": "#/$defs/duration"})
LIFETIME = of(quantities.lifetime, {"anyOf": [{"$ref": "#/$defs/duration"}, {"const": "never"}]})
SIZE = of(quantities.size, {"$ref": "#/$defs/size"})
POSITIVE_SIZE = of(quantities.positive_size, {"$ref": "#/$defs/size"})
LISTEN = of(quantities.listen_address, {"type": "string", "examples": ["127.0.0.1:8080", ":8080", "[::1]:8080"]})
ENVIRONMENT = table_of(of(_variable_value, {"type": ["string", "integer"]}), _variable)
FIELDS = list_of(of(_field_of_request, {"type": "string", "not": {"const": "model"}}))
SETTINGS = table_of(JSON, _field_in_key)
SAMPLING_OPTIONS = offering(
    table_of(OPTION, _sampling),
    {name: {"description": each.description, **OPTION.json} for name, each in SAMPLING.items()},
)

SETTINGS_BY_NAME = table_of(SETTINGS)
URL = of(quantities.base_url, {"type": "string", "pattern": "^https?://|" + r"\$\{env:"})
PATTERNS = list_of(of(pattern, {"type": "string", "format": "regex"}))
MODALITIES = list_of(one_of({name: name for name in ("text", "audio", "image")}))


def _timeouts(response_header: str) -> dict[str, Key]:
    return {
        "connect": Key(LIFETIME, "To connect.", "30s"),
        "keepalive": Key(LIFETIME, "Between the probes of an open TCP connection.", "30s"),
        "response_header": Key(LIFETIME, "From the end of a request to the head of its answer.", response_header),
        "tls_handshake": Key(LIFETIME, "To agree on encryption.", "10s"),
        "expect_continue": Key(LIFETIME, "To answer `Expect: 100-continue`.", "1s"),
        "idle_connection": Key(LIFETIME, "Until a connection nobody uses is closed.", "90s"),
    }


TIMEOUTS = _timeouts("never")

HOOKS = {
    "before_load": Key(COMMAND, "Run to its end before the model's process is started."),
    "after_load": Key(COMMAND, "Run once the model is ready; requests do not wait for it."),
    "before_unload": Key(COMMAND, "Run to its end before the process is told to leave."),
    "after_unload": Key(COMMAND, "Run to its end once the process is gone, before its memory counts as free."),
    "timeout": Key(POSITIVE_DURATION, "How long each of them may take before it is killed.", "30s"),
    "required": Key(BOOLEAN, "Do not load the model when `before_load` fails; otherwise that is a warning.", False),
}

CAPABILITIES = {
    "inputs": Key(MODALITIES, "What it understands: text, audio, image."),
    "outputs": Key(MODALITIES, "What it answers with: text, audio, image."),
    "tools": Key(BOOLEAN, "Whether it calls tools.", False),
    "reranker": Key(BOOLEAN, "Whether it ranks documents.", False),
    "context": Key(integer(0), "Tokens of context; 0 says nothing.", 0),
}

PERFORMANCE = {
    "disabled": Key(BOOLEAN, "Take no samples.", False),
    "every": Key(of(_pause, {"$ref": "#/$defs/duration"}), "Between two samples; a second or more.", "5s"),
}

SERVER = {
    "listen": Key(LISTEN, "Where to listen, as HOST:PORT; `:8080` is every interface.", "127.0.0.1:8080"),
    "default_model": Key(FILLED, "The model of a request that names none; not needed where there is only one."),
    "max_loaded": Key(integer(1), "Models that may be in memory at the same time; without it as many as fit."),
    "max_queue": Key(integer(0), "Requests that may wait; the next one is told to come back later.", 1000),
    "max_wait": Key(DURATION, "How long later requests may overtake a waiting one.", "30s"),
    "min_residency": Key(
        DURATION,
        "How long after its load a busy model may go on taking requests before it makes room; without it until those "
        "who wait have together waited four times as long as the swap and the way back take, for each model that is "
        "waited for. With it an idle model leaves at once, though a cheaper one is about to become idle.",
    ),
    "preload": Key(list_of(FILLED), "Models to load at the start, one after the other."),
    "on_idle": Key(FILLED, "The model to have loaded when nothing was asked for in a while; its `ttl` is not for it."),
    "drain_timeout": Key(
        DURATION,
        "How long an unload, and the end of the service, waits for requests in flight before it cuts them. The end "
        "takes at most this, `stop_timeout` (twice with `cmd_stop`), the `timeout` of a model's `before_unload` and "
        "`after_unload`, and 7 s: 57 s without hooks of the 90 s that systemd allows.",
        "30s",
    ),
    "stop_timeout": Key(
        DURATION,
        "How long a server run by `cmd` gets to leave before it is killed; at the end of the service all have theirs "
        "at the same time.",
        "10s",
    ),
    "comment_after": Key(
        DURATION, "After how long a waiting stream is told, in comments that clients ignore, how loading goes.", "5s"
    ),
    "max_body": Key(POSITIVE_SIZE, "The largest request accepted.", "256MiB"),
    "body_memory": Key(
        POSITIVE_SIZE, "How much memory the bodies of all requests may take together; `max_body` at least.", "512MiB"
    ),
    "max_connections": Key(integer(1), "Connections at a time; fewer where the limit of open files is low.", 4096),
    "log_buffer": Key(SIZE, "How much of each model's output is kept.", "256KiB"),
    "log_dir": Key(FILLED, "Write our log and each model's output to files in this directory as well."),
    "decision_log": Key(
        FILLED, "A file to write every decision to, without secrets, so that `scripts/replay` can tell and repeat them."
    ),
    "log_file_size": Key(POSITIVE_SIZE, "The size at which a log file is put aside and a new one begun.", "10MiB"),
    "log_file_count": Key(integer(0), "How many log files that were put aside are kept, of each kind.", 5),
    "management": Key(
        one_of({each.value: each for each in Management}),
        "Who may load, unload and read logs without a key: this machine, private networks too, or anyone.",
        "local",
    ),
    "log_level": Key(
        one_of({word: word for word in ("debug", "info", "warning", "error")}), "How much we log ourselves.", "info"
    ),
    "log_format": Key(
        one_of({each.value: each for each in LogFormat}),
        "How we write it: lines for people, or a JSON object per line, for each request as well.",
        "text",
    ),
    "api_keys": Key(
        list_of(API_KEY),
        "Keys of which a request must bring one, good for everything; without these and `[keys.NAME]` anyone may ask.",
    ),
    "ignore_paths": Key(
        PATTERNS, "Regular expressions of paths below /upstream/MODEL that never load the model.", [STATIC_ASSETS]
    ),
    "aliases_in_list": Key(BOOLEAN, "List aliases as entries of their own where models are listed.", False),
    "tls_cert_file": Key(FILLED, "The certificate to serve HTTPS with, in PEM."),
    "tls_key_file": Key(FILLED, "The key of that certificate, in PEM."),
    **access.SERVER,
    "activity": Key(BOOLEAN, "Record and count requests.", True),
    "metrics_max_in_memory": Key(integer(1), "Requests whose record is kept without a `store`.", 1000),
    "store": Key(FILLED, "A SQLite file to keep the record of requests in; without it, memory."),
    "capture_buffer": Key(SIZE, "How much of whole requests and answers is kept in memory to be looked at.", 0),
    "session_id_headers": Key(
        list_of(FILLED),
        "Request headers that tell which requests belong together.",
        ["X-Session-ID", "X-Litellm-Session-Id"],
    ),
    "performance": Key(record(PERFORMANCE), "How the host and its GPUs are watched."),
}

VARIANT = {
    "description": Key(STRING, "What it is for, shown where models are listed."),
    "unlisted": Key(BOOLEAN, "Leave it out where models are listed; requests may still name it.", False),
    "sampling": Key(SAMPLING_OPTIONS, "Sampling for requests that do not set it themselves."),
    "set_params": Key(SETTINGS, "Request fields that are set whatever the client sent."),
    "strip_params": Key(FIELDS, "Request fields that are removed."),
}

MODEL = {
    "name": Key(STRING, "A name for people, shown where models are listed."),
    "description": Key(STRING, "What it is good for, shown where models are listed."),
    "aliases": Key(list_of(Kind(_name, {"type": "string", "minLength": 1})), "Other names that requests may use."),
    "unlisted": Key(BOOLEAN, "Leave it out where models are listed; requests may still name it.", False),
    "variants": Key(
        table_of(record(VARIANT), _name_in_key),
        "More names for the same process, each with its own request parameters; a request names the key.",
    ),
    "sampling": Key(SAMPLING_OPTIONS, "Recommended sampling, used where a request does not set it itself."),
    "set_params": Key(SETTINGS, "Request fields that are set whatever the client sent."),
    "strip_params": Key(FIELDS, "Request fields that are removed."),
    "set_params_by_name": Key(
        SETTINGS_BY_NAME, "More fields that are set in requests by a certain name, which becomes an alias."
    ),
    "use_model_name": Key(FILLED, "The `model` its server gets to see, in place of what the client sent."),
    "capabilities": Key(record(CAPABILITIES), "What it can do, shown where models are listed."),
    "ttl": Key(LIFETIME, "Unload the model when it was idle for so long.", "never"),
    "pinned": Key(BOOLEAN, "Never unload it to make room for another model.", False),
    "priority": Key(
        integer(-1000), "Its requests go before those for models with less, for `max_wait` at most; 0 without it."
    ),
    "fit_cache": Key(BOOLEAN, "Leave `--fit` out where an earlier start shows that it changes nothing.", True),
    "prefetch": Key(BOOLEAN, "Read the model's files into the page cache ahead of its start.", True),
    "concurrency": Key(integer(1), "Requests sent to it at a time; without it llama-server queues by itself."),
    "load_timeout": Key(POSITIVE_DURATION, "How long a start may go without a sign of life.", "2m"),
    "load_limit": Key(POSITIVE_DURATION, "How long a start may take at all.", "1h"),
    "unload_timeout": Key(
        DURATION, "How long a `cmd` gets to leave before it is killed; without it `stop_timeout` of the server."
    ),
    "timeouts": Key(record(TIMEOUTS), "How long the steps of a request to its server may take."),
    "hooks": Key(record(HOOKS), "Commands to run before and after its process lives, without a shell."),
    "ignore_websockets": Key(BOOLEAN, "Websockets neither start it nor keep it loaded.", False),
    "send_loading_state": Key(
        BOOLEAN, "Tell waiting streams how loading goes, where a model's reasoning is shown.", False
    ),
    "stall_timeout": Key(
        LIFETIME,
        "How long it may owe an answer, send nothing and do no work before it is replaced; `cmd`: never.",
        "15m",
    ),
    "require_gpu": Key(BOOLEAN, "Fail instead of running on the processor when llama-server sees no GPU.", False),
    "check_endpoint": Key(
        of(_path_of_url, {"type": "string", "pattern": "^(/|none$)"}),
        'The path that answers 200 once it is ready; "none" if a connection is enough.',
        "/health",
    ),
    "transport": Key(
        one_of({each.value: each for each in Transport}), "How we talk to it: a unix socket or a TCP port.", "unix"
    ),
    "env": Key(ENVIRONMENT, "Environment variables for its process."),
    "binary": Key(FILLED, "The llama-server to run; without it the first one found is used."),
    "cmd": Key(COMMAND, "Run another server with this command, `${PORT}` in it; takes no llama-server options."),
    "cmd_stop": Key(COMMAND, "Stop what `cmd` started with this command, `${PID}` in it, and not with SIGTERM."),
    "proxy": Key(URL, "Where what `cmd` starts serves; without it on `${PORT}` of this machine."),
    "metadata": Key(table_of(JSON), "Anything you like, passed on where models are listed."),
}

SINGLE = (
    *("name", "description", "aliases", "variants", "cmd", "cmd_stop", "proxy"),
    *("set_params_by_name", "use_model_name"),
)
"""Keys of one model that make no sense for all."""

DEFAULTS = {
    name: Key(refused("a key that suits every model", "it belongs in [models.NAME]"), key.description)
    if name in SINGLE
    else key
    for name, key in MODEL.items()
}

PEER = {
    "proxy": Key(
        URL, "Its base URL. Where `HTTP_PROXY` or `HTTPS_PROXY` is set, it is asked through that, but for `NO_PROXY`."
    ),
    "models": Key(
        not_empty(list_of(FILLED)),
        "Its models; requests name them PEER/MODEL, or MODEL where nothing else is so named.",
    ),
    "api_key": Key(API_KEY, "The key it wants; without this the client's is passed on."),
    "set_params": Key(SETTINGS, "Request fields that are set whatever the client sent."),
    "set_params_by_name": Key(SETTINGS_BY_NAME, "More fields that are set in requests by a certain name."),
    "strip_params": Key(FIELDS, "Request fields that are removed."),
    "timeouts": Key(record(_timeouts("1m")), "How long the steps of a request to it may take."),
}

SELECTOR = {
    "strategy": Key(
        one_of({each.value: each for each in Strategy}),
        "Which target a request goes to: the first, the first that is loaded, or the next when one is busy.",
    ),
    "targets": Key(not_empty(list_of(FILLED)), "The models to choose from, by any of their names."),
    "spillover": Key(integer(1), "Requests a target serves before the next one is taken.", 1),
    "name": Key(STRING, "A name for people, shown where models are listed."),
    "description": Key(STRING, "What it is good for, shown where models are listed."),
    "unlisted": Key(BOOLEAN, "Leave it out where models are listed; requests may still name it.", False),
    "metadata": Key(table_of(JSON), "Anything you like, passed on where models are listed."),
}

MEMORY = {
    "reserve": Key(SIZE, "How much is left alone of each device that has no budget.", "1GiB"),
    "spread": Key(
        one_of({each.value: each for each in Spread}),
        "Which of several GPUs a model goes to: the one that it fills best (pack), or the emptiest (spread).",
        "pack",
    ),
    "budget": Key(
        table_of(SIZE, _device), "The most that all models together may take of a device: `host`, `CUDA0`, `Vulkan0`, …"
    ),
}

GROUP = {
    "members": Key(list_of(FILLED), "Its models."),
    "swap": Key(BOOLEAN, "Loading one of them unloads the others.", True),
    "exclusive": Key(BOOLEAN, "Loading one of them unloads the models of other groups.", True),
    "persistent": Key(BOOLEAN, "Other groups leave them loaded.", False),
}

MATRIX = {
    "sets": Key(
        table_of(FILLED),
        'Models that may be loaded together, as expressions such as "llm & (tts | whisper)"; `+NAME` is another set.',
    ),
    "vars": Key(table_of(FILLED), "Short names for models, to be used in sets."),
    "evict_costs": Key(
        table_of(integer(1)), "What unloading a model costs compared with others; 1 where nothing is said."
    ),
}

PROFILE = {
    "description": Key(STRING, "When to use it."),
    "pins": Key(
        not_empty(table_of(of(_pin, {"type": "string"}))),
        'What names stand for while it is active; "" switches a name off.',
    ),
}

OFFERED = {name: {"description": description, **OPTION.json} for name, description in OPTIONS.items()}

FILE = record(
    {
        "server": Key(record(SERVER), "The service itself."),
        "memory": Key(record(MEMORY), "How much memory models may take."),
        "defaults": Key(offering(record(DEFAULTS, OPTION), OFFERED), "What holds for every model that says no other."),
        "models": Key(
            table_of(offering(record(MODEL, OPTION), OFFERED), _name_in_key),
            "The models; the key is the name that requests use.",
        ),
        "peers": Key(
            table_of(requiring(record(PEER), "proxy", "models")), "Other services whose models are offered here too."
        ),
        "selectors": Key(
            table_of(requiring(record(SELECTOR), "strategy", "targets")), "Names that stand for one of several models."
        ),
        "groups": Key(
            table_of(record(GROUP)), "Models that are swapped together; the others are a group of their own."
        ),
        "matrix": Key(record(MATRIX), "Sets of models that may be loaded together, in place of groups."),
        "profiles": Key(
            table_of(requiring(record(PROFILE), "pins")), "Other meanings of names, one profile of which may be active."
        ),
        "keys": Key(
            table_of(record(access.KEY), access.key_name), "Keys of which a request must bring one, and what for."
        ),
    }
)

"""Every key of a llama-swap file (spec: llama-swap.md, 3.2, 3.3): values, default, bounds, and what it becomes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.config.llama_swap.schema import TABLES
from supervisor.config.values import (
    Capabilities,
    Config,
    Console,
    Filters,
    Management,
    Model,
    Overload,
    Performance,
    Server,
    Timeouts,
    Transport,
)
from tests.config.swap_files import BASE, config, model, problems, text_of, warnings

DEFAULTS = Server(
    max_loaded=1,
    host="",
    management=Management.PRIVATE,
    are_hosts_checked_for_models=False,
    log_time_format="",
    capture_buffer=5 * 1024**2,
)
PLAIN = Model(
    "m",
    cmd=("serve", "5800"),
    shown_cmd="serve 5800",
    proxy="http://localhost:5800",
    port=5800,
    transport=Transport.TCP,
    load_timeout=120.0,
    load_limit=120.0,
    stall_timeout=None,
    unload_timeout=10.0,
    concurrency=10,
    overload=Overload.REFUSE,
)


def test_defaults_of_the_service() -> None:
    """Every interface, management for private networks, and the numbers of llama-swap."""
    assert replace(config(""), routing=None) == Config(base=BASE, server=DEFAULTS)
    assert (DEFAULTS.port, DEFAULTS.stop_timeout, DEFAULTS.capture_buffer) == (8080, 10.0, 5 * 1024**2)


def test_defaults_of_a_model() -> None:
    """Ten requests at a time and no queue, a port of its own, two minutes to load, for ever if nobody unloads it."""
    assert model() == PLAIN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("logLevel: debug", replace(DEFAULTS, log_level="debug")),
        ("logLevel: WARN", replace(DEFAULTS, log_level="warning")),
        ("logLevel: error", replace(DEFAULTS, log_level="error")),
        ("logTimeFormat: RFC3339", replace(DEFAULTS, log_time_format="rfc3339")),
        ("logTimeFormat: stampnano", replace(DEFAULTS, log_time_format="stampnano")),
        ("logTimeFormat: ''", DEFAULTS),
        ("logToStdout: upstream", replace(DEFAULTS, log_to_stdout=Console.UPSTREAM)),
        ("logToStdout: both", replace(DEFAULTS, log_to_stdout=Console.BOTH)),
        ("logToStdout: none", replace(DEFAULTS, log_to_stdout=Console.NONE)),
        ("logRequests: true", DEFAULTS),
        ("metricsMaxInMemory: 5", replace(DEFAULTS, metrics_max_in_memory=5)),
        ("metricsMaxInMemory: 0", DEFAULTS),
        ("metricsMaxInMemory: -1", DEFAULTS),
        ("captureBuffer: 0", replace(DEFAULTS, capture_buffer=0)),
        ("captureBuffer: 10", replace(DEFAULTS, capture_buffer=10 * 1024**2)),
        ("store: {path: a.db}", replace(DEFAULTS, store="a.db")),
        ("store: ~", DEFAULTS),
        ("ui: {activity: {session_id: []}}", replace(DEFAULTS, session_id_headers=())),
        (
            "ui: {activity: {session_id: [' X-A ', x-a, '', X-B]}}",
            replace(DEFAULTS, session_id_headers=("X-A", "X-B")),
        ),
        ("performance: {disabled: true}", replace(DEFAULTS, performance=Performance(disabled=True))),
        ("performance: {every: 1m30s}", replace(DEFAULTS, performance=Performance(every=90.0))),
        ("startPort: 1", replace(DEFAULTS, start_port=1)),
        ("includeAliasesInList: true", replace(DEFAULTS, aliases_in_list=True)),
        ("includeAliasesInList: yes", replace(DEFAULTS, aliases_in_list=True)),
        ("unloadTimeout: 3", replace(DEFAULTS, stop_timeout=3.0)),
        ("unloadTimeout: 0", DEFAULTS),
        ("apiKeys: [a, 0123]", replace(DEFAULTS, api_keys=("a", "0123"), allowed_hosts=("*",))),
        ("upstream: {ignorePaths: []}", DEFAULTS),
        (r"upstream: {ignorePaths: ['^/a[[:digit:]]\z']}", replace(DEFAULTS, ignore_paths=(r"^/a[0-9]\Z",))),
        ("healthCheckTimeout: 5.9\nglobalTTL: ~", DEFAULTS),
    ],
)
def test_keys_of_the_service(text: str, expected: Server) -> None:
    """Each key sets its field and no other."""
    assert config(text).server == expected


@pytest.mark.parametrize(
    "text",
    [
        "healthCheckTimeout: soon",
        "healthCheckTimeout: '60'",
        "logToStdout: all",
        "logToStdout: ''",
        "metricsMaxInMemory: true",
        "captureBuffer: 5MB",
        "store: {}",
        "store: {path: ''}",
        "store: a.db",
        "ui: {activity: {session_id: X}}",
        "performance: {every: 4s}",
        "performance: {every: 5}",
        "performance: {every: soon}",
        "performance: {disabled: 1}",
        "startPort: 0",
        "startPort: -1",
        "sendLoadingState: maybe",
        "globalTTL: -1",
        "unloadTimeout: -1",
        "apiKeys: ['']",
        "apiKeys: [~]",
        "apiKeys: ['a b']",
        "apiKeys: secret",
        "upstream: {ignorePaths: ['(']}",
        "upstream: {ignorePaths: ['[[:^alpha:]]']}",
        "models: []",
        "models: {m: []}",
        "groups: 1",
        "hooks: {on_startup: {preload: m}}",
    ],
)
def test_bad_values_of_the_service(text: str) -> None:
    """A value that does not fit is one problem with its path."""
    (problem,) = problems(text)

    assert problem.startswith(text.partition(":")[0])
    assert "expected " in problem


@pytest.mark.parametrize(
    ("top", "seconds"),
    [("", 120), ("healthCheckTimeout: 14", 15), ("healthCheckTimeout: -3", 15), ("healthCheckTimeout: 900", 900)],
)
def test_the_health_check_timeout_is_a_deadline(top: str, seconds: float) -> None:
    """Signs of life do not extend it; it is at least 15 seconds."""
    read = model(top=top)

    assert (read.load_timeout, read.load_limit) == (seconds, seconds)


def test_a_health_check_timeout_of_a_models_own_has_no_effect() -> None:
    """As in llama-swap, that of the file holds; we say so."""
    text = text_of("healthCheckTimeout: 500", top="healthCheckTimeout: 30")

    assert config(text).models["m"].load_timeout == 30
    (warning,) = warnings(text)
    assert warning.startswith("models.m.healthCheckTimeout (line 5): expected no timeout of a model's own")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("cmdStop: docker stop m", replace(PLAIN, cmd_stop=("docker", "stop", "m"))),
        ("cmdStop: ''", PLAIN),
        ("proxy: https://h:9/base", replace(PLAIN, proxy="https://h:9/base")),
        ("proxy: ~", PLAIN),
        ("aliases: [a, b/c, 1.10]", replace(PLAIN, aliases=("a", "b/c", "1.10"))),
        ("env: [A=1, B=x=y, C=, A=2]", replace(PLAIN, env={"A": "2", "B": "x=y", "C": ""})),
        ("checkEndpoint: none", replace(PLAIN, check_endpoint="")),
        ("checkEndpoint: up", replace(PLAIN, check_endpoint="/up")),
        ("ttl: 60", replace(PLAIN, ttl=60.0)),
        ("ttl: 0", PLAIN),
        ("ttl: -1", PLAIN),
        ("unloadTimeout: 3", replace(PLAIN, unload_timeout=3.0)),
        ("unlisted: true", replace(PLAIN, unlisted=True)),
        ("useModelName: other", replace(PLAIN, use_model_name="other")),
        ("useModelName: ''", PLAIN),
        ("name: 1.10", replace(PLAIN, name="1.10")),
        ("description: true", replace(PLAIN, description="true")),
        ("concurrencyLimit: 2", replace(PLAIN, concurrency=2)),
        ("concurrencyLimit: 0", PLAIN),
        ("concurrencyLimit: -2", PLAIN),
        ("sendLoadingState: true", replace(PLAIN, send_loading_state=True)),
        ("compat: {ignoreWebsockets: true}", replace(PLAIN, ignore_websockets=True)),
        (
            "metadata: {a: [1, 1.5, b, ~], c: {d: true}}",
            replace(PLAIN, metadata={"a": (1, 1.5, "b", None), "c": {"d": True}}),
        ),
        (
            "timeouts: {connect: 1, keepalive: 0, responseHeader: 2, tlsHandshake: 3, expectContinue: 4, idleConn: 5}",
            replace(PLAIN, timeouts=Timeouts(1.0, None, 2.0, 3.0, 4.0, 5.0)),
        ),
        ("timeouts: {connect: 1}", replace(PLAIN, timeouts=Timeouts(connect=1.0))),
        (
            "capabilities: {in: [text, image], out: [audio], tools: true, reranker: true, context: 8}",
            replace(PLAIN, capabilities=Capabilities(("text", "image"), ("audio",), True, True, 8)),
        ),
        ("capabilities: {}", PLAIN),
        ("capabilities: {tools: false}", PLAIN),
        ("filters: {stripParams: 'b, a, ,b'}", replace(PLAIN, filters=Filters(strip=("a", "b")))),
        ("filters: {strip_params: a}", replace(PLAIN, filters=Filters(strip=("a",)))),
        ("filters: {stripParams: a, strip_params: b}", replace(PLAIN, filters=Filters(strip=("a",)))),
        ("filters: {setParams: {b.c: 1, a: [x]}}", replace(PLAIN, filters=Filters(force={"a": ("x",), "b.c": 1}))),
    ],
)
def test_keys_of_a_model(lines: str, expected: Model) -> None:
    """Each key sets its field and no other."""
    assert model(lines) == expected


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("cmd: ''", "cmd"),
        ("cmd: [serve]", "cmd"),
        ("cmd: serve ${PORT} 'x", "cmd"),
        ('cmdStop: "\'"', "cmdStop"),
        ("proxy: localhost:80", "proxy"),
        ("proxy: 'http://'", "proxy"),
        ("proxy: ''", "proxy"),
        ("aliases: a", "aliases"),
        ("aliases: [a, a]", "aliases[1]"),
        ("aliases: ['']", "aliases[0]"),
        ("env: {A: 1}", "env"),
        ("checkEndpoint: []", "checkEndpoint"),
        ("ttl: -2", "ttl"),
        ("ttl: 5m", "ttl"),
        ("unloadTimeout: -1", "unloadTimeout"),
        ("unlisted: 1", "unlisted"),
        ("name: []", "name"),
        ("concurrencyLimit: many", "concurrencyLimit"),
        ("sendLoadingState: 1", "sendLoadingState"),
        ("metadata: [1]", "metadata"),
        ("metadata: {a: .nan}", "metadata.a"),
        ("timeouts: {connect: -1}", "timeouts.connect"),
        ("timeouts: {connect: 5s}", "timeouts.connect"),
        ("compat: true", "compat"),
        ("capabilities: {in: [video]}", "capabilities.in[0]"),
        ("capabilities: {out: text}", "capabilities.out"),
        ("capabilities: {context: -1}", "capabilities.context"),
        ("filters: {stripParams: [a]}", "filters.stripParams"),
        ("filters: {setParams: [a]}", "filters.setParams"),
        ("filters: {setParamsByID: {a: 1}}", "filters.setParamsByID.a"),
    ],
)
def test_bad_values_of_a_model(line: str, path: str) -> None:
    """A value that does not fit is one problem that points at the very entry."""
    (problem,) = problems(text_of(line))

    assert problem.startswith(f"models.m.{path} (line ")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("serve ${PORT} 'a b' \"c d\"", ("serve", "5800", "a b", "c d")),
        ("|\n      serve \\\n        -a  \n      -p ${PORT}", ("serve", "-a", "-p", "5800")),
        ("|\n      serve ${PORT} \\  \n      -a", ("serve", "5800", "-a")),
        ("|\n      # first\n      serve ${PORT}\n        # -x\n      -a # b", ("serve", "5800", "-a", "#", "b")),
        (">\n      serve ${PORT}\n      -a", ("serve", "5800", "-a")),
        (r"serve ${PORT} a\ b", ("serve", "5800", "a b")),
    ],
)
def test_commands_are_split_as_a_shell_does_but_not_run_by_one(command: str, words: tuple[str, ...]) -> None:
    """Comment lines go, a backslash at the end of a line joins, line breaks are spaces."""
    assert model(f"cmd: {command}").cmd == words


def test_the_command_is_shown_as_it_is_laid_out() -> None:
    """For `/running`: macros replaced, lines kept."""
    assert model("cmd: |\n      serve \\\n        -p ${PORT}").shown_cmd == "serve \\\n  -p 5800"


@pytest.mark.parametrize("text", ["models: {m: {}}", "models: {m: ~}", "models: {m: {cmd: ~}}"])
def test_a_model_needs_a_command(text: str) -> None:
    """llama-swap notices only at the first request."""
    (problem,) = problems(text)

    assert problem.startswith("models.m (line 1): expected the key `cmd`")


@pytest.mark.parametrize("command", ["", "  ", "# only a comment"])
def test_an_empty_command_is_none(command: str) -> None:
    """Nor is that a lack of `${PORT}`."""
    assert problems(f"models: {{m: {{cmd: '{command}'}}}}") == [
        f'models.m.cmd (line 1): expected a command, found `"{command}"`'
    ]


def test_lifetimes_come_from_the_file_where_a_model_says_nothing() -> None:
    """-1 is that of the file, 0 is never."""
    read = config(
        "globalTTL: 60\nmodels:\n  a: {cmd: 's ${PORT}'}\n  b: {cmd: 's ${PORT}', ttl: -1}\n"
        "  c: {cmd: 's ${PORT}', ttl: 0}\n  d: {cmd: 's ${PORT}', ttl: 5}\n"
    ).models

    assert {name: each.ttl for name, each in read.items()} == {"a": 60, "b": 60, "c": None, "d": 5}


def test_unload_timeouts_come_from_the_file_where_a_model_says_nothing() -> None:
    """0 is that of the file, and there ten seconds."""
    assert model("unloadTimeout: 0", top="unloadTimeout: 7").unload_timeout == 7
    assert model("unloadTimeout: 3", top="unloadTimeout: 7").unload_timeout == 3
    assert model(top="unloadTimeout: 0").unload_timeout == 10


def test_the_loading_state_is_that_of_the_file_where_a_model_says_nothing() -> None:
    """A model may switch it off for itself."""
    assert model(top="sendLoadingState: true").send_loading_state
    assert not model("sendLoadingState: false", top="sendLoadingState: true").send_loading_state


def test_settings_by_name_are_aliases_and_come_on_top() -> None:
    """The keys need not be listed; requests by other names have the model's own filters."""
    read = model(
        "aliases: [a]\nfilters:\n  stripParams: x, y\n  setParams: {p: 1, q: 1}\n"
        "  setParamsByID: {m: {p: 3}, a: {p: 2}, b: {q: 2, y: 1, n.o: 1}}"
    )

    assert read.aliases == ("a", "b")
    assert read.filters == Filters(strip=("x", "y"), force={"p": 1, "q": 1})
    assert read.filters_by_name == {
        "m": Filters(strip=("x", "y"), force={"q": 1, "p": 3}),
        "a": Filters(strip=("x", "y"), force={"q": 1, "p": 2}),
        "b": Filters(strip=("x",), force={"p": 1, "q": 2, "y": 1, "n.o": 1}),
    }


@pytest.mark.parametrize(
    "text",
    [
        "models: {m: {cmd: 's ${PORT}', filters: {setParamsByID: {n: {a: 1}}}}, n: {cmd: 's ${PORT}'}}",
        "models: {m: {cmd: 's ${PORT}', filters: {setParamsByID: {x: {a: 1}}}}, n: {cmd: 's ${PORT}', aliases: [x]}}",
    ],
)
def test_settings_for_a_name_of_another_model_are_refused(text: str) -> None:
    """Whether id or alias."""
    (problem,) = problems(text)

    assert problem.startswith("models.m.filters.setParamsByID.")
    assert "expected a name that nothing else has" in problem


def test_an_alias_of_two_models_is_refused() -> None:
    """With the place that has it."""
    (problem,) = problems("models: {m: {cmd: 's ${PORT}', aliases: [x]}, n: {cmd: 's ${PORT}', aliases: [x]}}")

    assert problem == (
        "models.n.aliases[0] (line 1): expected a name that nothing else has, found `x`; "
        "hint: `models.m.aliases[0]` has it already"
    )


def test_an_alias_that_is_a_models_id_does_no_harm() -> None:
    """llama-swap looks for ids first, so that it is never reached; we say so and leave it out."""
    text = "models: {m: {cmd: 's ${PORT}', aliases: [m, n]}, n: {cmd: 's ${PORT}'}}"

    assert config(text).models["m"].aliases == ()
    assert [warning.split(" ")[0] for warning in warnings(text)] == ["models.m.aliases[0]", "models.m.aliases[1]"]


def test_the_model_of_a_request_is_never_filtered() -> None:
    """llama-swap is silent about it; we are not."""
    text = text_of("filters: {stripParams: 'model, a', setParams: {model: x, b: 1}, setParamsByID: {c: {model: y}}}")

    assert config(text).models["m"].filters == Filters(strip=("a",), force={"b": 1})
    assert config(text).models["m"].filters_by_name["c"] == Filters(strip=("a",), force={"b": 1})
    assert [warning.split(" ")[0] for warning in warnings(text)] == [
        "models.m.filters.stripParams",
        "models.m.filters.setParams.model",
        "models.m.filters.setParamsByID.c.model",
    ]


@pytest.mark.parametrize(("line", "limit"), [("", 50), ("concurrencyLimit: 3", 50), ("concurrencyLimit: 80", 80)])
def test_comfyui_is_special(line: str, limit: int) -> None:
    """Its page asks for much at once, and its websocket would keep it loaded."""
    read = config(text_of(line).replace("  m:", "  comfyui_auto:")).models["comfyui_auto"]

    assert (read.concurrency, read.ignore_websockets) == (limit, True)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("helthCheckTimeout: 3", "helthCheckTimeout (line 1): expected a key that llama-swap knows, found "),
        (
            text_of("tll: 3"),
            "models.m.tll (line 5): expected a key that llama-swap knows, found `tll`; hint: did you mean `ttl`?",
        ),
        ("zzz: 1", "zzz (line 1): expected a key that llama-swap knows, found `zzz`; hint: it is ignored"),
        (
            "logLevel: loud",
            "logLevel (line 1): expected one of debug, info, warn, error, found `loud`; hint: it is taken for info",
        ),
        ("logTimeFormat: iso", "logTimeFormat (line 1): expected one of ansic"),
        (
            text_of("env: [NOTHING]"),
            "models.m.env[0] (line 5): expected KEY=VALUE, found `NOTHING`; hint: it is ignored",
        ),
    ],
)
def test_what_llama_swap_ignores_is_a_warning(text: str, warning: str) -> None:
    """The file is used all the same."""
    (found,) = warnings(text)

    assert found.startswith(warning)


@pytest.mark.parametrize("key", ["x-common", ".common"])
def test_keys_for_anchors_are_no_warning(key: str) -> None:
    """Where people keep what they refer to, with macros that mean nothing there."""
    assert warnings(f"{key}: &a {{cmd: 's ${{PORT}} ${{nope}}'}}") == []


def test_names_to_preload() -> None:
    """Aliases lead to their models; a name that leads nowhere is a warning, an empty one nothing."""
    text = text_of("aliases: [a]", top="hooks: {on_startup: {preload: [a, ' m ', '', mm]}}")

    assert config(text).server.preload == ("m", "m")
    (warning,) = warnings(text)
    assert warning == (
        "hooks.on_startup.preload[3] (line 1): expected the name of a model, found `mm`; hint: did you mean `m`?"
    )


def test_keys_of_clients_and_peers_are_secrets() -> None:
    """They are redacted wherever they turn up."""
    read = config("apiKeys: [sk-one]\npeers: {p: {proxy: 'http://u:pass@p', models: [x], apiKey: sk-two}}")

    assert read.secrets == {"sk-one", "sk-two", "pass"}


def test_warnings_do_not_make_configs_differ() -> None:
    """A reload is no change because of a key that nobody knows."""
    assert config("zzz: 1") == config("")


def test_every_default_in_the_documents_is_what_holds() -> None:
    """A key written with its default is a key left out."""
    for path, keys in TABLES.items():
        for name, key in keys.items():
            if key.default and path in {"", "performance.", "ui.activity."}:
                text = f"{name}: {key.default}"
                for parent in reversed(path.rstrip(".").split(".") if path else []):
                    text = f"{parent}: {{{text}}}"
                assert config(text) == config(""), name
            if key.default and path.startswith("models.NAME."):
                inside = path.removeprefix("models.NAME.").rstrip(".")
                line = f"{name}: {key.default}"
                assert model(f"{inside}: {{{line}}}" if inside else line) == PLAIN, name

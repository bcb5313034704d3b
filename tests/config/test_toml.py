"""From text to `Config`: every key's good and bad values, and everything that needs several keys together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.config.expressions import Single, Together
from supervisor.config.problems import ConfigInvalid
from supervisor.config.routing import DEFAULT_GROUP, Group, Groups, Matrix
from supervisor.config.toml import parse
from supervisor.config.values import (
    Capabilities,
    Config,
    Filters,
    Management,
    Memory,
    Model,
    Peer,
    Profile,
    Selector,
    Server,
    Strategy,
    Timeouts,
    Transport,
    Variant,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE = Path("/etc/llama")


def config(text: str, environ: Mapping[str, str] | None = None) -> Config:
    return parse(text, base=BASE, environ=environ or {})


def model(text: str, environ: Mapping[str, str] | None = None) -> Model:
    return config(f"[models.m]\n{text}", environ).models["m"]


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigInvalid) as raised:
        config(text, environ)
    return [str(problem) for problem in raised.value.problems]


def test_an_empty_file_is_a_config_without_models() -> None:
    """Nothing has to be said."""
    assert config("") == Config(base=BASE, memory=Memory())


def test_a_model_of_options_only() -> None:
    """Any key that is not ours is a llama-server option, by its name with dashes."""
    assert model('model = "m.gguf"\nctx_size = 8192\njinja = true\nlora = ["a", "b"]\nlora-scaled = []') == Model(
        "m", options={"model": "m.gguf", "ctx-size": 8192, "jinja": True, "lora": ("a", "b"), "lora-scaled": ()}
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('listen = ":9000"', Server(host="", port=9000)),
        ('listen = "[::1]:9000"', Server(host="::1", port=9000)),
        ("max_loaded = 3", Server(max_loaded=3)),
        ("max-loaded = 3", Server(max_loaded=3)),
        ("max_queue = 0", Server(max_queue=0)),
        ('max_wait = "2m"', Server(max_wait=120.0)),
        ("drain_timeout = 0", Server(drain_timeout=0.0)),
        ('stop_timeout = "500ms"', Server(stop_timeout=0.5)),
        ('max_body = "1GiB"', Server(max_body=1024**3)),
        ("log_buffer = 0", Server(log_buffer=0)),
        ('management = "private"', Server(management=Management.PRIVATE)),
        ('log_level = "debug"', Server(log_level="debug")),
        ('api_keys = ["a", "b"]', Server(api_keys=("a", "b"))),
        ("ignore_paths = ['\\.js$']", Server(ignore_paths=(r"\.js$",))),
        ("aliases_in_list = true", Server(aliases_in_list=True)),
        ('tls_cert_file = "c"\ntls_key_file = "k"', Server(tls_cert_file="c", tls_key_file="k")),
    ],
)
def test_server_keys(line: str, expected: Server) -> None:
    """Each key of `[server]` sets its field and no other."""
    assert config(f"[server]\n{line}").server == expected


@pytest.mark.parametrize(
    "line",
    [
        "listen = 8080",
        'listen = "8080"',
        "default_model = 1",
        'default_model = ""',
        "max_loaded = 0",
        "max_loaded = true",
        "max_loaded = 1.0",
        'max_loaded = "1"',
        "max_queue = -1",
        "max_queue = false",
        "max_wait = -1",
        "max_wait = inf",
        "drain_timeout = nan",
        "stop_timeout = true",
        "stop_timeout = []",
        "max_body = 0",
        'max_body = "big"',
        "log_buffer = -1",
        "log_buffer = true",
        'management = "all"',
        "management = true",
        'log_level = "loud"',
        'api_keys = ["a b"]',
        'api_keys = [""]',
        "ignore_paths = ['(']",
        "ignore_paths = ['[[:cntrl:]]']",
        "aliases_in_list = 1",
        'tls_cert_file = "c"',
        'tls_key_file = "k"',
        "log_level = 1",
        "port = true",
        "listen = { host = 1 }",
    ],
)
def test_bad_server_values(line: str) -> None:
    """A value that does not fit is one problem with its path; `true` is never a number."""
    (problem,) = problems(f"[server]\n{line}")

    key = line.split(maxsplit=1)[0]
    assert problem.startswith((f"server.{key}: expected ", f"server.{key}[0]: expected "))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('name = "M"', Model("m", name="M")),
        ('description = "d"', Model("m", description="d")),
        ('aliases = ["a", "b/c"]', Model("m", aliases=("a", "b/c"))),
        ("unlisted = true", Model("m", unlisted=True)),
        ("sampling = { temp = 1, top_k = 2 }", Model("m", sampling={"temp": 1, "top-k": 2})),
        ('sampling.dry-sequence-breaker = ["a"]', Model("m", sampling={"dry-sequence-breaker": ("a",)})),
        ("ttl = 60", Model("m", ttl=60.0)),
        ('ttl = "never"', Model("m", ttl=None)),
        ("ttl = 0", Model("m", ttl=None)),
        ("pinned = true", Model("m", pinned=True)),
        ("concurrency = 4", Model("m", concurrency=4)),
        ('load_timeout = "1m"', Model("m", load_timeout=60.0)),
        ('load-timeout = "1m"', Model("m", load_timeout=60.0)),
        ('check_endpoint = "/up"', Model("m", check_endpoint="/up")),
        ('transport = "tcp"', Model("m", transport=Transport.TCP)),
        ("unload_timeout = 3", Model("m", unload_timeout=3.0)),
        ('use_model_name = "x"', Model("m", use_model_name="x")),
        ("send_loading_state = true", Model("m", send_loading_state=True)),
        ("ignore_websockets = true", Model("m", ignore_websockets=True)),
        (
            'timeouts = { connect = "1s", response-header = "5m", idle_connection = "never" }',
            Model("m", timeouts=Timeouts(connect=1.0, response_header=300.0, idle_connection=None)),
        ),
        (
            'capabilities = { inputs = ["text", "audio"], outputs = ["text"], tools = true, context = 8 }',
            Model("m", capabilities=Capabilities(("text", "audio"), ("text",), tools=True, context=8)),
        ),
        (
            "set_params = { a = 1 }\nset_params_by_name = { m = { a = 2 }, n = { b.c = 3, 'd.e' = 4 } }",
            Model(
                "m",
                aliases=("n",),
                filters=Filters(force={"a": 1}),
                filters_by_name={
                    "m": Filters(force={"a": 2}),
                    "n": Filters(force={"a": 1, "b": {"c": 3}, "d.e": 4}),
                },
            ),
        ),
        ('env = { A = "x", B = 1 }', Model("m", env={"A": "x", "B": "1"})),
        ('binary = "~/llama-server"', Model("m", binary="~/llama-server")),
        ('strip_params = ["user"]', Model("m", filters=Filters(strip=("user",)))),
        ('strip-params = ["user"]', Model("m", filters=Filters(strip=("user",)))),
        ("set_params = { a = { b = [1] } }", Model("m", filters=Filters(force={"a": {"b": (1,)}}))),
        ('metadata = { a = [1, "b"], c.d = true }', Model("m", metadata={"a": (1, "b"), "c": {"d": True}})),
    ],
)
def test_model_keys(lines: str, expected: Model) -> None:
    """Each key of a model sets its field and no other."""
    assert model(lines) == expected


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("name = 1", "name"),
        ("description = []", "description"),
        ('aliases = "a"', "aliases"),
        ("aliases = [1]", "aliases[0]"),
        ('aliases = ["ok", ""]', "aliases[1]"),
        ("unlisted = 1", "unlisted"),
        ("pinned = 'yes'", "pinned"),
        ("sampling = 1", "sampling"),
        ("sampling = { temp = {} }", "sampling.temp"),
        ("sampling = { temp = [[1]] }", "sampling.temp[0]"),
        ("sampling = { model = 'x' }", "sampling.model"),
        ('ttl = "soon"', "ttl"),
        ("ttl = true", "ttl"),
        ("concurrency = 0", "concurrency"),
        ("concurrency = true", "concurrency"),
        ("load_timeout = 0", "load_timeout"),
        ('check_endpoint = "health"', "check_endpoint"),
        ('transport = "pipe"', "transport"),
        ("env = ['A=1']", "env"),
        ("env = { A = true }", "env.A"),
        ("env = { A = [] }", "env.A"),
        ("env = { A = 0x1" + "0" * 5000 + " }", "env.A"),
        ("env = { 'A=B' = 'x' }", 'env."A=B"'),
        ("env = { '' = 'x' }", 'env.""'),
        ('binary = ""', "binary"),
        ("binary = false", "binary"),
        ('strip_params = "user"', "strip_params"),
        ('strip_params = ["model"]', "strip_params[0]"),
        ("strip_params = [1]", "strip_params[0]"),
        ("set_params = { model = 'x' }", "set_params.model"),
        ("set_params = { a = 2026-01-01 }", "set_params.a"),
        ("set_params = { a = [{ b = nan }] }", "set_params.a[0].b"),
        ("metadata = []", "metadata"),
        ("ctx-size = {}", "ctx-size"),
        ("ctx-size = 2026-01-01", "ctx-size"),
        ("temp = inf", "temp"),
        ("ctx-size = 0x1" + "0" * 5000, "ctx-size"),
        ("concurrency = 0x1" + "0" * 5000, "concurrency"),
        ("lora = [{}]", "lora[0]"),
        ('grammar = "a\\u0000b"', "grammar"),
        ("unload_timeout = -1", "unload_timeout"),
        ("use_model_name = ''", "use_model_name"),
        ("send_loading_state = 1", "send_loading_state"),
        ("timeouts = { conect = 1 }", "timeouts.conect"),
        ("timeouts = { connect = 'soon' }", "timeouts.connect"),
        ("capabilities = { inputs = ['video'] }", "capabilities.inputs[0]"),
        ("capabilities = { context = -1 }", "capabilities.context"),
        ("set_params_by_name = { x = { model = 1 } }", "set_params_by_name.x.model"),
        ("set_params_by_name = { x = 1 }", "set_params_by_name.x"),
        ("set_params = { 'model.x' = 1 }", 'set_params."model.x"'),
        ("proxy = 'http://h'", "proxy"),
        ("cmd_stop = 'x'", "cmd_stop"),
        ("variants = 1", "variants"),
        ("variants.v = 1", "variants.v"),
        ("variants.v.ttl = 1", "variants.v.ttl"),
        ("variants.v.unlisted = 1", "variants.v.unlisted"),
        ("variants.v.sampling.temp = {}", "variants.v.sampling.temp"),
        ("variants.v.strip_params = ['model']", "variants.v.strip_params[0]"),
        ("variants.v.set_params.model = 1", "variants.v.set_params.model"),
    ],
)
def test_bad_model_values(line: str, path: str) -> None:
    """A value that does not fit is one problem that points at the very entry."""
    (problem,) = problems(f"[models.m]\n{line}")

    assert problem.startswith(f"models.m.{path}: expected ")


def test_a_variant_has_its_models_filters_with_its_own_on_top() -> None:
    """Sampling of a variant is a default of requests, by the names requests use."""
    variants = model(
        'strip_params = ["user"]\nset_params = { seed = 1, top_k = 1 }\n'
        "[models.m.variants.v]\ndescription = 'd'\nunlisted = true\n"
        "sampling = { temp = 0.1, top-k = 2 }\nset_params = { seed = 2 }\nstrip_params = ['stop']\n"
    ).variants

    filters = Filters(strip=("user", "stop"), defaults={"temperature": 0.1, "top_k": 2}, force={"seed": 2})
    assert variants == {"v": Variant(filters, description="d", unlisted=True)}


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('cmd = "serve --port ${PORT}"', ("serve", "--port", "${PORT}")),
        ("cmd = 'serve \"a b\" --port=${PORT}'", ("serve", "a b", "--port=${PORT}")),
        ("cmd = '''\nserve \\\n  --port ${PORT}\n'''", ("serve", "--port", "${PORT}")),
        ('cmd = ["serve", "a b", "${PORT}"]', ("serve", "a b", "${PORT}")),
        ('cmd = "serve ${env:DIR} ${PORT}"', ("serve", "/a b; rm -rf /", "${PORT}")),
    ],
)
def test_commands(line: str, parts: tuple[str, ...]) -> None:
    """A command is split like in a shell but run without one; a variable never becomes two words."""
    found = model(line, {"DIR": "/a b; rm -rf /"})

    assert found == Model("m", cmd=parts, transport=Transport.TCP, stall_timeout=None)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("proxy = 'http://h:${PORT}/x'", {"proxy": "http://h:${PORT}/x"}),
        ("cmd_stop = 'stop ${PID}'", {"cmd_stop": ("stop", "${PID}")}),
        ("cmd = 'serve'\nproxy = 'https://h:1'", {"cmd": ("serve",), "proxy": "https://h:1"}),
    ],
)
def test_what_stops_and_reaches_a_command(lines: str, expected: dict[str, object]) -> None:
    """A server with an address of its own needs no port of ours."""
    command = "" if lines.startswith("cmd =") else 'cmd = "serve ${PORT}"\n'

    found = model(command + lines)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("proxy", ["localhost:1", "ftp://h", "http://", "http://h:x", "http://h?a=1", "http://a b", 1])
def test_bad_addresses_of_a_command(proxy: object) -> None:
    """What is no URL of an HTTP service is refused."""
    (problem,) = problems(f"[models.m]\ncmd = 'serve ${{PORT}}'\nproxy = {proxy!r}")

    assert problem.startswith('models.m.proxy: expected a URL such as "http://localhost:8000"')


def test_a_proxy_with_a_port_needs_a_command_with_it() -> None:
    """The server must listen where we ask."""
    (problem,) = problems("[models.m]\ncmd = 'serve'\nproxy = 'http://h:${PORT}'")

    assert problem.startswith("models.m.cmd: expected a command with `${PORT}` in it")


def test_timeouts_merge_with_those_of_defaults() -> None:
    """Key by key."""
    found = config("[defaults]\ntimeouts = { connect = 1, keepalive = 2 }\n[models.m]\ntimeouts.connect = 3").models[
        "m"
    ]

    assert found.timeouts == Timeouts(connect=3.0, keepalive=2.0)


@pytest.mark.parametrize("name", ["b", "x"])
def test_settings_for_a_name_of_something_else_are_refused(name: str) -> None:
    """Such a name becomes an alias, wherever the other one stands."""
    (problem,) = problems(f"[models.a]\nset_params_by_name.{name} = {{}}\n[models.b]\naliases = ['x']")

    assert problem.startswith(f"models.a.set_params_by_name.{name}: expected a name that nothing else has")


def test_peers_selectors_and_profiles() -> None:
    """Everything one may say of them."""
    found = config(
        "[models.a]\n[models.b]\n"
        "[peers.p]\nproxy = 'https://p'\nmodels = ['x']\napi_key = '${env:K}'\nset_params = { a = 1 }\n"
        "strip_params = ['b']\nset_params_by_name.x = { c = 2 }\ntimeouts.response_header = 'never'\n"
        "[selectors.s]\nstrategy = 'spillover'\ntargets = ['a', 'b', 'p/x']\nspillover = 2\nname = 'S'\n"
        "description = 'd'\nunlisted = true\nmetadata = { k = 1 }\n"
        "[profiles.f]\ndescription = 'd'\npins = { gpt = 's', other = '' }\n",
        {"K": "sk-peer"},
    )

    assert found.peers == {
        "p": Peer(
            "https://p",
            ("x",),
            api_key="sk-peer",
            timeouts=Timeouts(response_header=None),
            filters=Filters(strip=("b",), force={"a": 1}),
            filters_by_name={"x": Filters(strip=("b",), force={"a": 1, "c": 2})},
        )
    }
    assert found.selectors == {
        "s": Selector(Strategy.SPILLOVER, ("a", "b", "p/x"), 2, "S", "d", unlisted=True, metadata={"k": 1})
    }
    assert found.profiles == {"f": Profile({"gpt": "s", "other": None}, "d")}
    assert found.secrets == {"sk-peer"}


def test_peers_have_a_minute_to_begin_an_answer() -> None:
    """Unlike models, which may take as long as they like."""
    assert config("[peers.p]\nproxy = 'http://p'\nmodels = ['x']").peers["p"].timeouts == Timeouts(response_header=60.0)
    assert Peer("", ()).timeouts.response_header == 60.0


def test_keys_of_clients_are_secrets() -> None:
    """They are redacted wherever they turn up."""
    assert config("[server]\napi_keys = ['sk-client']").secrets == {"sk-client"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('cmd = "serve"', "expected a command with `${PORT}` in it"),
        ("cmd = []", "expected a command,"),
        ("cmd = 1", "expected a command,"),
        ('cmd = [1, "${PORT}"]', "expected a string"),
        ('cmd = "serve \'${PORT}"', "expected a command whose quotes are closed"),
        ('cmd = "serve ${env:NOPE} ${PORT}"', "expected the environment variable `NOPE` to be set"),
    ],
)
def test_commands_that_cannot_work(line: str, expected: str) -> None:
    """A command that could not be started or reached is refused with the reason."""
    (problem,) = problems(f"[models.m]\n{line}")

    assert expected in problem


def test_a_command_takes_no_llama_server_options() -> None:
    """What would be ignored is refused, each by its own path."""
    found = problems(
        '[models.m]\ncmd = "serve ${PORT}"\nctx_size = 1\nsampling = {}\nbinary = "b"\ntransport = "unix"\nttl = 1\n'
    )

    assert [problem.split(":")[0] for problem in found] == [
        "models.m.ctx_size",
        "models.m.sampling",
        "models.m.binary",
        "models.m.transport",
    ]


DEFAULTS = """
[defaults]
ctx_size = 1
jinja = true
ttl = "1m"
binary = "b"
transport = "unix"
strip_params = ["user"]
sampling = { temp = 1, top-k = 1 }
env = { A = "1", B = "1" }
metadata = { a = 1, b = 1 }
set_params = { a = 1, b = 1 }
"""


def test_defaults_are_under_every_model() -> None:
    """Tables merge key by key; anything else of the model replaces the default."""
    merged = config(
        DEFAULTS + "[models.m]\nctx-size = 2\nttl = 'never'\nstrip_params = []\nsampling.temp = 2\n"
        "env.B = '2'\nmetadata.b = 2\nset_params.b = 2\n"
    ).models["m"]

    assert merged == Model(
        "m",
        options={"ctx-size": 2, "jinja": True},
        binary="b",
        sampling={"temp": 2, "top-k": 1},
        env={"A": "1", "B": "2"},
        metadata={"a": 1, "b": 2},
        filters=Filters(force={"a": 1, "b": 2}),
    )


def test_defaults_of_llama_server_do_not_reach_a_command() -> None:
    """A `cmd` gets those defaults that mean something to it."""
    merged = config(DEFAULTS + '[models.m]\ncmd = "x ${PORT}"').models["m"]

    assert (merged.options, merged.sampling, merged.binary, merged.transport) == ({}, {}, None, Transport.TCP)
    assert (merged.ttl, merged.env) == (60.0, {"A": "1", "B": "1"})


@pytest.mark.parametrize(
    "key", ["name", "description", "aliases", "variants", "cmd", "cmd_stop", "proxy", "set_params_by_name"]
)
def test_defaults_that_cannot_be_for_all_are_refused(key: str) -> None:
    """A key of one model is named when it stands in `[defaults]`."""
    (problem,) = problems(f"[defaults]\n{key} = 1")

    assert problem.startswith(f"defaults.{key}: expected a key that suits every model, found `1`; hint: ")


def test_a_bad_default_is_one_problem() -> None:
    """A default is checked where it is written, not once for each model."""
    assert len(problems("[defaults]\nttl = 'soon'\n[models.a]\n[models.b]\n")) == 1


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("[models.a]\n[models.b]\naliases = ['a']", ("models.b.aliases[0]", "models.a")),
        ("[models.a]\naliases = ['b']\n[models.b]", ("models.b", "models.a.aliases[0]")),
        ("[models.a]\naliases = ['a']", ("models.a.aliases[0]", "models.a")),
        ("[models.a]\naliases = ['x', 'x']", ("models.a.aliases[1]", "models.a.aliases[0]")),
        ("[models.a.variants.x]\n[models.b.variants.x]", ("models.b.variants.x", "models.a.variants.x")),
        ("[models.a.variants.a]", ("models.a.variants.a", "models.a")),
        ("[models.a]\n[models.b]\naliases = ['${env:SECRET}']", ("models.b.aliases[0]", "models.a")),
    ],
)
def test_a_name_is_taken_once(text: str, paths: tuple[str, str]) -> None:
    """Two things with one name are reported with both places."""
    (problem,) = problems(text, {"SECRET": "a"})

    assert problem.startswith(f"{paths[0]}: expected a name that nothing else has")
    assert problem.endswith(f"hint: `{paths[1]}` has it already")


@pytest.mark.parametrize("key", ['""', '"a\\u0007"', '"' + "x" * 257 + '"'])
def test_bad_model_names(key: str) -> None:
    """The name of a model can be sent in a request and written in a log."""
    (problem,) = problems(f"[models.{key}]")

    assert "expected a name" in problem


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_the_default_model_is_a_model_an_alias_or_a_variant(name: str) -> None:
    """Whatever a request may name can be the default, wherever it stands in the file."""
    text = f"[server]\ndefault_model = '{name}'\n[models.a]\naliases = ['b']\n[models.a.variants.c]"

    assert config(text).default_model == name


def test_a_default_model_that_is_not_there() -> None:
    """The nearest name is offered."""
    (problem,) = problems("[server]\ndefault-model = 'qwem'\n[models.qwen]")

    assert problem == (
        "server.default-model: expected the name of a model, an alias or a variant, "
        'found `"qwem"`; hint: did you mean `qwen`?'
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[model.a]", "model: expected a key of this file, found `model`; hint: did you mean `models`?"),
        (
            "[server]\nmax-lodaed = 1",
            "server.max-lodaed: expected a key of [server], found `max-lodaed`; hint: did you mean `max_loaded`?",
        ),
        (
            "[models.a.variants.b]\nsamplng = {}",
            "models.a.variants.b.samplng: expected a key of [models.a.variants.b], found `samplng`; "
            "hint: did you mean `sampling`?",
        ),
        (
            "zzz = 1",
            "zzz: expected a key of this file, found `zzz`; hint: the keys are server, memory, defaults, models, "
            "peers, selectors, groups, matrix, profiles, keys",
        ),
    ],
)
def test_unknown_keys_come_with_the_nearest(text: str, problem: str) -> None:
    """A misspelt key of ours is refused, never ignored."""
    assert problems(text) == [problem]


@pytest.mark.parametrize("pair", ["ctx-size = 1\nctx_size = 2", "strip_params = []\nstrip-params = []"])
def test_a_key_in_both_spellings_is_refused(pair: str) -> None:
    """One of two values would be lost."""
    (problem,) = problems(f"[models.m]\n{pair}")

    assert "expected one spelling of a key" in problem


def test_all_problems_come_at_once() -> None:
    """One run shows everything there is to change, in the order of the file."""
    found = problems(
        "[server]\nmax_loaded = 0\nport = 1\n[models.a]\nttl = 'x'\naliases = [1, 2]\n[models.b]\ncmd = 'x'"
    )

    assert [problem.split(":")[0] for problem in found] == [
        "server.max_loaded",
        "server.port",
        "models.a.ttl",
        "models.a.aliases[0]",
        "models.a.aliases[1]",
        "models.b.cmd",
    ]


def test_variables_work_in_every_string() -> None:
    """Options, lists, tables and our own keys take `${env:NAME}`; a duration may come from one too."""
    read = model(
        'api-key = "${env:K}"\nlora = ["${env:K}", "$${env:K}"]\nenv = { T = "${env:K}" }\nttl = "${env:TTL}"\n'
        'sampling = { grammar = "${env:K}" }\nset_params = { a = ["${env:K}"] }\naliases = ["${env:K}"]',
        {"K": "k", "TTL": "5m"},
    )

    assert read == replace(
        Model("m", ttl=300.0, env={"T": "k"}, sampling={"grammar": "k"}, aliases=("k",)),
        options={"api-key": "k", "lora": ("k", "${env:K}")},
        filters=Filters(force={"a": ("k",)}),
    )


@pytest.mark.parametrize(
    "text",
    [
        "[models.m]\nttl = '${env:S}'",
        "[server]\nlisten = '${env:S}'",
        "[server]\nmanagement = '${env:S}'",
        "[server]\ndefault_model = '${env:S}'\n[models.m]\naliases = ['${env:S}x']",
        "[models.m]\ncheck_endpoint = '${env:S}'",
        "[models.m]\nstrip_params = ['${env:M}']",
        "[models.m]\naliases = ['${env:S}', '${env:S}']",
    ],
)
def test_secrets_are_not_in_messages(text: str) -> None:
    """A problem shows what is written, not what stands for it."""
    (problem,) = problems(text, {"S": "hunter2", "M": "model"})

    assert "hunter2" not in problem
    assert "${env:" in problem


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a = ", "line 1, column 5: expected TOML, found `a =`; hint: invalid value"),
        ("\n[x\n", "line 2, column 3: expected TOML, found `[x`; hint: "),
        ("a = 1\na = 2\n", "line 2, column 6: expected TOML, found `a = 2`; hint: cannot overwrite a value"),
        ('a = "x\x1b[31m"', 'line 1, column 7: expected TOML, found `a = "x�[31m"`'),
        ('x = """\n\n', "line 3, column 1: expected TOML; hint: "),
    ],
)
def test_syntax_errors_have_a_place(text: str, place: str) -> None:
    """What is no TOML is pointed at by line and column, with the reason."""
    (problem,) = problems(text)

    assert problem.startswith(place)


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "1" * 5000, "models.m.metadata" + ".a" * 2000 + " = 1"])
def test_what_python_cannot_read_is_a_problem_too(text: str) -> None:
    """Absurd depth and absurd numbers are refused, not a traceback."""
    (problem,) = problems(text)

    assert problem.startswith("config: expected ")


def test_memory_that_models_may_take() -> None:
    """Sizes by device, and what is left alone of the others."""
    written = '[memory]\nreserve = "2GiB"\nbudget = { CUDA0 = "20GiB", host = "24GiB" }'

    assert config(written).memory == Memory(2 * 2**30, {"CUDA0": 20 * 2**30, "host": 24 * 2**30})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('budget = { gpu = "1GiB" }', 'memory.budget.gpu: expected "host", or a device as'),
        ('budget = { CUDA0 = "lots" }', 'memory.budget.CUDA0: expected a size such as "256MiB", found `"lots"`'),
        ("reserve = -1", 'memory.reserve: expected a size such as "256MiB", found `-1`'),
        ("budgets = {}", "memory.budgets: expected a key of [memory], found `budgets`; hint: did you mean `budget`?"),
    ],
)
def test_memory_that_makes_no_sense(line: str, problem: str) -> None:
    """Devices and sizes are checked where they are written."""
    (found,) = problems(f"[memory]\n{line}")

    assert found.startswith(problem)


# Policy.


def test_groups_are_read() -> None:
    """Models in none are a group of their own, as in a llama-swap file."""
    text = '[models.a]\n[models.b]\n[models.c]\n[groups.g]\nmembers = ["a", "b"]\nswap = false'
    assert config(text).routing == Groups({"g": Group(("a", "b"), swap=False), DEFAULT_GROUP: Group(("c",))})


def test_matrix_is_read() -> None:
    """Sets are expressions over models and short names."""
    text = '[models.a]\n[models.b]\n[matrix]\nvars = { x = "a" }\nsets = { s = "x & b" }\nevict_costs = { b = 5 }'
    assert config(text).routing == Matrix({"s": Together((Single("a"), Single("b")))}, {"b": 5})


def test_priorities_are_read() -> None:
    assert config("[defaults]\npriority = 1\n[models.a]\n[models.b]\npriority = 0").priorities == {"a": 1}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[server]\npreload = ["qwem"]\n[models.qwen]',
            "server.preload[0]: expected the name of a model, found `qwem`; hint: did you mean `qwen`?",
        ),
        (
            '[server]\non_idle = "x"\n[models.qwen]',
            "server.on_idle: expected the name of a model, found `x`",
        ),
        (
            '[models.a]\n[groups.g]\nmembers = ["b"]',
            "groups.g.members[0]: expected the id of a model, found `b`",
        ),
        ("[models.a]\n[groups.g]\n[matrix]", "matrix: expected either groups or a matrix, found `both`"),
    ],
)
def test_policies_name_models_that_exist(text: str, problem: str) -> None:
    """Whoever is to be loaded, or not to be loaded together, is one of the models."""
    with pytest.raises(ConfigInvalid) as caught:
        config(text)
    assert problem in [str(each) for each in caught.value.problems]

"""What a reload would do, from two configs alone."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.changes import AT_START, LAUNCH, Plan, adopted, needs_another_run, plan
from supervisor.config.clients import ClientKey, digest_of
from supervisor.config.routing import Group, Groups
from supervisor.config.values import (
    Capabilities,
    Config,
    Console,
    Filters,
    Hooks,
    LogFormat,
    Management,
    Model,
    Overload,
    Peer,
    Performance,
    Profile,
    Selector,
    Server,
    Strategy,
    Timeouts,
    Transport,
    Variant,
)
from supervisor.llama.command import Command, Surroundings, llama_command, raw_command
from supervisor.llama.endpoint import UnixEndpoint

SECRET = "canary-value"
OTHERS: dict[str, Any] = {
    "options": {"ctx-size": 4096, "api-key": SECRET},
    "sampling": {"temp": 0.5},
    "binary": "/b/llama-server",
    "cmd": ("server", "${PORT}"),
    "shown_cmd": "server \\\n ${PORT}",
    "cmd_stop": ("stop", "${PID}"),
    "proxy": "http://localhost:${PORT}/v1",
    "port": 5801,
    "env": {"HF_TOKEN": SECRET},
    "transport": Transport.TCP,
    "check_endpoint": "/ready",
    "hooks": Hooks(before_load=("true",)),
    "load_timeout": 1.0,
    "load_limit": 2.0,
    "stall_timeout": 3.0,
    "unload_timeout": 4.0,
    "require_gpu": True,
    "ttl": 5.0,
    "pinned": True,
    "fit_cache": False,
    "prefetch": False,
    "concurrency": 6,
    "overload": Overload.REFUSE,
    "timeouts": Timeouts(connect=7.0),
    "ignore_websockets": True,
    "send_loading_state": True,
    "use_model_name": "other",
    "filters": Filters(strip=("a",)),
    "filters_by_name": {"a": Filters(strip=("b",))},
    "capabilities": Capabilities(tools=True),
    "name": "Another",
    "description": "Another one",
    "aliases": ("alias",),
    "variants": {"v": Variant()},
    "unlisted": True,
    "metadata": {"a": 1},
}
"""Another value for every key of a model."""

SETTINGS: dict[str, Any] = {
    "host": "0.0.0.0",
    "port": 1,
    "default_model": "a",
    "max_loaded": 2,
    "min_residency": 2.5,
    "on_idle": "a",
    "body_memory": 11,
    "max_connections": 12,
    "log_dir": "/logs",
    "log_file_size": 13,
    "log_file_count": 14,
    "decision_log": "/decisions.jsonl",
    "log_format": LogFormat.JSON,
    "activity": False,
    "max_queue": 3,
    "max_wait": 4.0,
    "drain_timeout": 5.0,
    "stop_timeout": 6.0,
    "comment_after": 7.0,
    "max_body": 8,
    "log_buffer": 9,
    "management": Management.OPEN,
    "log_level": "debug",
    "log_time_format": "rfc3339",
    "log_to_stdout": Console.BOTH,
    "tls_cert_file": "cert",
    "tls_key_file": "key",
    "api_keys": (SECRET,),
    "ignore_paths": (),
    "aliases_in_list": True,
    "start_port": 10,
    "preload": ("a",),
    "metrics_max_in_memory": 11,
    "capture_buffer": 12,
    "store": "store",
    "session_id_headers": (),
    "performance": Performance(disabled=True),
    "allowed_hosts": ("example.com",),
    "are_hosts_checked_for_models": False,
    "trusted_proxies": ("10.0.0.0/8",),
    "prefix": "/llm",
    "block_private_urls": True,
}
"""Another value for every key of the server."""

TABLES: dict[str, dict[str, Any]] = {
    "keys": {"phone": ClientKey("phone", digest_of(SECRET), secret=SECRET)},
    "peers": {"far": Peer("http://far", ("m",), api_key=SECRET)},
    "selectors": {"any": Selector(Strategy.PIN, ("a",))},
    "profiles": {"night": Profile({"llm": "a"})},
    "priorities": {"a": 1},
}

OTHERWISE = {"base", "server", "models", "secrets", "warnings"}
"""What of a config is told in another way, or follows from the rest."""

MODEL_CHANGES = st.sets(st.sampled_from(sorted(OTHERS)), max_size=3).map(
    lambda keys: {key: OTHERS[key] for key in keys}
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Some of four models and of the tables, each with some keys that are not as usual."""
    names = draw(st.lists(st.sampled_from("abcd"), unique=True))
    settings = {key: SETTINGS[key] for key in draw(st.sets(st.sampled_from(sorted(SETTINGS)), max_size=4))}
    tables = {table: TABLES[table] for table in draw(st.sets(st.sampled_from(sorted(TABLES))))}
    routing = draw(st.sampled_from([None, Groups({"g": Group(tuple(names))})]))
    models = {name: Model(name, **draw(MODEL_CHANGES)) for name in names}
    return Config(Path("/"), Server(**settings), models, routing=routing, **tables)


def one(model: Model | None = None, **server: Any) -> Config:
    return Config(Path("/"), Server(**server), {"a": model or Model("a")})


# For any two configs.


@given(configs())
def test_a_config_is_no_change_of_itself(config: Config) -> None:
    """Nothing to do, nothing to say."""
    nothing = plan(config, replace(config))

    assert nothing == Plan(unchanged=len(config.models))
    assert not nothing
    assert list(nothing.lines()) == []


@given(configs(), configs())
def test_every_model_has_one_fate(old: Config, new: Config) -> None:
    """Added, removed, started anew, going on as another, or left alone; and no plan is empty that should not be."""
    found = plan(old, new)
    fates = [*found.added, *found.removed, *found.restarted, *found.updated]

    assert len(fates) == len(set(fates))
    assert len(fates) + found.unchanged == len(old.models.keys() | new.models.keys())
    assert set(found.added) == new.models.keys() - old.models.keys()
    assert set(found.removed) == old.models.keys() - new.models.keys()
    for name in old.models.keys() & new.models.keys():
        before, after = old.models[name], new.models[name]
        assert (name in found.restarted) == any(getattr(before, key) != getattr(after, key) for key in LAUNCH)
        assert name in found.restarted or (name in found.updated) == (
            replace(before, shown_cmd="") != replace(after, shown_cmd="")
        )
    assert bool(found) == bool(fates or found.settings or found.needs_restart)
    assert all(found.restarted.values())
    assert all(found.updated.values())


@given(configs(), configs())
def test_once_adopted_only_a_restart_is_left(old: Config, new: Config) -> None:
    """What needs one is asked for again with each reload, and nothing else is."""
    before, after = plan(old, new), plan(adopted(old, new), new)

    assert after == Plan(unchanged=len(new.models), needs_restart=before.needs_restart)
    assert plan(old, adopted(old, new)) == replace(before, needs_restart=())


@given(configs(), configs(), st.sets(st.sampled_from("abcd")), st.sets(st.sampled_from("abcd")))
def test_what_runs_is_not_given_up_for_what_cannot(
    old: Config, new: Config, broken: set[str], running: set[str]
) -> None:
    """Once adopted, such a model is started as before, all else of it holds, and the plan asks for the rest again."""
    planned = plan(old, new)
    found = planned.foreseen(dict.fromkeys(broken, "no file"), running)
    held = adopted(old, new, found.kept)

    assert found.kept.keys() == planned.restarted.keys() & broken & running
    assert found.kept.keys() | found.restarted.keys() == planned.restarted.keys()
    assert found.broken.keys() == broken & {*planned.added, *planned.restarted}
    assert bool(found) == bool(planned)
    assert all(found.kept.values())
    for name in found.kept:
        assert not needs_another_run(old.models[name], held.models[name])
    again = plan(held, new)
    assert again == Plan(
        restarted=dict(found.kept), unchanged=len(new.models) - len(found.kept), needs_restart=found.needs_restart
    )


@given(configs(), configs())
def test_the_way_back_is_the_reverse(old: Config, new: Config) -> None:
    """Whoever takes a change back undoes what it did."""
    there, back = plan(old, new), plan(new, old)

    assert set(there.added) == set(back.removed)
    assert there.restarted.keys() == back.restarted.keys()
    assert there.updated.keys() == back.updated.keys()
    assert set(there.settings) == set(back.settings)
    assert there.needs_restart == back.needs_restart


@given(configs(), configs())
def test_no_value_is_told(old: Config, new: Config) -> None:
    """Keys of clients and peers are among them."""
    found = plan(old, new)

    assert SECRET not in str(found.as_json())
    assert SECRET not in repr(found)


# Key by key.


def test_no_key_is_left_out() -> None:
    """A new key has to be put where it belongs: what a child is started with, or what we look at once."""
    assert OTHERS.keys() == {each.name for each in fields(Model)} - {"id"}
    assert SETTINGS.keys() == {each.name for each in fields(Server)}
    assert TABLES.keys() | {"routing", "memory"} == {each.name for each in fields(Config)} - OTHERWISE
    assert set(LAUNCH) < OTHERS.keys()
    assert set(AT_START) < SETTINGS.keys()


@pytest.mark.parametrize("key", sorted(OTHERS.keys() - set(LAUNCH)))
def test_what_restarts_nothing_changes_no_command(key: str) -> None:
    """Neither of a llama-server nor of anything else: what runs is what the config says."""
    for model in (Model("a", OTHERS["options"]), Model("a", cmd=OTHERS["cmd"])):
        other = replace(model, **{key: OTHERS[key]})

        assert not needs_another_run(model, other)
        assert commands(model) == commands(other)


@pytest.mark.parametrize("key", ["options", "sampling", "env", "cmd", "cmd_stop", "proxy"])
def test_what_changes_a_command_restarts(key: str) -> None:
    """`binary`, `port` and `transport` do too, by way of what a command is built from."""
    model = Model("a", cmd=("other", "${PORT}"))
    other = replace(model, **{key: OTHERS[key]})

    assert needs_another_run(model, other)
    assert commands(model) != commands(other)


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_hold_at_once_or_need_a_restart(key: str) -> None:
    """Every one of them is told, by the name it has in the file."""
    found = plan(one(), one(**{key: SETTINGS[key]}))
    shown = "server.listen" if key in {"host", "port"} else f"server.{key}"

    assert (found.settings, found.needs_restart) == (((), (shown,)) if key in AT_START else ((shown,), ()))


def test_another_address_needs_a_restart() -> None:
    """It is told once, and the service goes on at the old one."""
    old, new = one(), one(host="0.0.0.0", port=80, max_loaded=2)

    assert plan(old, new).needs_restart == ("server.listen",)
    assert adopted(old, new).server == Server(max_loaded=2)


def test_the_plan_in_words() -> None:
    """One line each, for `plan` and the log."""
    old = Config(
        Path("/"),
        Server(),
        {
            "gone": Model("gone"),
            "same": Model("same"),
            "other": Model("other", {"ctx-size": 1, "jinja": True}, env={"A": "1"}, ttl=1.0),
            "renamed": Model("renamed"),
        },
    )
    new = Config(
        Path("/"),
        Server(port=1, max_loaded=2),
        {
            "same": Model("same"),
            "other": Model("other", {"ctx-size": 2, "no-mmap": True}, sampling={"temp": 1.0}, env={"A": "2"}, ttl=2.0),
            "renamed": Model("renamed", description="d", aliases=("r",)),
            "fresh": Model("fresh"),
        },
        peers=TABLES["peers"],
    )

    assert list(plan(old, new).lines()) == [
        "+ fresh",
        "- gone: takes no more requests, and ends after those it has",
        "~ other: starts anew, after the requests it has (ctx-size, jinja, no-mmap, sampling.temp, env.A, ttl)",
        "= renamed: goes on with another description, aliases",
        "* at once: server.max_loaded, peers.far",
        "! needs a restart of the service: server.listen",
    ]


def test_what_cannot_start_in_words() -> None:
    """Each with the reason, at the end, where it is seen."""
    old = Config(Path("/"), Server(), {"runs": Model("runs"), "cold": Model("cold")})
    changed = {"ctx-size": 1}
    new = Config(
        Path("/"),
        Server(port=1),
        {"runs": Model("runs", changed, ttl=1.0), "cold": Model("cold", changed), "fresh": Model("fresh")},
    )
    found = plan(old, new).foreseen({"runs": "no file", "cold": "no flag", "fresh": "no binary"}, {"runs"})

    assert list(found.lines()) == [
        "+ fresh",
        "~ cold: starts anew, after the requests it has (ctx-size)",
        "= runs: goes on with another ttl",
        "! needs a restart of the service: server.listen",
        "? runs: goes on as it is, for with another ctx-size it cannot start: no file",
        "? cold: cannot start: no flag",
        "? fresh: cannot start: no binary",
    ]
    assert list(found.troubles()) == list(found.lines())[-3:]


def commands(model: Model) -> list[Command]:
    """Everything that could be started for a model, by whatever binary."""
    around = Surroundings(Path("/"), Path("/home/u"), {"PATH": "/bin"}, Path("/run"))
    endpoint = UnixEndpoint(Path("/run/1.sock"))
    started = [llama_command(model, around, binary=Path("/b"), catalogue=None, endpoint=endpoint)]
    return [*started, raw_command(model, around, port=1)] if model.cmd else started

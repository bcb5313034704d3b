"""The JSON Schema that editors use, and its agreement with what we read."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from supervisor.config import access, json_schema
from supervisor.config.clients import ClientKey
from supervisor.config.options import OPTIONS, SAMPLING
from supervisor.config.place import Place, Sheet
from supervisor.config.quantities import Address
from supervisor.config.routing import Group
from supervisor.config.schema import (
    CAPABILITIES,
    DEFAULTS,
    GROUP,
    HOOKS,
    MEMORY,
    MODEL,
    PEER,
    PROFILE,
    SELECTOR,
    SERVER,
    TIMEOUTS,
    VARIANT,
)
from supervisor.config.values import (
    Capabilities,
    Filters,
    Hooks,
    Memory,
    Model,
    Peer,
    Profile,
    Selector,
    Server,
    Strategy,
    Timeouts,
    Variant,
)

LLAMA_SWAP_ONLY = {
    *("log_time_format", "log_to_stdout", "start_port"),
}
"""Fields that models.toml has no keys for yet."""

SHIPPED = Path(json_schema.__file__).with_name("models.schema.json")
SCHEMA: dict[str, Any] = json_schema.schema()
MODEL_SCHEMA = SCHEMA["properties"]["models"]["additionalProperties"]


def test_the_shipped_file_is_up_to_date() -> None:
    """Who changes a key runs `python -m supervisor.config.json_schema > supervisor/config/models.schema.json`."""
    assert SHIPPED.read_text("utf-8") == json_schema.rendered()


def test_every_key_of_ours_is_offered_with_a_description() -> None:
    """An editor completes all we know, and says what it is for."""
    tables = [
        (SCHEMA["properties"]["server"], SERVER),
        (SCHEMA["properties"]["defaults"], DEFAULTS),
        (MODEL_SCHEMA, MODEL),
        (MODEL_SCHEMA["properties"]["variants"]["additionalProperties"], VARIANT),
    ]
    for table, keys in tables:
        for name in keys:
            assert table["properties"][name]["description"].endswith((".", "anyone."))


def test_llama_server_options_are_offered_and_others_allowed() -> None:
    """The well-known options complete; a new one that takes a scalar or a list is no error."""
    assert OPTIONS.keys() <= MODEL_SCHEMA["properties"].keys()
    assert OPTIONS.keys() <= SCHEMA["properties"]["defaults"]["properties"].keys()
    assert SAMPLING.keys() == MODEL_SCHEMA["properties"]["sampling"]["properties"].keys()
    assert MODEL_SCHEMA["additionalProperties"] == {"$ref": "#/$defs/option"}
    assert not OPTIONS.keys() & MODEL.keys()


def test_unknown_keys_of_our_tables_are_marked() -> None:
    """An editor underlines what we would refuse, but not the spelling with dashes."""
    for table in (SCHEMA, SCHEMA["properties"]["server"]):
        assert table["additionalProperties"] is False
    assert "^max-loaded$" in SCHEMA["properties"]["server"]["patternProperties"]


def test_references_lead_somewhere_and_patterns_compile() -> None:
    """The schema is well-formed as far as that can be told without a validator."""
    text = json.dumps(SCHEMA)

    assert set(re.findall(r'"#/\$defs/(\w+)"', text)) == SCHEMA["$defs"].keys()
    assert SCHEMA["$schema"].endswith("2020-12/schema")
    for name, good, bad in [("duration", "1h30m", "soon"), ("size", "8GiB", "8 gigs")]:
        pattern = SCHEMA["$defs"][name]["anyOf"][1]["pattern"]
        assert re.search(pattern, good)
        assert re.search(pattern, "${env:X}")
        assert not re.search(pattern, bad)


@pytest.mark.parametrize(
    ("table", "type_", "made_of_others"),
    [
        (SERVER, Server, {"host", "port", "are_hosts_checked_for_models", *LLAMA_SWAP_ONLY}),
        (MODEL, Model, {"id", "options", "filters", "filters_by_name", "shown_cmd", "port", "overload"}),
        (VARIANT, Variant, {"filters"}),
        (PEER, Peer, {"filters", "filters_by_name"}),
        (SELECTOR, Selector, set()),
        (PROFILE, Profile, set()),
        (MEMORY, Memory, set()),
        (GROUP, Group, set()),
        (TIMEOUTS, Timeouts, set()),
        (HOOKS, Hooks, set()),
        (CAPABILITIES, Capabilities, set()),
        (access.KEY, ClientKey, {"name", "digest", "secret"}),
    ],
)
def test_keys_and_fields_have_the_same_names(table: dict[str, Any], type_: type[Any], made_of_others: set[str]) -> None:
    """Every field can be written, and every key ends up in a field."""
    turned = {"listen", "priority", "set_params", "set_params_by_name", "strip_params"}
    turned |= {"sampling"} if type_ is Variant else {"key", "sha256"} if type_ is ClientKey else set()

    assert table.keys() - turned == {each.name for each in fields(type_)} - made_of_others
    assert {each.name for each in fields(Filters)} == {"strip", "defaults", "force"}


@pytest.mark.parametrize(
    ("table", "value"),
    [
        (SERVER, Server()),
        (MEMORY, Memory()),
        (MODEL, Model("x")),
        (VARIANT, Variant()),
        (TIMEOUTS, Timeouts()),
        (CAPABILITIES, Capabilities()),
        (SELECTOR, Selector(Strategy.PIN, ())),
    ],
)
def test_defaults_in_the_schema_are_those_of_the_values(table: dict[str, Any], value: object) -> None:
    """What an editor shows as the default is what holds when the key is left out."""
    for name, key in table.items():
        if key.default is None:
            continue
        result = key.kind.read(Place(key.default, Sheet({})))
        expected = Address(value.host, value.port) if isinstance(value, Server) and name == "listen" else None
        assert result == (expected or getattr(value, name))

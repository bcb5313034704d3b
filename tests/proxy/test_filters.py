"""What a model's filters do to a request's JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.values import Filters
from supervisor.errors import InvalidRequest
from supervisor.proxy import filters

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(codec="utf-8"), max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
objects = st.dictionaries(st.sampled_from(["model", "a", "b", "c", "é"]), values)


def applied(rules: Filters, fields: dict[str, object]) -> dict[str, object]:
    result: dict[str, object] = json.loads(filters.apply(rules, json.dumps(fields).encode()))
    return result


def test_strip() -> None:
    """A stripped field is gone, whoever set it; one that is not there is no error."""
    assert applied(Filters(strip=("a", "b")), {"model": "m", "a": 1, "c": 2}) == {"model": "m", "c": 2}


def test_defaults_yield_to_the_client() -> None:
    """A default fills in what the client left out; null and 0 are what the client said."""
    rules = Filters(defaults={"a": 1, "b": 1, "c": 1})

    assert applied(rules, {"b": None, "c": 0}) == {"a": 1, "b": None, "c": 0}


def test_forced_fields_win() -> None:
    """A forced field has our value whatever the client sent, nested values as a whole."""
    rules = Filters(force={"a": {"x": 1}, "b": True})

    assert applied(rules, {"a": {"y": 2}}) == {"a": {"x": 1}, "b": True}


def test_fields_are_paths() -> None:
    """Stripping, defaults and forcing reach into objects, which are made where they are missing."""
    rules = Filters(strip=("a.b", "x.y"), defaults={"a.d": 1, "c.d": 2}, force={"c.e.f": 3, "g": 4, r"h\.i": 5})

    assert applied(rules, {"a": {"b": 1, "d": 0}, "x": 7, "g": {"z": 1}}) == {
        "a": {"d": 0},
        "x": 7,
        "c": {"d": 2, "e": {"f": 3}},
        "g": 4,
        "h.i": 5,
    }


@pytest.mark.parametrize(
    ("path", "fields", "result"),
    [
        ("a.0", {"a": [1, 2]}, {"a": [9, 2]}),
        ("a.1.b", {"a": [1, {"c": 2}]}, {"a": [1, {"c": 2, "b": 9}]}),
        ("a.-1", {"a": [1]}, {"a": [1, 9]}),
        ("a.-1.b", {"a": [{"b": 1}]}, {"a": [{"b": 1}, {"b": 9}]}),
        ("a.3", {"a": [1]}, {"a": [1, None, None, 9]}),
        ("a.1", {}, {"a": [None, 9]}),
        ("a.-1", {}, {"a": [9]}),
        ("a.0", {"a": "text"}, {"a": [9]}),
        ("a.0", {"a": {"b": 1}}, {"a": {"b": 1, "0": 9}}),
        ("a.-1", {"a": {}}, {"a": {"-1": 9}}),
        ("a.:0", {}, {"a": {"0": 9}}),
        ("a.50256", {}, {"a": {"50256": 9}}),
        (":0.b", {}, {"0": {"b": 9}}),
    ],
)
def test_paths_lead_into_lists(path: str, fields: dict[str, object], result: dict[str, object]) -> None:
    """A number is a place in a list, -1 one more behind its end; in an object, or behind a colon, it is a name."""
    assert applied(Filters(force={path: 9}), fields) == result


@pytest.mark.parametrize(
    ("path", "left"),
    [("a.0", [[2], {"b": 3}]), ("a.-1", [1, [2]]), ("a.1.0", [1, [], {"b": 3}]), ("a.2.b", [1, [2], {}])]
    + [(path, [1, [2], {"b": 3}]) for path in ("a.3", "a.b", "a.0.0", "a.:0", "a.1.1")],
)
def test_stripping_in_lists(path: str, left: list[object]) -> None:
    """There -1 is the last; what is not there is no error."""
    assert applied(Filters(strip=(path,)), {"a": [1, [2], {"b": 3}]}) == {"a": left}


def test_defaults_in_lists() -> None:
    """A place that the client has filled is left alone."""
    assert applied(Filters(defaults={"a.0": 9, "a.1": 9}), {"a": [None]}) == {"a": [None, 9]}


def test_a_name_in_a_list() -> None:
    """What the client sent is not thrown away for a filter that does not fit it."""
    with pytest.raises(InvalidRequest, match=r"`messages\.role`"):
        applied(Filters(force={"messages.role": "user"}), {"messages": [{}]})


def test_a_path_through_something_else_than_an_object_makes_one() -> None:
    """As sjson does, which llama-swap uses."""
    assert applied(Filters(force={"a.b": 1}), {"a": "text"}) == {"a": {"b": 1}}


def test_the_config_is_never_changed() -> None:
    """A forced object that another path leads into stays what it is for the next request."""
    inner: dict[str, object] = {"x": 1}
    rules = Filters(force={"a": inner, "a.y": 2})  # type: ignore[dict-item]

    assert applied(rules, {}) == applied(rules, {}) == {"a": {"x": 1, "y": 2}}
    assert inner == {"x": 1}


def test_unicode_stays_itself() -> None:
    """Text in other fields means the same afterwards."""
    body = '{"messages": ["héllo \\u00e9 \U0001f999 \\ud83e\\udd99"]}'.encode()

    assert json.loads(filters.apply(Filters(force={"a": 1}), body))["messages"] == ["héllo é 🦙 🦙"]


def test_anything_but_an_object_is_left_alone() -> None:
    """JSON that is no object has no fields to filter."""
    assert filters.apply(Filters(force={"a": 1}), b"[ 1 ]") == b"[ 1 ]"


@given(objects, objects)
def test_other_fields_are_untouched(fields: dict[str, object], forced: dict[str, object]) -> None:
    """A filter changes the fields it names and no other."""
    result = applied(Filters(force=forced), fields)  # type: ignore[arg-type]

    assert result == fields | forced


@given(objects, st.lists(st.sampled_from(["a", "b", "0", "2", "-1", ":0"]), min_size=1, max_size=4))
def test_what_is_set_is_there(fields: dict[str, object], steps: list[str]) -> None:
    """Wherever a path leads, through whatever the client has sent; or it is said that it leads nowhere."""
    try:
        found: Any = applied(Filters(force={".".join(steps): 9}), fields)
    except InvalidRequest:
        return
    for step in steps:
        found = found[int(step)] if isinstance(found, list) else found[step.removeprefix(":")]

    assert found == 9

"""What a model's and a variant's tables do to a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.filters import filters, merged, path, request_fields
from supervisor.config.values import Filters

FIELDS = st.sampled_from(["temperature", "top_k", "seed", "stop"])
TABLES = st.dictionaries(FIELDS, st.integers())
FILTERS = st.builds(
    lambda strip, defaults, force: filters(strip, defaults=defaults, force=force), st.lists(FIELDS), TABLES, TABLES
)


@pytest.mark.parametrize(
    ("field", "steps"),
    [("a", ("a",)), ("a.b.c", ("a", "b", "c")), (r"a\.b.c", ("a.b", "c")), ("a.", ("a", "")), ("", ("",))],
)
def test_a_field_is_a_path(field: str, steps: tuple[str, ...]) -> None:
    """Dots lead into objects; behind a backslash they are part of a name."""
    assert tuple(step.name for step in path(field)) == steps


@pytest.mark.parametrize(
    ("step", "name", "index"),
    [
        ("7", "7", 7),
        ("007", "007", 7),
        ("-1", "-1", -1),
        ("-2", "-2", None),
        (":7", "7", None),
        ("12345", "12345", None),
    ],
)
def test_numbers_are_places_in_lists(step: str, name: str, index: int | None) -> None:
    """Where there is a list; behind a colon, and with more digits than a list should have, they are names only."""
    assert path(step) == ((name, index),)


def test_sampling_takes_the_names_of_requests() -> None:
    """llama-server's option names become the fields that mean the same; unknown ones only change their dashes."""
    fields = request_fields({"temp": 0.2, "top-k": 20, "dynatemp-exp": 1, "typical": 1.0, "brand-new": 3})

    assert fields == {"temperature": 0.2, "top_k": 20, "dynatemp_exponent": 1, "typical_p": 1.0, "brand_new": 3}


def test_what_requests_send_as_lists_becomes_lists() -> None:
    """A text of samplers would be read as one letter each by llama-server."""
    fields = request_fields({"samplers": "top_k;temperature", "dry-sequence-breaker": "\n"})

    assert fields == {"samplers": ("top_k", "temperature"), "dry_sequence_breakers": ("\n",)}


def test_a_variant_wins_over_its_model() -> None:
    """What a variant says of a field is all that counts; what it does not mention stays."""
    model = filters(["stop"], force={"temperature": 0, "top_k": 1, "seed": 7})
    variant = filters(["top_k"], defaults={"temperature": 0.5}, force={"stop": "x"})

    assert merged(model, variant) == Filters(
        strip=("top_k",), defaults={"temperature": 0.5}, force={"seed": 7, "stop": "x"}
    )


def test_a_default_that_clients_may_not_change_is_forced() -> None:
    """Stripping a field and setting its default gives everybody the default."""
    assert filters(["seed"], defaults={"seed": 1}) == Filters(force={"seed": 1})


@given(FILTERS, FILTERS)
def test_no_field_is_in_two_filters(model: Filters, variant: Filters) -> None:
    """The order in which filters are applied never matters."""
    result = merged(model, variant)

    names = [*result.strip, *result.defaults, *result.force]
    assert len(names) == len(set(names))
    assert set(variant.force.items()) <= set(result.force.items())
    assert not set(variant.strip) & ({*result.defaults, *result.force} - {*variant.defaults, *variant.force})

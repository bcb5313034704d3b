"""From a model's and its variants' tables to what happens to a request's JSON body.

In the filters made here no field is in two of `strip`, `defaults` and `force`, so that their order does not matter.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from supervisor.config.options import OTHER_NAMES, SAMPLING
from supervisor.config.values import Filters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.config.values import Json, Option


_DOT = re.compile(r"(?<!\\)\.")
_PLACE = re.compile(r"-1|[0-9]{1,4}")
"""A place in a list. Longer numbers are names: such a list would be filled up with null until there."""


class Step(NamedTuple):
    """One part of a field's path."""

    name: str
    place: int | None = None
    """Where it is in a list; -1 is behind the last one. None: it is a name and nothing else."""


@lru_cache(maxsize=1024)
def path(field: str) -> tuple[Step, ...]:
    """The steps of a field's path, as sjson has them, which llama-swap uses.

    `a.b` is `b` in the object `a`; a dot behind a backslash belongs to a name. `a.0` is the first in the list `a`,
    `a.-1` one more behind its last, and `a.:0` the field `0` of an object.
    """
    return tuple(_step(part.replace("\\.", ".")) for part in _DOT.split(field))


def _step(part: str) -> Step:
    if part.startswith(":"):
        return Step(part[1:])
    return Step(part, int(part) if _PLACE.fullmatch(part) else None)


def filters(
    strip: Iterable[str] = (), *, defaults: Mapping[str, Json] | None = None, force: Mapping[str, Json] | None = None
) -> Filters:
    """What is stripped from every request and set by default is the same as forced."""
    forced = {key: value for key, value in (defaults or {}).items() if key in set(strip)} | dict(force or {})
    return Filters(
        strip=tuple(key for key in dict.fromkeys(strip) if key not in forced),
        defaults={key: value for key, value in (defaults or {}).items() if key not in forced},
        force=forced,
    )


def merged(model: Filters, variant: Filters) -> Filters:
    """The model's filters with the variant's on top: what a variant says of a field is all that counts for it."""
    said = {*variant.strip, *variant.defaults, *variant.force}
    return filters(
        (*model.strip, *variant.strip),
        defaults={key: model.defaults[key] for key in model.defaults if key not in said} | dict(variant.defaults),
        force={key: model.force[key] for key in model.force if key not in said} | dict(variant.force),
    )


def request_fields(sampling: Mapping[str, Option]) -> dict[str, Json]:
    """Sampling by llama-server's option names, as the fields of a request that mean the same."""
    fields: dict[str, Json] = {}
    for option, value in sampling.items():
        known = SAMPLING.get(OTHER_NAMES.get(option, option))
        field = known.field if known else option.replace("-", "_")
        fields[field] = _sent(field, value)
    return fields


def _sent(field: str, value: Option) -> Json:
    """Two fields are lists in a request, though a command line has them as text."""
    if field == "samplers" and isinstance(value, str):
        return tuple(value.split(";"))
    if field == "dry_sequence_breakers" and not isinstance(value, tuple):
        return (value,)
    return value

"""From a model's and its variants' tables to what happens to a request's JSON body.

In the filters made here no field is in two of `strip`, `defaults` and `force`, so that their order does not matter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.config.options import OTHER_NAMES, SAMPLING
from supervisor.config.values import Filters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.config.values import Json, Option


_DOT = re.compile(r"(?<!\\)\.")


def path(field: str) -> tuple[str, ...]:
    """The steps of a field's path: `a.b` is `b` in the object `a`; a dot behind a backslash belongs to a name."""
    return tuple(step.replace("\\.", ".") for step in _DOT.split(field))


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

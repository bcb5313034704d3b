"""Which model a name means: ids, aliases and variants in one table; slashes are part of names."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.errors import InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.config.values import Config, Filters

COMPARED_NAMES = 500
"""Comparing names takes 20 µs each; a stranger must not make us compare ten thousand."""


MOST_SEGMENTS = 16
"""Slashes that a name may hold and still be found in a path, plus one."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a name stands for: a model, and what is done to the request's body on the way."""

    name: str
    model: str
    filters: Filters


class Names:
    """The names of one config."""

    def __init__(self, config: Config) -> None:
        self._default = config.default_model
        self._targets: dict[str, Target] = {}
        for model in config.models.values():
            for name in (model.id, *model.aliases):
                self._targets[name] = Target(name, model.id, model.filters_by_name.get(name, model.filters))
            for name, variant in model.variants.items():
                self._targets[name] = Target(name, model.id, variant.filters)

    def resolve(self, name: str | None) -> Target:
        """The target of a request's model name; None or empty means the default model.

        Raises `InvalidRequest` when there is no name and no default, `ModelNotFound` when nothing is called so.
        """
        target = self._targets.get(name or self._default or "")
        if target is not None:
            return target
        if name:
            raise ModelNotFound(f"no model is called `{name[:200]}`", hint=self._nearest(name))
        raise InvalidRequest(
            "the request names no `model`", hint="send `model`, or set `server.default_model` in the config"
        )

    def split(self, segments: Sequence[str]) -> tuple[Target, int]:
        """The target named by the most segments at the start of a path (`author`, `model`, `v1`, …), and how many.

        Raises `ModelNotFound`.
        """
        for count in range(min(len(segments), MOST_SEGMENTS), 0, -1):
            target = self._targets.get("/".join(segments[:count]))
            if target is not None:
                return target, count
        name = segments[0] if segments else ""
        raise ModelNotFound(f"no model is called `{name[:200]}`", hint=self._nearest(name))

    def _nearest(self, name: str) -> str:
        if len(self._targets) > COMPARED_NAMES:
            return "`GET /v1/models` lists them"
        close = difflib.get_close_matches(name[:200], self._targets, n=1)
        return f"did you mean `{close[0]}`?" if close else "`GET /v1/models` lists them"

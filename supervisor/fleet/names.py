"""What a name means: a model of ours or of a peer, or a choice among several. Slashes are part of names.

In order: what the active profile pins it to, a selector, an id, alias or variant, `PEER/MODEL`, and what just one peer
offers (spec: llama-swap.md, sections 1.2 and 2.9).
"""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from supervisor.errors import ModelNotFound, NoModelNamed, ProfileNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from supervisor.config.values import Config, Filters, Strategy

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
    rename: str | None = None
    """The `model` its server gets to see; None: the one the client sent."""
    peer: str | None = None
    """Whose model it is; None: ours."""
    selector: str | None = None
    """The selector that it is a target of."""

    @property
    def whole_name(self) -> str:
        """One name for each model, ours or not."""
        return self.model if self.peer is None else f"{self.peer}/{self.model}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A name that stands for one of several, to be picked for each request."""

    selector: str
    strategy: Strategy
    targets: tuple[Target, ...]
    spillover: int


Meaning: TypeAlias = Target | Choice


class Names:
    """The names of the config in force, and which profile is active."""

    def __init__(self, config: Config) -> None:
        self.active_profile: str | None = None
        self.adopt(config)

    def adopt(self, config: Config) -> None:
        """Let names mean what they mean in this config; a profile that it has too stays active."""
        self._default = config.default_model
        self._profiles = config.profiles
        if self.active_profile not in config.profiles:
            self.active_profile = None
        self._meanings: dict[str, Meaning] = {target.name: target for target in _ours(config)}
        for target in _theirs(config):
            self._meanings.setdefault(target.name, target)
        for name, selector in config.selectors.items():
            targets = tuple(
                replace(_seen_as(self._target(target), target), selector=name) for target in selector.targets
            )
            self._meanings[name] = Choice(name, selector.strategy, targets, selector.spillover)

    def activate(self, profile: str | None) -> None:
        """Let this profile's pins hold, or none; raises `ProfileNotFound`."""
        if profile is not None and profile not in self._profiles:
            raise ProfileNotFound(f'profile "{profile[:200]}" not found', hint="`GET /api/profiles` lists them")
        self.active_profile = profile

    def resolve(self, name: str | None) -> Meaning:
        """What a request's model name means; None or empty is the default model.

        Raises `NoModelNamed` when there is no name and no default, `ModelNotFound` when nothing is called so.
        """
        if self.active_profile is not None and name:
            pins = self._profiles[self.active_profile].pins
            if name in pins:
                return self._pinned(name, pins[name])
        meaning = self._meanings.get(name or self._default or "")
        if meaning is not None:
            return meaning
        if name:
            raise ModelNotFound(f"no model is called `{name[:200]}`", hint=self._nearest(name))
        raise _no_model()

    def meaning(self, name: str) -> Meaning:
        """What a name means without a profile; raises `ModelNotFound`."""
        meaning = self._meanings.get(name)
        if meaning is None:
            raise ModelNotFound(f"no model is called `{name[:200]}`", hint=self._nearest(name))
        return meaning

    def model(self, name: str) -> Target:
        """The model that a name means without a choice; raises `ModelNotFound`."""
        meaning = self._meanings.get(name)
        if isinstance(meaning, Target):
            return meaning
        raise ModelNotFound(f"no model is called `{name[:200]}`", hint=self._nearest(name))

    def whole_name(self, name: str) -> str | None:
        """The model that a name leads to, by its own; None for a choice, and where it leads nowhere."""
        meaning = self._meanings.get(name)
        return meaning.whole_name if isinstance(meaning, Target) else None

    def split(self, segments: Sequence[str]) -> tuple[Target, int]:
        """The model named by the most segments at the start of a path (`author`, `model`, `v1`, …), and how many.

        Empty segments count but belong to no name. Raises `ModelNotFound`.
        """
        pins = self._profiles[self.active_profile].pins if self.active_profile is not None else {}
        for name, count in _beginnings(segments):
            if name in pins and not pins[name]:
                raise _no_model()
            meaning = self._meanings.get(pins.get(name) or name)
            if isinstance(meaning, Target):
                return meaning, count
        name = next((segment for segment in segments if segment), "")
        raise ModelNotFound(f"no model is called `{name[:200]}`", hint=self._nearest(name))

    def _pinned(self, name: str, target: str | None) -> Meaning:
        if not target:
            raise NoModelNamed(f"the active profile leaves `{name}` without a model")
        meaning = self._meanings[target]
        return _seen_as(meaning, target) if isinstance(meaning, Target) else meaning

    def _target(self, name: str) -> Target:
        meaning = self._meanings[name]
        assert isinstance(meaning, Target), "the config lets no selector choose among selectors"
        return meaning

    def _nearest(self, name: str) -> str:
        if len(self._meanings) > COMPARED_NAMES:
            return "`GET /v1/models` lists them"
        close = difflib.get_close_matches(name[:200], self._meanings, n=1)
        return f"did you mean `{close[0]}`?" if close else "`GET /v1/models` lists them"


def _ours(config: Config) -> Iterator[Target]:
    for model in config.models.values():
        for name in (model.id, *model.aliases):
            filters = model.filters_by_name.get(name, model.filters)
            yield Target(name, model.id, filters, rename=model.use_model_name)
        for name, variant in model.variants.items():
            yield Target(name, model.id, variant.filters, rename=model.use_model_name)


def _theirs(config: Config) -> Iterator[Target]:
    """By their whole names, which a peer would not know; and by their own, where that is one peer's alone."""
    offered = Counter(model for peer in config.peers.values() for model in set(peer.models))
    for peer, settings in config.peers.items():
        for model in settings.models:
            filters = settings.filters_by_name.get(model, settings.filters)
            whole = f"{peer}/{model}"
            yield Target(whole, model, settings.filters_by_name.get(whole, filters), rename=model, peer=peer)
            if offered[model] == 1:
                yield Target(model, model, filters, peer=peer)


def _seen_as(target: Target, name: str) -> Target:
    """A target that was reached by another name: its server is told the one that was meant."""
    return target if target.rename is not None else replace(target, rename=name)


def _beginnings(segments: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The names that the start of a path may hold, the longest first, and how many segments each takes."""
    ends = [index + 1 for index, segment in enumerate(segments) if segment][:MOST_SEGMENTS]
    for end in reversed(ends):
        yield "/".join(segment for segment in segments[:end] if segment), end


def _no_model() -> NoModelNamed:
    return NoModelNamed(
        "no model id could be identified: the request names no `model`",
        hint="send `model`, or set `server.default_model` in models.toml",
    )

"""From one config to the next: what a reload would do, model by model. Decides nothing about processes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from supervisor.config.values import Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Set

    from supervisor.config.values import Config, Server

LAUNCH = ("options", "sampling", "binary", "cmd", "cmd_stop", "proxy", "port", "env", "transport")
"""What a child is started with, and reached at; whatever else a model says is for us, and needs no other process."""

AT_START = (
    "host",
    "port",
    "tls_cert_file",
    "tls_key_file",
    "max_connections",
    "log_buffer",
    "log_dir",
    "log_file_size",
    "log_file_count",
    "decision_log",
    "log_format",
    "log_time_format",
    "log_to_stdout",
    "activity",
    "metrics_max_in_memory",
    "capture_buffer",
    "store",
    "performance",
)
"""Keys of the server that the service looks at when it starts, and not again."""

_SHOWN_AS = {"host": "listen", "port": "listen"}
_UNSEEN = {"shown_cmd"}
"""Follows from `cmd`."""
_AT_ONCE = {each.name for each in fields(Model)} - {*LAUNCH, *_UNSEEN}
"""What another value of needs no other process."""
_TABLES = ("keys", "peers", "selectors", "profiles", "priorities")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is different in another config. Keys are named, values are not: some are secret."""

    added: tuple[str, ...] = ()
    """Models that there will be."""
    removed: tuple[str, ...] = ()
    """Models that take no further requests."""
    restarted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Models whose process has to be another one, and the keys that say so."""
    updated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Models that go on with what is different, and its keys."""
    unchanged: int = 0
    """How many models stay as they are."""
    settings: tuple[str, ...] = ()
    """Keys beside the models that hold from now on."""
    needs_restart: tuple[str, ...] = ()
    """Keys that hold once the service is started anew."""
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Models whose process goes on although it should be another one, which could not start; and the keys."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Models that could not start, those that are kept among them, and why."""

    def __bool__(self) -> bool:
        models = (self.added, self.removed, self.restarted, self.updated, self.kept)
        return any((*models, self.settings, self.needs_restart))

    def foreseen(self, broken: Mapping[str, str], running: Set[str]) -> Plan:
        """The plan when it is known which models could not start. Of those, a process that runs is not given up."""
        given_up = self.restarted.keys() - (broken.keys() & running)
        kept = {model: keys for model, keys in self.restarted.items() if model not in given_up}
        at_once = {model: held for model, keys in kept.items() if (held := _those(keys, at_once=True))}
        return replace(
            self,
            restarted={model: keys for model, keys in self.restarted.items() if model in given_up},
            updated={**self.updated, **at_once},
            kept={model: _those(keys, at_once=False) for model, keys in kept.items()},
            broken={model: why for model, why in broken.items() if model in {*self.added, *self.restarted}},
        )

    def lines(self) -> Iterator[str]:
        """The plan for people; nothing if there is nothing to do."""
        yield from (f"+ {model}" for model in self.added)
        yield from (f"- {model}: takes no more requests, and ends after those it has" for model in self.removed)
        for model, keys in self.restarted.items():
            yield f"~ {model}: starts anew, after the requests it has ({', '.join(keys)})"
        for model, keys in self.updated.items():
            yield f"= {model}: goes on with another {', '.join(keys)}"
        if self.settings:
            yield f"* at once: {', '.join(self.settings)}"
        if self.needs_restart:
            yield f"! needs a restart of the service: {', '.join(self.needs_restart)}"
        yield from self.troubles()

    def troubles(self) -> Iterator[str]:
        """The lines of it that somebody has to do something about."""
        for model, why in self.broken.items():
            keys = ", ".join(self.kept.get(model, ()))
            as_it_is = f"goes on as it is, for with another {keys} it " if keys else ""
            yield f"? {model}: {as_it_is}cannot start: {why}"

    def as_json(self) -> dict[str, object]:
        """The plan for programs."""
        return {
            "changes": bool(self),
            "models": {
                "added": self.added,
                "removed": self.removed,
                "restarted": self.restarted,
                "updated": self.updated,
                "unchanged": self.unchanged,
                "kept": self.kept,
                "broken": self.broken,
            },
            "settings": self.settings,
            "needs_restart": self.needs_restart,
            "summary": list(self.lines()),
        }


def _those(keys: Iterable[str], *, at_once: bool) -> tuple[str, ...]:
    """The keys that need no other process, or those that do."""
    return tuple(key for key in keys if (key in _AT_ONCE) is at_once)


def plan(old: Config, new: Config) -> Plan:
    """What it takes to get from one config to the other."""
    both = [(model, new.models[name]) for name, model in old.models.items() if name in new.models]
    restarted = {model.id: tuple(_keys(model, other)) for model, other in both if needs_another_run(model, other)}
    updated = {model.id: keys for model, other in both if model.id not in restarted and (keys := _names(model, other))}
    settings = _different(old.server, new.server)
    return Plan(
        added=tuple(name for name in new.models if name not in old.models),
        removed=tuple(name for name in old.models if name not in new.models),
        restarted=restarted,
        updated=updated,
        unchanged=len(both) - len(restarted) - len(updated),
        settings=(*(f"server.{key}" for key in settings if key not in AT_START), *_tables(old, new)),
        needs_restart=tuple(dict.fromkeys(f"server.{_SHOWN_AS.get(key, key)}" for key in settings if key in AT_START)),
    )


def adopted(old: Config, new: Config, keep: Iterable[str] = ()) -> Config:
    """What holds of another config while the service goes on: the old values where only a restart helps.

    Models to `keep` are started as before, should that be necessary; all else that is said of them holds.
    """
    models = {name: _started_as(old.models[name], new.models[name]) for name in keep}
    server = replace(new.server, **{key: getattr(old.server, key) for key in AT_START})
    return replace(new, server=server, models={**new.models, **models})


def _started_as(old: Model, new: Model) -> Model:
    return replace(new, **{name: getattr(old, name) for name in (*LAUNCH, *_UNSEEN)})


def needs_another_run(old: Model, new: Model) -> bool:
    """Whether a process that was started for the one cannot serve the other."""
    return any(getattr(old, name) != getattr(new, name) for name in LAUNCH)


def _keys(old: Model, new: Model) -> Iterator[str]:
    """What is different, those keys first that need another process."""
    different = _names(old, new)
    for name in (*(name for name in LAUNCH if name in different), *(name for name in different if name not in LAUNCH)):
        before, after = getattr(old, name), getattr(new, name)
        if name not in {"options", "sampling", "env"}:
            yield name
            continue
        prefix = "" if name == "options" else f"{name}."
        yield from (
            f"{prefix}{key}"
            for key in (*before, *(key for key in after if key not in before))
            if before.get(key) != after.get(key)
        )


def _names(old: Model, new: Model) -> tuple[str, ...]:
    return tuple(name for name in _different(old, new) if name not in _UNSEEN)


def _different(old: Model | Server, new: Model | Server) -> list[str]:
    return [each.name for each in fields(old) if getattr(old, each.name) != getattr(new, each.name)]


def _tables(old: Config, new: Config) -> Iterator[str]:
    for table in _TABLES:
        before, after = getattr(old, table), getattr(new, table)
        names = (*before, *(name for name in after if name not in before))
        yield from (f"{table}.{name}" for name in names if before.get(name) != after.get(name))
    yield from (name for name in ("routing", "memory") if getattr(old, name) != getattr(new, name))

"""Whether a config says what its source said: its fields, and command lines as their binary reads them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.config.llama_swap import reader
from supervisor.config.routing import DEFAULT_GROUP, Groups
from supervisor.importing.arguments import Setting, differences, settings_of
from supervisor.importing.draft import Note
from supervisor.llama.command import SECRETS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from supervisor.config.values import Config, Model
    from supervisor.llama.command import Command
    from supervisor.llama.help_text import Catalogue

_SOURCE_NAMES = {
    "log_to_stdout": "logToStdout",
    "log_time_format": "logTimeFormat",
    "start_port": "startPort",
    "preload": "hooks.on_startup.preload",
    "metrics_max_in_memory": "metricsMaxInMemory",
    "capture_buffer": "captureBuffer",
    "store": "store.path",
    "session_id_headers": "ui.activity.session_id",
    "performance": "performance",
    "check_endpoint": "checkEndpoint",
    "load_timeout": "healthCheckTimeout",
    "load_limit": "healthCheckTimeout",
    "unload_timeout": "unloadTimeout",
    "use_model_name": "useModelName",
    "send_loading_state": "sendLoadingState",
    "cmd_stop": "cmdStop",
}
"""Fields by the keys of llama-swap that lead to them, where those are called otherwise."""

_OF_THE_COMMAND = frozenset(
    ("cmd", "shown_cmd", "cmd_stop", "proxy", "port", "binary", "options", "sampling", "transport", "stall_timeout")
)
"""Fields of a model that are judged by the command they come to, or follow from what it is."""
_ELSEWHERE = {
    "start_port": "`${PORT}` is any port that is free",
    "log_to_stdout": "our own log is all that is printed",
    **dict.fromkeys(("metadata", "filters", "filters_by_name"), "TOML has no null and no integers beyond 64 bits"),
}
_NONE = "models.toml has no key for it"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one model's command line."""

    model: str
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.model, self.only_before + other.only_before, self.only_after + other.only_after)

    @property
    def is_same(self) -> bool:
        return not (self.only_before or self.only_after)


def lost(source: Config, made: Config) -> list[Note]:
    """Everything the source says, and the config that was made of it does not."""
    usual = reader.parse("models: {m: {cmd: 's ${PORT}'}}", base=Path(), environ={})
    notes = [*_routing(source, made), *_fields(source.server, made.server, usual.server, "", {"max_loaded"})]
    if source.priorities != made.priorities:
        notes.append(Note("routing.scheduler.settings.fifo.priority", _NONE))
    for name, model in source.models.items():
        notes += _model(name, model, made.models.get(name), usual.models["m"])
    for kind in ("peers", "selectors", "profiles"):
        before, after = getattr(source, kind), getattr(made, kind)
        notes += [Note(f"{kind}.{name}", _ELSEWHERE["metadata"]) for name in before if before[name] != after.get(name)]
    return notes


def _routing(source: Config, made: Config) -> Iterator[Note]:
    is_usual = isinstance(source.routing, Groups) and set(source.routing.groups) <= {DEFAULT_GROUP}
    if source.routing != made.routing and not is_usual:
        yield Note("groups" if isinstance(source.routing, Groups) else "matrix", "are not quite the same")


def _model(name: str, before: Model, after: Model | None, usual: Model) -> Iterator[Note]:
    if after is None:
        yield Note(f"models.{name}", "is missing")
        return
    same = replace(
        before,
        aliases=after.aliases if set(before.aliases) == set(after.aliases) else before.aliases,
        check_endpoint=before.check_endpoint or "none",
        unload_timeout=after.unload_timeout if after.unload_timeout is None else before.unload_timeout,
    )
    yield from _fields(same, after, usual, f"models.{name}.", {*_OF_THE_COMMAND, "id", "overload"})


def _fields(before: object, after: object, usual: object, prefix: str, without: Collection[str]) -> Iterator[Note]:
    for name in [field.name for field in fields(before)]:  # type: ignore[arg-type] # values are dataclasses
        own = getattr(before, name)
        if name not in without and own not in (getattr(after, name), getattr(usual, name)):
            said = _SOURCE_NAMES.get(name, name)
            yield Note(f"{prefix}{said}", _ELSEWHERE.get(name, _NONE))


def of_commands(name: str, before: Command, after: Command) -> Verdict:
    """Two commands compared word by word: argv, what stops it, where it serves and its environment."""
    pairs = (
        (before.argv, after.argv),
        (before.stop, after.stop),
        ((str(before.endpoint),), (str(after.endpoint),)),
        _variables(before.env, after.env),
    )
    return Verdict(
        name,
        tuple(each for one, other in pairs if one != other for each in _missing(one, other)),
        tuple(each for one, other in pairs if one != other for each in _missing(other, one)),
    )


def of_options(
    name: str, before: Sequence[str], after: Command, *, catalogue: Catalogue, base: Path, env: Mapping[str, str]
) -> Verdict:
    """A command line and the one its keys have become, program included, compared by what the binary reads.

    Where it listens is ours to say, and so is a name for a child that has none. `env` is what the first one gets:
    secrets that are words there are variables here.
    """
    first = settings_of(catalogue, before[1:], base=base)
    second = settings_of(catalogue, after.argv[1:], base=after.cwd)
    for variable in SECRETS.values():
        if variable in after.env and after.env[variable] != env.get(variable):
            second[variable] = Setting(f"{variable}=…", (after.env[variable],))
    if "alias" not in first:
        second.pop("alias", None)
    only_before, only_after = differences(first, second)
    programs = () if before[0] == after.argv[0] else (before[0], after.argv[0])
    return Verdict(name, (*programs[:1], *only_before), (*programs[1:], *only_after))


def of_environments(name: str, before: Command, after: Command) -> Verdict:
    """What only one of two children has in its environment, secrets that may have been words left aside."""
    first, second = _variables(
        *({key: value for key, value in each.env.items() if key not in SECRETS.values()} for each in (before, after))
    )
    return Verdict(name, tuple(_missing(first, second)), tuple(_missing(second, first)))


def _variables(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of which only one side has the name or the value; values stay untold."""
    differ = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    return tuple(sorted(differ & before.keys())), tuple(f"{key} (environment)" for key in sorted(differ & after.keys()))


def _missing(words: Sequence[str], others: Sequence[str]) -> list[str]:
    """The words that the others do not have, or all of them where only their order is another."""
    return [word for word in words if word not in others] or (list(words) if sorted(words) == sorted(others) else [])

"""A llama-swap file as a page of models.toml. Pure: the text, its config and what its binaries take are given.

llama-swap's own defaults are not carried over, only what the file says; what that costs is told by `proof`.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from supervisor.config.llama_swap.comments import comments_of
from supervisor.config.llama_swap.document import ENV, document
from supervisor.config.place import Sheet
from supervisor.config.routing import Groups, Matrix
from supervisor.config.values import Model, Overload, Server
from supervisor.importing import sharing, tables
from supervisor.importing.arguments import Keys, Unsayable, keys_of, shared_keys
from supervisor.importing.draft import Draft, Note
from supervisor.importing.macros import macros_of, users_of, words_of
from supervisor.importing.page import Page, Section
from supervisor.importing.placing import Homes, place_comments
from supervisor.importing.references import has_mark, written
from supervisor.importing.source import Source, marked
from supervisor.llama.command import GIVES_A_MODEL, PATHS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Option

_LLAMA_SERVER_PORT = 8080
_FEW = 5
"""Names of models that a note lists."""
_REFERENCE = Model("")
_WITH_PORTS = frozenset(("port", "cmd", "shown_cmd", "cmd_stop", "proxy"))
"""Fields of a model in which `${PORT}` may stand."""


def draft(source: Source, *, commands: Mapping[str, str] | None = None) -> Draft:
    """The page; `commands` are models that keep their command, and why."""
    return _Import(source, commands or {}).draft()


class _Import:
    """One file on its way."""

    def __init__(self, source: Source, commands: Mapping[str, str]) -> None:
        self._source = source
        self._tree = document(source.text, Sheet(source.environ))
        self._config, self._names = marked(source)
        self._kept = commands
        self._notes: list[Note] = []
        self._keys: dict[str, Keys] = {}
        """What the commands of llama-servers come to, by model."""
        self._homes = Homes()

    def draft(self) -> Draft:
        self._note_variables()
        models = {name: self._table(name, model) for name, model in self._config.models.items()}
        for name, priority in self._config.priorities.items():
            models[name]["priority"] = priority
        defaults = {**self._shared(models), **sharing.hoist_lifetimes(models)}
        page = Page(
            sections=[
                *_sections(("server",), tables.server_table(self._server())),
                *_sections(("defaults",), defaults),
                *(Section.of(("models", name), _written(table)) for name, table in models.items()),
                *(
                    Section.of((kind, name), _written(table))
                    for kind, each in self._others().items()
                    for name, table in each.items()
                ),
                *self._routing(),
            ]
        )
        self._note_rest()
        self._homes.catalogues = self._source.catalogues
        place_comments(page, comments_of(self._source.text), self._homes, source=self._source.name)
        return Draft(page, self._notes)

    # Models.

    def _table(self, name: str, model: Model) -> dict[str, object]:
        plain = self._as_said(name, model)
        keys = self._recognised(name, plain)
        if keys is None:
            return tables.model_table(self._with_paths(plain), automatic=plain.filters_by_name)
        self._keys[name] = keys
        binary = None if model.cmd[0] == "llama-server" else model.cmd[0]
        options = {key: self._path(value) if key in PATHS else value for key, value in keys.options.items()}
        llama = replace(
            plain,
            cmd=(),
            proxy=None,
            binary=binary if binary is None or "/" not in binary else str(self._path(binary)),
            options=options,
            sampling=keys.sampling,
        )
        return tables.model_table(llama, automatic=plain.filters_by_name)

    def _as_said(self, name: str, model: Model) -> Model:
        """The model without llama-swap's own defaults, and with `${PORT}` where its port is."""
        said = self._tree["models"]
        own = said.get(name, {}) if isinstance(said, dict) else {}
        assert isinstance(own, dict)
        health = {} if "healthCheckTimeout" in self._tree else {"load_timeout", "load_limit"}
        unsaid = {*health, *(() if "concurrencyLimit" in own else ("concurrency",)), "transport", "stall_timeout"}
        if model.unload_timeout == self._server().stop_timeout:
            unsaid.add("unload_timeout")
        return replace(
            self._with_port(name, model),
            check_endpoint=model.check_endpoint or "none",
            overload=Overload.WAIT,
            **{key: getattr(_REFERENCE, key) for key in unsaid},
        )

    def _with_port(self, name: str, model: Model) -> Model:
        true = self._source.config.models[name]
        if model.port is None:
            return model
        number = re.compile(rf"(?<![0-9]){model.port}(?![0-9])")
        named = [each.name for each in fields(model) if number.search(str(getattr(model, each.name)))]
        if "env" in named:
            self._notes.append(Note(f"models.{name}.env", f"names the port, which therefore stays {true.port}"))
            return replace(true, port=None)
        further = {key: getattr(true, key) for key in named if key not in _WITH_PORTS}
        self._notes += [
            Note(f"models.{name}.{key}", f"names port {true.port}, and any will be used") for key in further
        ]
        proxy = number.sub("${PORT}", model.proxy or "")
        return replace(
            model,
            port=None,
            cmd=tuple(number.sub("${PORT}", word) for word in model.cmd),
            shown_cmd=number.sub("${PORT}", model.shown_cmd),
            cmd_stop=tuple(number.sub("${PORT}", word) for word in model.cmd_stop),
            proxy=None if proxy == "http://127.0.0.1:${PORT}" else proxy,
            **further,
        )

    def _recognised(self, name: str, model: Model) -> Keys | None:
        """The keys a command comes to; None if it stays one."""
        catalogue = self._source.catalogues.get(name)
        place = f"models.{name}.cmd"
        try:
            if name in self._kept:
                raise Unsayable(self._kept[name])
            if catalogue is None:
                if "llama-server" in model.cmd[0]:
                    raise Unsayable(f"`{model.cmd[0]}` is not here, or does not tell its options")
                if any(word.rpartition("/")[2] == "llama-server" for word in model.cmd):
                    raise Unsayable(f"it is `{model.cmd[0]}` that starts a llama-server, not we")
                return None
            keys = keys_of(catalogue, model.cmd[1:])
            _check_surroundings(model, keys)
        except Unsayable as reason:
            self._notes.append(Note(place, f"stays a command: {reason}"))
            return None
        if keys.repeated:
            self._notes.append(Note(place, f"of {', '.join(keys.repeated)} the last one holds"))
        return keys

    def _with_paths(self, model: Model) -> Model:
        """The command with its program where it is now."""
        program = model.cmd[0]
        if self._source.base is None:
            return model
        message = f"is run in {self._source.base}, where models.toml is, and no more in {self._source.config.base}"
        self._notes.append(Note(f"models.{model.id}.cmd", message))
        if "/" not in program or program.startswith(("/", "~/")):
            return model
        return replace(model, cmd=(str(self._path(program)), *model.cmd[1:]), shown_cmd="")

    def _path(self, value: Option) -> Option:
        """A path that leads to the same file from where models.toml will be."""
        if self._source.base is None:
            return value
        if isinstance(value, tuple):
            return tuple(str(self._path(str(each))) for each in value)
        text = str(value)
        return value if has_mark(text[:1]) or text.startswith(("/", "~")) else str(self._source.config.base / text)

    # What they share.

    def _shared(self, models: dict[str, dict[str, object]]) -> dict[str, object]:
        macros = macros_of(self._tree, self._source.environ)
        users = users_of(self._tree, macros)
        catalogue = next((self._source.catalogues[name] for name in self._keys), None)
        shared: dict[str, Option] = {}
        for macro, text in macros.items():
            self._homes.macros[macro] = users[macro]
            if not users[macro]:
                self._notes.append(Note(f"macros.{macro}", "is used nowhere, and left out"))
            if catalogue is not None and users[macro] & self._keys.keys():
                found = shared_keys(catalogue, [words_of(text)])
                shared |= found if len(users[macro] & self._keys.keys()) > 1 else {}
                self._homes.from_macros[macro] = list(found)
        binaries = {str(table.get("binary")) for name, table in models.items() if name in self._keys}
        hoisted = sharing.hoist_options(
            models, llama=list(self._keys), shared=shared, binary=len(binaries) == 1 and binaries != {"None"}
        )
        for macro, text in macros.items():
            if not binaries.isdisjoint(words_of(text)):
                self._homes.from_macros.setdefault(macro, []).append("binary")
        return hoisted

    # The rest.

    def _server(self) -> Server:
        """With one model at a time where no groups or sets say otherwise, and captures only where the file says so."""
        server = replace(self._config.server, max_loaded=None if self._routes() else 1)
        return server if "captureBuffer" in self._tree else replace(server, capture_buffer=Server().capture_buffer)

    def _routes(self) -> bool:
        routing = self._config.routing
        return isinstance(routing, Matrix) or (routing is not None and bool(tables.group_tables(routing)))

    def _routing(self) -> list[Section]:
        match self._config.routing:
            case Groups() as routing:
                named = tables.group_tables(routing).items()
                return [Section.of(("groups", name), _written(table)) for name, table in named]
            case Matrix() as routing:
                return [Section.of(("matrix",), _written(tables.matrix_table(routing)))]
            case None:
                return []

    def _others(self) -> dict[str, dict[str, dict[str, object]]]:
        config = self._config
        return {
            "selectors": {name: tables.selector_table(each) for name, each in config.selectors.items()},
            "profiles": {name: tables.profile_table(each) for name, each in config.profiles.items()},
            "peers": {name: tables.peer_table(each) for name, each in config.peers.items()},
        }

    def _note_variables(self) -> None:
        for name in dict.fromkeys(ENV.findall(self._source.text)):
            if name not in self._names and name in self._source.environ:
                message = "is replaced by what it is now, for models.toml cannot say it where it stands"
                self._notes.append(Note(f"${{env.{name}}}", message))

    def _note_rest(self) -> None:
        nameless = [name for name, keys in self._keys.items() if "alias" not in keys.options]
        if nameless:
            few = (
                ", ".join(nameless)
                if len(nameless) <= _FEW
                else f"{', '.join(nameless[:_FEW])} and {len(nameless) - _FEW} more"
            )
            self._notes.append(
                Note("--alias", f"{few}: children are told their name, so that answers have it and not a file's")
            )
        for problem in self._source.config.warnings:
            self._notes.append(Note(problem.path, f"expected {problem.expected}, found `{problem.found}`; left out"))
        if "logRequests" in self._tree:
            self._notes.append(Note("logRequests", "has had no effect for long; left out"))


def _check_surroundings(model: Model, keys: Keys) -> None:
    """What a command has beside it must not mean something else without the command."""
    if GIVES_A_MODEL.isdisjoint(model.cmd):
        raise Unsayable("it names no model, and a llama-server without one is a router")
    if model.cmd_stop:
        raise Unsayable("`cmdStop` stops it")
    port = keys.address.get("port", str(_LLAMA_SERVER_PORT))
    if model.proxy not in {None, f"http://localhost:{port}", f"http://127.0.0.1:{port}"}:
        raise Unsayable(f"`proxy` leads to {model.proxy}, and it listens on port {port}")
    if "api-prefix" in keys.options:
        raise Unsayable("`--api-prefix` moves its routes")


def _sections(path: tuple[str, ...], table: Mapping[str, object]) -> list[Section]:
    return [Section.of(path, _written(table))] if table else []


def _written(table: Mapping[str, object]) -> dict[str, object]:
    return {key: written(value) for key, value in table.items()}

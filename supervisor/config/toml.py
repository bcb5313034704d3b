"""From the text of `models.toml` to a `Config`: defaults put under models, variants' filters over their model's.

Pure: the text, the directory and the environment come as arguments. Which keys there are is said in `schema`.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

from supervisor.config import names
from supervisor.config.access import check_keys, client_key
from supervisor.config.filters import filters, merged, request_fields
from supervisor.config.place import CONTROL, Place, Sheet
from supervisor.config.policies import groups, matrix
from supervisor.config.problems import SHOWN_LENGTH, ConfigInvalid, Problem, nearest
from supervisor.config.quantities import Address
from supervisor.config.schema import FILE
from supervisor.config.secrets import keys, variables
from supervisor.config.values import (
    Capabilities,
    Config,
    Filters,
    Hooks,
    Memory,
    Model,
    Peer,
    Performance,
    Profile,
    Selector,
    Server,
    Timeouts,
    Transport,
    Variant,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from supervisor.config.routing import Groups, Matrix
    from supervisor.config.values import Json, Option

T = TypeVar("T")
Fields = dict[str, object]

SYNTAX_ERROR = re.compile(r"(?P<reason>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.S)
MERGED = ("options", "sampling", "env", "metadata", "set_params", "timeouts", "hooks")
"""What a model has key by key on top of `[defaults]`; anything else replaces it."""
FILTERS = ("set_params", "set_params_by_name", "strip_params")
LLAMA_ONLY = ("options", "sampling", "binary", "transport")
"""What means nothing to a `cmd`."""


def parse(text: str, *, base: Path, environ: Mapping[str, str]) -> Config:
    """The config, or `ConfigInvalid` with everything that is wrong with it."""
    sheet = Sheet(environ)
    try:
        root = Place(document(text), sheet)
        file = FILE.read(root)
        config = _config(root, file, base)
        _check(root, file)
        names.check(root, config)
    except RecursionError:
        raise ConfigInvalid([Problem("config", "tables and lists that are less deeply nested")]) from None
    if sheet.problems:
        raise ConfigInvalid(sheet.problems)
    return replace(config, secrets=variables(text, environ) | keys(config))


def document(text: str) -> dict[str, object]:
    """The tables of a TOML text; `ConfigInvalid` with line and column where it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid([_syntax_problem(text, str(error))]) from error
    except ValueError as error:  # an integer of more than 4300 digits
        raise ConfigInvalid([Problem("config", "numbers of fewer digits")]) from error


def _syntax_problem(text: str, message: str) -> Problem:
    lines = text.split("\n")
    match = SYNTAX_ERROR.fullmatch(message)
    reason = match["reason"] if match else message
    line, column = (int(match["line"]), int(match["column"])) if match and match["line"] else _end(lines)
    found = CONTROL.sub("�", lines[line - 1].strip())[:SHOWN_LENGTH]  # a terminal obeys control characters
    return Problem(f"line {line}, column {column}", "TOML", found, _uncapitalised(reason))


def _end(lines: list[str]) -> tuple[int, int]:
    return len(lines), len(lines[-1]) + 1


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]


def _check(root: Place, file: Fields) -> None:
    """What can be told only from several values together."""
    for name, fields in _tables(file, "models"):
        model = root.child("models").child(name)
        if isinstance(model.written, dict) and "cmd" in model.written:
            _check_cmd(model, fields)
        else:
            for key in fields.keys() & {"cmd_stop", "proxy"}:
                model.child(key).refuse("a key beside `cmd`", "a llama-server needs none")
    server = root.at("server")
    files = [key for key in ("tls_cert_file", "tls_key_file") if key in _table(file, "server")]
    if len(files) == 1:
        server.child(files[0]).refuse("`tls_cert_file` and `tls_key_file`", "one is nothing without the other")
    check_keys(root, dict(_tables(file, "keys")))
    default = _table(file, "server").get("default_model")
    if isinstance(default, str) and default not in root.sheet.names:
        _refuse_default(root.child("server").child("default_model"), root.sheet.names)
    _check_loaded(server, _table(file, "server"), _table(file, "models"))
    if "groups" in file and "matrix" in file:
        root.child("matrix").refuse("either groups or a matrix", found="both")


def _check_loaded(server: Place, fields: Fields, models: Fields) -> None:
    """What is loaded without being asked for is named by its id."""
    preload = cast("tuple[str, ...]", fields.get("preload", ()))
    named = [(server.at("preload", index), name) for index, name in enumerate(preload)]
    if "on_idle" in fields:
        named.append((server.at("on_idle"), str(fields["on_idle"])))
    for place, name in named:
        if name not in models:
            meant = nearest(name, models)
            place.refuse("the name of a model", f"did you mean `{meant}`?" if meant else "", found=name)


def _check_cmd(model: Place, fields: Fields) -> None:
    for option in (*_table(fields, "options"), *(key for key in ("sampling", "binary") if key in fields)):
        place = model.child(option)
        place.refuse("no llama-server option beside `cmd`", "say it in the command", found=str(place.key))
    if "cmd" in fields and not _names_port(fields, "cmd") and ("proxy" not in fields or _names_port(fields, "proxy")):
        hint = "the server must listen on the port that we put there"
        model.child("cmd").refuse("a command with `${PORT}` in it", hint)
    if fields.get("transport") is Transport.UNIX:
        model.child("transport").refuse('"tcp"', "a `cmd` listens on the port that `${PORT}` names")


def _names_port(fields: Fields, key: str) -> bool:
    value = fields[key]
    return any("${PORT}" in part for part in (value if isinstance(value, tuple) else (str(value),)))


def _refuse_default(place: Place, names: Mapping[str, Place]) -> None:
    # The hint must not repeat a secret: it looks for what is written, among names that are written as they are.
    meant = nearest(str(place.written), (name for name, each in names.items() if name in (each.written, each.key)))
    place.refuse("the name of a model, an alias or a variant", f"did you mean `{meant}`?" if meant else "")


def _config(root: Place, file: Fields, base: Path) -> Config:
    defaults, models = _table(file, "defaults"), {}
    priorities: dict[str, int] = {}
    for name, each in _tables(file, "models"):
        by_name = root.at("models", name, "set_params_by_name")
        own = cast("tuple[str, ...]", each.get("aliases", ()))
        further = names.automatic_aliases(by_name, name, own, _table(each, "set_params_by_name"))
        fields = _under(defaults, each)
        if priority := cast("int", fields.pop("priority", 0)):
            priorities[name] = priority
        models[name] = _model(name, {**fields, "aliases": own + further})
    return Config(
        base=base,
        server=_server(_table(file, "server")),
        memory=_made(Memory, _table(file, "memory")),
        routing=_routing(root, file, models),
        priorities=priorities,
        models=models,
        peers={name: _peer(each) for name, each in _tables(file, "peers")},
        selectors={
            name: _made(Selector, {"targets": (), **each})
            for name, each in _tables(file, "selectors")
            if "strategy" in each  # one without has been refused
        },
        profiles={name: _made(Profile, {"pins": {}, **each}) for name, each in _tables(file, "profiles")},
        keys={name: client_key(name, each) for name, each in _tables(file, "keys")},
    )


def _routing(root: Place, file: Fields, models: Mapping[str, Model]) -> Groups | Matrix | None:
    if "matrix" in file:
        return matrix(root.child("matrix"), _table(file, "matrix"), models)
    return groups(root.child("groups"), dict(_tables(file, "groups")), models) if "groups" in file else None


def _server(fields: Fields) -> Server:
    listen = fields.get("listen")
    fields = {key: value for key, value in fields.items() if key != "listen"}
    if "performance" in fields:
        fields["performance"] = _made(Performance, _table(fields, "performance"))
    return _made(Server, fields | (listen._asdict() if isinstance(listen, Address) else {}))


def _under(defaults: Fields, fields: Fields) -> Fields:
    """A model's fields with the defaults under them."""
    if "cmd" in fields:
        # The process we see may be a mere wrapper, which does nothing while its server works.
        watched = {"stall_timeout": None}
        defaults = watched | {key: value for key, value in defaults.items() if key not in LLAMA_ONLY}
        fields = {"transport": Transport.TCP, **fields}
    return {**defaults, **fields, **{key: _table(defaults, key) | _table(fields, key) for key in MERGED}}


def _model(name: str, fields: Fields) -> Model:
    own = _filters(fields)
    variants = {key: _variant(own, each) for key, each in _tables(fields, "variants")}
    made: Fields = {"id": name, "variants": variants, "timeouts": _made(Timeouts, _table(fields, "timeouts"))}
    made["hooks"] = _made(Hooks, _table(fields, "hooks"))
    if "capabilities" in fields:
        made["capabilities"] = _made(Capabilities, _table(fields, "capabilities"))
    return _made(Model, {**_without_filters(fields), **_all_filters(fields), **made})


def _peer(fields: Fields) -> Peer:
    timeouts = _made(Timeouts, {"response_header": 60.0, **_table(fields, "timeouts")})
    needed = {"proxy": "", "models": ()}
    return _made(Peer, {**needed, **_without_filters(fields), **_all_filters(fields), "timeouts": timeouts})


def _all_filters(fields: Fields) -> Fields:
    """The filters of every request, and those of requests by names with settings of their own."""
    own = _filters(fields)
    by_name = cast("Mapping[str, Mapping[str, Json]]", _table(fields, "set_params_by_name"))
    return {"filters": own, "filters_by_name": {key: merged(own, filters(force=each)) for key, each in by_name.items()}}


def _without_filters(fields: Fields) -> Fields:
    return {key: value for key, value in fields.items() if key not in FILTERS}


def _variant(model: Filters, fields: Fields) -> Variant:
    sampling = request_fields(cast("Mapping[str, Option]", _table(fields, "sampling")))
    rest = {key: value for key, value in fields.items() if key in {"description", "unlisted"}}
    return _made(Variant, {**rest, "filters": merged(model, _filters(fields, sampling))})


def _filters(fields: Fields, defaults: Mapping[str, Json] | None = None) -> Filters:
    return filters(
        cast("tuple[str, ...]", fields.get("strip_params", ())),
        defaults=defaults,
        force=cast("Mapping[str, Json]", _table(fields, "set_params")),
    )


def _table(fields: Fields, key: str) -> Fields:
    return cast("Fields", fields.get(key, {}))


def _tables(fields: Fields, key: str) -> Iterable[tuple[str, Fields]]:
    return cast("dict[str, Fields]", fields.get(key, {})).items()


def _made(make: Callable[..., T], fields: Mapping[str, object]) -> T:
    """The value made of fields that `schema` has checked; a test pins that their names and types agree."""
    return make(**fields)

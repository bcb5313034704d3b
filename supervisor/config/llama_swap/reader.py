"""From the texts of llama-swap's config files to a `Config`, the same that models.toml comes to.

Pure: the texts, the directory and the environment come as arguments. Which keys there are is said in `schema`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from supervisor.config import names
from supervisor.config.llama_swap.document import document
from supervisor.config.llama_swap.expansion import expanded
from supervisor.config.llama_swap.kinds import fields_of
from supervisor.config.llama_swap.merge import merged
from supervisor.config.llama_swap.models import model, peer
from supervisor.config.llama_swap.router import routing
from supervisor.config.llama_swap.scalars import Scalar
from supervisor.config.llama_swap.schema import FILE
from supervisor.config.llama_swap.service import server
from supervisor.config.place import Place, Sheet
from supervisor.config.problems import ConfigInvalid, Problem, nearest
from supervisor.config.routing import DEFAULT_GROUP, Groups
from supervisor.config.secrets import keys, variables
from supervisor.config.values import Config, Profile, Selector

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from supervisor.config.llama_swap.document import Tree
    from supervisor.config.values import Model

Fields = dict[str, object]


def parse(text: str, *, base: Path, environ: Mapping[str, str]) -> Config:
    """The config of one file, or `ConfigInvalid` with everything that is wrong with it."""
    return parse_all({"": text}, base=base, environ=environ)


def parse_all(texts: Mapping[str, str], *, base: Path, environ: Mapping[str, str]) -> Config:
    """The config of several files by their names, the first being the one that others add to."""
    sheet = Sheet(environ)
    config = _read(texts, sheet, base)
    if sheet.problems:
        raise ConfigInvalid(sheet.problems, warnings=sheet.warnings)
    secrets = keys(config).union(*(variables(text, environ) for text in texts.values()))
    return replace(config, secrets=secrets, warnings=tuple(sheet.warnings))


def _read(texts: Mapping[str, str], sheet: Sheet, base: Path) -> Config:
    try:
        documents = [document(text, sheet, source=source) for source, text in texts.items()]
        return config_of(merged(documents, sheet), sheet, base)
    except RecursionError:
        raise ConfigInvalid([Problem("config", "mappings and lists that are less deeply nested")]) from None


def config_of(tree: dict[str, Tree], sheet: Sheet, base: Path) -> Config:
    """The config a document comes to, with what is wrong with it noted on the sheet."""
    expansion = expanded(tree, sheet, known=FILE)
    root = Place(expansion.tree, sheet)
    file = fields_of(FILE).read(root)
    config = _config(root, file, expansion.ports, base)
    names.check(root, config)
    return config


def _config(root: Place, file: Fields, ports: Mapping[str, int], base: Path) -> Config:
    models = _models(root, file, ports)
    config = Config(
        base=base,
        models=models,
        peers={name: peer(each) for name, each in _tables(file, "peers").items()},
        selectors={name: _selector(each) for name, each in _tables(file, "selectors").items() if "strategy" in each},
        profiles={name: Profile(**{"pins": {}, **each}) for name, each in _tables(file, "profiles").items()},  # type: ignore[arg-type] # checked by `schema`
        routing=routing(root, file, models),
    )
    ids = names.local_names(config)
    return replace(
        config,
        priorities=_priorities(root, file, ids),
        server=replace(server(root, file, ids), max_loaded=_most_loaded(config)),
    )


def _most_loaded(config: Config) -> int:
    """One where all models are in one group that swaps; else what `routing` says is all there is."""
    if isinstance(config.routing, Groups) and set(config.routing.groups) <= {DEFAULT_GROUP}:
        return 1
    return max(1, len(config.models))


def _models(root: Place, file: Fields, ports: Mapping[str, int]) -> dict[str, Model]:
    """The models, their names taken: ids first, for an id always wins over an alias."""
    tables, place = _tables(file, "models"), root.at("models")
    for name in tables:
        names.take(place.at(name), name)
    for name, fields in tables.items():
        fields["aliases"] = _aliases(place.at(name, "aliases"), fields, tables)
    models = {}
    for name, fields in tables.items():
        by_name = place.at(name, "filters", "setParamsByID")
        own = cast("tuple[str, ...]", fields["aliases"])
        further = names.automatic_aliases(by_name, name, own, _table(_table(fields, "filters"), "setParamsByID"))
        fields["aliases"] = own + further
        fields["shown_cmd"] = _shown(place.at(name, "cmd"))
        env = _environment(place.at(name, "env"), cast("tuple[str, ...]", fields.get("env", ())))
        if "healthCheckTimeout" in fields:
            place.at(name, "healthCheckTimeout").warn("no timeout of a model's own", "only that of the file counts")
        models[name] = model(name, fields, file, env=env, port=ports.get(name))
    return models


def _aliases(place: Place, fields: Fields, models: Mapping[str, object]) -> tuple[str, ...]:
    """The aliases that lead somewhere: one that is a model's id never did, and does no harm."""
    kept = []
    for index, alias in enumerate(cast("tuple[str, ...]", fields.get("aliases", ()))):
        if alias in models:
            place.at(index).warn("a name that no model has", "requests for it reach that model", found=alias)
        else:
            names.take(place.at(index), alias)
            kept.append(alias)
    return tuple(kept)


def _environment(place: Place, lines: tuple[str, ...]) -> dict[str, str]:
    """Variables from `KEY=VALUE`; of two values the last one holds."""
    environment = {}
    for index, line in enumerate(lines):
        name, equals, value = line.partition("=")
        if name and equals:
            environment[name] = value
        else:
            place.at(index).warn("KEY=VALUE", "it is ignored")
    return environment


def _shown(place: Place) -> str:
    """A command as it is laid out in the file."""
    return place.written.text.strip() if isinstance(place.written, Scalar) else ""


def _selector(fields: Fields) -> Selector:
    settings = _table(fields, "settings")
    rest = {key: value for key, value in fields.items() if key != "settings"}
    return Selector(**{"targets": (), **rest, **settings})  # type: ignore[arg-type] # checked by `schema`


def _priorities(root: Place, file: Fields, ids: Mapping[str, str]) -> dict[str, int]:
    """Priorities by the ids of models."""
    said = file
    for key in ("routing", "scheduler", "settings", "fifo", "priority"):
        said = _table(said, key)
    place = root.at("routing", "scheduler", "settings", "fifo", "priority")
    for name in said.keys() - ids.keys():
        meant = nearest(name, ids)
        place.at(name).refuse("the name of a model", f"did you mean `{meant}`?" if meant else "", found=name)
    return {ids[name]: cast("int", priority) for name, priority in said.items() if name in ids}


def _table(fields: Mapping[str, object], key: str) -> Fields:
    return cast("Fields", fields.get(key, {}))


def _tables(fields: Mapping[str, object], key: str) -> dict[str, Fields]:
    return cast("dict[str, Fields]", fields.get(key, {}))

"""What several models say alike, said once in `[defaults]`. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from supervisor.config.values import Model
from supervisor.importing import tables

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from supervisor.config.values import Option

Tables = dict[str, dict[str, object]]

OF_ANY = ("ttl", "unload_timeout", "load_timeout", "load_limit", "send_loading_state")
"""Keys that mean the same for every model, whatever it is started with."""

HAS_DEFAULT = frozenset(OF_ANY) - {"unload_timeout"}
"""Those of them of which a model can say that it has none, or the usual one."""


def hoist_options(
    models: Tables, *, llama: Collection[str], shared: Mapping[str, Option], binary: bool
) -> dict[str, object]:
    """Take shared options out of the tables of llama-servers, as far as each of them has one; what was taken.

    A model with another value keeps its own: it counts more than the default.
    """
    defaults: dict[str, object] = {}
    if len(llama) < 2:
        return defaults
    if binary and len({str(models[name].get("binary")) for name in llama}) == 1:
        _take(models, llama, "binary", defaults)
    for key, value in shared.items():
        if all(key in models[name] for name in llama):
            _take(models, llama, key, defaults, value)
    sampling = _shared_sampling(models, llama, shared)
    for name in llama if sampling else ():
        own = models[name]["sampling"]
        assert isinstance(own, dict)
        rest = {key: value for key, value in own.items() if key not in sampling or sampling[key] != value}
        models[name] = {key: rest if key == "sampling" else each for key, each in models[name].items()}
        if not rest:
            del models[name]["sampling"]
    return {**defaults, **({"sampling": sampling} if sampling else {})}


def _shared_sampling(models: Tables, llama: Collection[str], shared: Mapping[str, Option]) -> dict[str, Option]:
    every = [models[name].get("sampling") for name in llama]
    return {key: value for key, value in shared.items() if all(isinstance(own, dict) and key in own for own in every)}


def hoist_lifetimes(models: Tables) -> dict[str, object]:
    """Take what most models say of their life out of their tables; what was taken."""
    defaults: dict[str, object] = {}
    for key in OF_ANY:
        counts = Counter(str(each[key]) for each in models.values() if key in each)
        if not counts or counts.most_common(1)[0][1] < max(2, len(models) // 2):
            continue
        if key not in HAS_DEFAULT and not all(key in each for each in models.values()):
            continue
        spelled = counts.most_common(1)[0][0]
        value = next(each[key] for each in models.values() if str(each.get(key)) == spelled)
        for each in models.values():
            if key not in each:
                each[key] = _default(key)
        _take(models, models.keys(), key, defaults, value)
    return defaults


def _default(key: str) -> object:
    value = getattr(Model(""), key)
    return value if isinstance(value, bool) else tables.lifetime(value)


def _take(models: Tables, names: Collection[str], key: str, defaults: dict[str, object], value: object = None) -> None:
    if value is None:
        value = next((models[name][key] for name in names if key in models[name]), None)
    if value is None:
        return
    defaults[key] = value
    for name in names:
        if models[name].get(key) == value:
            del models[name][key]

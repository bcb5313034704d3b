"""The rules for names that lead elsewhere: peers, selectors, profiles and settings by name, in whatever format.

Models, aliases, variants, selectors and what peers offer share one namespace; every target must be in it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from supervisor.config.problems import Mismatch, nearest
from supervisor.config.values import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.config.place import Place
    from supervisor.config.values import Config, Selector


def take(place: Place, name: str) -> None:
    """Take a name of the namespace, or note why that is not possible."""
    try:
        place.take_name(name)
    except Mismatch as mismatch:
        place.refuse(mismatch.expected, mismatch.hint, found=name)


def automatic_aliases(place: Place, model: str, aliases: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """Names with settings of their own that are not a model's names yet: its further aliases. Takes them."""
    known = {model, *aliases}
    further = tuple(name for name in names if name not in known)
    for name in further:
        take(place.at(name), name)
    return further


def check(root: Place, config: Config) -> None:
    """Take the names of peers and selectors, and note every target that is not there."""
    local = local_names(config)
    for peer, each in config.peers.items():
        for index, model in enumerate(each.models):
            if model not in each.models[:index]:
                take(root.at("peers", peer, "models", index), f"{peer}/{model}")
    for name, selector in config.selectors.items():
        take(root.at("selectors", name), name)
        _check_selector(root.at("selectors", name), selector, config, local)
    for name, profile in config.profiles.items():
        _check_pins(root.at("profiles", name, "pins"), profile.pins, config, local)


def local_names(config: Config) -> dict[str, str]:
    """Everything that leads to a model of ours, and to which."""
    names = {
        name: model.id
        for model in config.models.values()
        for name in (*model.aliases, *model.variants, *model.filters_by_name)
    }
    return {**names, **{model: model for model in config.models}}


def remote_names(config: Config) -> set[str]:
    """What peers offer: the whole names, and those of models that just one peer has."""
    bare = Counter(model for peer in config.peers.values() for model in set(peer.models))
    whole = {f"{peer}/{model}" for peer, each in config.peers.items() for model in each.models}
    return whole | {model for model, peers in bare.items() if peers == 1}


def _check_selector(place: Place, selector: Selector, config: Config, local: Mapping[str, str]) -> None:
    known = {*local, *remote_names(config)}
    for index, target in enumerate(selector.targets):
        target_place = place.at("targets", index)
        if target in config.selectors:
            target_place.refuse("a model, for selectors do not choose among selectors", found=target)
        elif target not in known:
            target_place.refuse("the name of a model", _meant(target, known), found=target)
        elif selector.strategy is Strategy.WARM and target not in local:
            target_place.refuse("a model of ours", "nobody knows which models of a peer are warm", found=target)
    if selector.strategy is Strategy.SPILLOVER:
        _check_spillover(place.at("targets"), selector, config, local)


def _check_spillover(place: Place, selector: Selector, config: Config, local: Mapping[str, str]) -> None:
    models = [local.get(target, target) for target in selector.targets]
    for index, model in enumerate(models):
        if model in models[:index]:
            place.at(index).refuse("each model once", f"`{model}` is there already", found=selector.targets[index])
    ours = frozenset(model for model in models if model in config.models)
    if config.routing is not None and not config.routing.can_coexist(ours):
        place.refuse("models that may be loaded together", "put them into a group with `swap: false`, or into one set")


def _check_pins(place: Place, pins: Mapping[str, str | None], config: Config, local: Mapping[str, str]) -> None:
    whole = {f"{peer}/{model}" for peer, each in config.peers.items() for model in each.models}
    known = {*local, *remote_names(config), *config.selectors}
    for pin, target in pins.items():
        if not pin.strip():
            place.at(pin).refuse("a name that is not empty", found=pin)
        if pin in whole:
            place.at(pin).refuse("a name that no peer's model has", found=pin)
        if target is not None and target not in known:
            place.at(pin).refuse("the name of a model or a selector", _meant(target, known), found=target)


def _meant(name: str, names: Iterable[str]) -> str:
    meant = nearest(name, names)
    return f"did you mean `{meant}`?" if meant else ""

"""Which models a llama-swap file lets be loaded together: groups or a matrix, in the old place or the new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from supervisor.config.policies import groups, matrix

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from supervisor.config.place import Place
    from supervisor.config.routing import Groups, Matrix

Fields = dict[str, object]


def routing(root: Place, file: Mapping[str, object], models: Collection[str]) -> Groups | Matrix:
    """The one way of routing that holds; groups where nothing is said."""
    place, settings, use = _settings(root, file)
    if use == "matrix":
        return matrix(place.at("matrix"), cast("Fields", settings["matrix"]), models)
    return groups(place.at("groups"), cast("dict[str, Fields]", settings.get("groups", {})), models)


def _settings(root: Place, file: Mapping[str, object]) -> tuple[Place, Fields, str]:
    """Where groups and matrix are said, what is said, and which of them holds."""
    old = {key: file[key] for key in ("groups", "matrix") if key in file and (file[key] or key == "matrix")}
    router = cast("Fields", cast("Fields", file.get("routing", {})).get("router", {}))
    settings = cast("Fields", router.get("settings", {}))
    if old and (router.get("use") or settings.get("groups") or "matrix" in settings):
        hint = "move the old keys into `routing.router.settings`"
        root.at(next(iter(old))).refuse("either `groups` or `matrix`, or `routing.router`", hint, found=", ".join(old))
    if old:
        if len(old) > 1:
            root.at("matrix").refuse("either `groups` or `matrix`", found="both")
        return root, old, next(iter(old))
    place = root.at("routing", "router", "settings")
    use = str(router.get("use", "group"))
    if use == "matrix" and "matrix" not in settings:
        root.at("routing", "router", "use").refuse("a matrix in `routing.router.settings.matrix`", found="matrix")
        use = "group"
    return place, settings, use

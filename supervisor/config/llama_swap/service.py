"""What a llama-swap file says about the service itself, as a `Server`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from supervisor.config.llama_swap.models import unload_timeout
from supervisor.config.problems import nearest
from supervisor.config.values import Management, Performance, Server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.place import Place

MEGABYTE = 1024**2
CAPTURE_MEGABYTES = 5

_FIELDS = {
    "logLevel": "log_level",
    "logTimeFormat": "log_time_format",
    "logToStdout": "log_to_stdout",
    "includeAliasesInList": "aliases_in_list",
    "apiKeys": "api_keys",
    "startPort": "start_port",
}
"""Keys that say just what a field says."""


def server(root: Place, file: Mapping[str, object], names: Mapping[str, str]) -> Server:
    """The service; `names` tells which models the names to preload lead to."""
    fields = {"log_time_format": "", **{field: file[key] for key, field in _FIELDS.items() if key in file}}
    performance = _table(file, "performance")
    ignore_paths = _table(file, "upstream").get("ignorePaths")
    if ignore_paths:
        fields["ignore_paths"] = ignore_paths
    if "session_id" in _table(_table(file, "ui"), "activity"):
        fields["session_id_headers"] = _table(_table(file, "ui"), "activity")["session_id"]
    fields["capture_buffer"] = max(0, cast("int", file.get("captureBuffer", CAPTURE_MEGABYTES))) * MEGABYTE
    if cast("int", file.get("metricsMaxInMemory", 0)) > 0:
        fields["metrics_max_in_memory"] = file["metricsMaxInMemory"]
    return Server(
        host="",
        management=Management.PRIVATE,
        # llama-swap answers by any name. A page that makes its own lead here has no key, and may use models anyway.
        allowed_hosts=("*",) if fields.get("api_keys") else (),
        are_hosts_checked_for_models=False,
        stop_timeout=unload_timeout(file),
        preload=_preload(root, file, names),
        store=cast("str | None", _table(file, "store").get("path")),
        performance=Performance(**performance),  # type: ignore[arg-type] # checked by `schema`
        **fields,  # type: ignore[arg-type] # the same
    )


def _preload(root: Place, file: Mapping[str, object], names: Mapping[str, str]) -> tuple[str, ...]:
    """The models to load, by their ids; a name that leads nowhere is a warning."""
    on_startup = _table(_table(file, "hooks"), "on_startup")
    wanted = [name.strip() for name in cast("tuple[str, ...]", on_startup.get("preload", ()))]
    for index, name in enumerate(wanted):
        if name and name not in names:
            meant = nearest(name, names)
            hint = f"did you mean `{meant}`?" if meant else "it is not loaded"
            root.at("hooks", "on_startup", "preload", index).warn("the name of a model", hint, found=name)
    return tuple(names[name] for name in wanted if name in names)


def _table(fields: Mapping[str, object], key: str) -> dict[str, object]:
    return cast("dict[str, object]", fields.get(key, {}))

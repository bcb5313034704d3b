"""How long the end of the service may take: what is waited for is counted here, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.runtime.child import STDIN_GRACE
from supervisor.runtime.ending import GRACE, KILL_PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Config, Model

CONNECTIONS = 2.0
"""Seconds for connections to close after requests in flight have been cut."""
SYSTEMD_LIMIT = 90.0
"""Seconds until systemd kills, where a unit does not say otherwise (DefaultTimeoutStopSec, systemd-system.conf(5))."""


def longest_stop(config: Config) -> float:
    """Seconds from the first signal to the exit, at most.

    Requests in flight, then all children side by side, then what they have left in groups of their own.
    """
    children = max((_longest(model, config.server.stop_timeout) for model in config.models.values()), default=0.0)
    return config.server.drain_timeout + max(children + GRACE + KILL_PATIENCE, CONNECTIONS)


def _longest(model: Model, stop_timeout: float) -> float:
    """With the hooks around its end."""
    hooks = model.hooks
    return _leaving(model, stop_timeout) + hooks.timeout * sum(map(bool, (hooks.before_unload, hooks.after_unload)))


def _leaving(model: Model, stop_timeout: float) -> float:
    """One that does not leave in time is killed, and its stop command is run again for what that leaves behind."""
    if not model.cmd:
        return STDIN_GRACE
    seconds = stop_timeout if model.unload_timeout is None else model.unload_timeout
    return 2 * seconds if model.cmd_stop else seconds


def too_long_for_systemd(config: Config, environ: Mapping[str, str]) -> str | None:
    """What to tell somebody whose service systemd may kill before its end."""
    seconds = longest_stop(config)
    if "INVOCATION_ID" not in environ or seconds <= SYSTEMD_LIMIT:
        return None
    return (
        f"stopping may take up to {seconds:.0f} s, and systemd kills after {SYSTEMD_LIMIT:.0f} s unless the unit says "
        f"otherwise: set its `TimeoutStopSec=`, or lower `drain_timeout`, `stop_timeout` and the `timeout` of hooks"
    )

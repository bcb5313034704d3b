"""How long the end of the service may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config.values import Config, Hooks, Model, Server
from supervisor.runtime.budgets import SYSTEMD_LIMIT, longest_stop, too_long_for_systemd

LLAMA = Model(id="llama")
CMD = Model(id="cmd", cmd=("run", "${PORT}"))
CONTAINER = Model(id="container", cmd=("run", "${PORT}"), cmd_stop=("stop",))
HOOKED = Model(id="hooked", hooks=Hooks(before_unload=("stop",), after_unload=("start",), timeout=20.0))
UNHOOKED = Model(id="unhooked", hooks=Hooks(before_load=("stop",), after_load=("start",), timeout=20.0))
SLOW = Model(id="slow", cmd=("run", "${PORT}"), unload_timeout=60.0)


@pytest.mark.parametrize(
    ("models", "seconds"),
    [
        ((), 37.0),
        ((LLAMA,), 38.0),
        ((LLAMA, CMD), 47.0),
        ((CMD, CONTAINER), 57.0),
        ((CMD, SLOW), 97.0),
        ((CMD, HOOKED), 78.0),
        ((UNHOOKED,), 38.0),
    ],
)
def test_the_defaults_add_up(models: tuple[Model, ...], seconds: float) -> None:
    """Children have their time together, with their hooks: the longest counts, not the sum."""
    config = Config(Path(), Server(), {model.id: model for model in models})

    assert longest_stop(config) == seconds


def test_the_defaults_fit_into_systemds() -> None:
    """With a margin, whatever kind of server a model is."""
    config = Config(Path(), Server(), {model.id: model for model in (LLAMA, CMD, CONTAINER)})

    assert longest_stop(config) <= SYSTEMD_LIMIT - 30
    assert too_long_for_systemd(config, {"INVOCATION_ID": "x"}) is None


def test_a_service_that_systemd_would_kill_is_told_so() -> None:
    """Under systemd only, with the number and what to do."""
    config = Config(Path(), Server(drain_timeout=300.0), {"cmd": CMD})
    advice = too_long_for_systemd(config, {"INVOCATION_ID": "x"})

    assert advice is not None
    assert "up to 317 s" in advice
    assert "TimeoutStopSec" in advice
    assert too_long_for_systemd(config, {}) is None

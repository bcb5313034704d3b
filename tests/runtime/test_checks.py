"""Looking at models without starting them, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from supervisor.config.values import Model
from supervisor.llama.diagnosis import Diagnosis, report
from supervisor.runtime.checks import Checks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.errors import Failure

pytestmark = pytest.mark.anyio


class Disk:
    """A launcher whose models have one file each, which the test may change."""

    def __init__(self) -> None:
        self.files = {"a": "whole", "b": "cut", "c": "whole", "d": "whole"}
        self.looks: list[str] = []

    async def fingerprints(self, models: Sequence[Model]) -> dict[str, tuple[object, ...]]:
        return {model.id: (self.files[model.id],) for model in models}

    async def check(self, model: Model) -> Failure | None:
        self.looks.append(model.id)
        if self.files[model.id] == "strange":
            raise RuntimeError("a bug")
        is_cut = self.files[model.id] == "cut"
        return report(model.id, Diagnosis("model_file_truncated", "it is cut", "")) if is_cut else None


async def test_every_model_is_looked_at_and_changed_ones_again() -> None:
    """A file that is mended mends its model; one that did not change is left in peace."""
    disk = Disk()
    told: dict[str, bool] = {}

    def tell(model: Model, failure: Failure | None) -> None:
        told[model.id] = failure is None
        if told == {"a": True, "b": True}:
            tasks.cancel_scope.cancel()

    checks = checks_of(disk, Model("a"), Model("b"), tell=tell, pause=0.001)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(checks.run)
            await checks.done.wait()
            assert told == {"a": True, "b": False}
            disk.files["b"] = "whole"

    assert disk.looks == ["a", "b", "b"]


async def test_a_bug_in_one_look_stops_no_other() -> None:
    """The model whose look broke is left to its first start."""
    disk = Disk()
    disk.files["a"] = "strange"
    told: list[str] = []
    checks = checks_of(disk, Model("a"), Model("b"), tell=lambda model, _: told.append(model.id))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(checks.run)
            await checks.done.wait()
            tasks.cancel_scope.cancel()

    assert told == ["b"]


async def test_after_a_reload_new_and_changed_models_are_looked_at() -> None:
    """At once, however long the pause is; those that would start the same process, or are gone, are not."""
    disk = Disk()
    told: list[str] = []
    has_looked = anyio.Event()

    def tell(model: Model, failure: Failure | None) -> None:
        told.append(model.id)
        if model.id == "c":
            has_looked.set()

    checks = checks_of(disk, Model("a"), Model("b"), Model("d"), tell=tell, pause=3600)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(checks.run)
            await checks.done.wait()
            told.clear()
            checks.look_at([Model("a", {"ctx-size": 1}), Model("b", ttl=1.0), Model("c")])
            await has_looked.wait()
            tasks.cancel_scope.cancel()

    assert told == ["a", "c"]


def checks_of(disk: Disk, *models: Model, tell: Callable[[Model, Failure | None], None], pause: float = 10.0) -> Checks:
    checks = Checks(disk, tell=tell, pause=pause)  # type: ignore[arg-type]
    checks.look_at(models)
    return checks

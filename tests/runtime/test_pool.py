"""The pool with scripted runs: who gets a lease, who is told what, and that cancelling leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import pytest

from supervisor.config.values import Config, Model, Server
from supervisor.errors import ModelFailed, ModelNotFound, ModelUnloaded, ShuttingDown
from supervisor.fleet.events import Abandoned, BecameReady, Closing, Requested
from supervisor.fleet.planner import decide
from supervisor.fleet.values import Phase
from supervisor.llama.diagnosis import Diagnosis, report
from supervisor.runtime.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from supervisor.errors import Failure
    from supervisor.fleet.step import Step
    from supervisor.runtime.live import LiveRun

pytestmark = pytest.mark.anyio

BROKEN = Diagnosis("unknown", "it broke", "mend it")
"""A permanent cause."""


class ScriptedLauncher:
    """Runs that become ready, fail and end when the test says so."""

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Future[Failure | None]] = {}
        self.ready: dict[str, Callable[[], None]] = {}
        self.started: list[str] = []
        self.ended: list[str] = []
        self.expected: str | None = None
        """The model whose files would be read ahead now."""
        self.files = 1
        self.ledger = SimpleNamespace(on_change=[])
        self.hooks = SimpleNamespace(end=lambda: None)

    async def check(self, model: Model) -> Failure | None:
        return None

    async def run(self, live: LiveRun, on_ready: Callable[[], None]) -> Failure | None:
        name = live.model.id
        self.started.append(name)
        live.child = SimpleNamespace(pid=None, force=lambda: None)  # type: ignore[assignment]
        live.ready_seconds = 0.1
        self.ready[name] = on_ready
        self.running[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.running[name]
        finally:
            self.ended.append(name)

    def expect(self, model: Model | None, staying: Sequence[int] = ()) -> None:
        self.expected = model.id if model else None

    def fingerprint(self, model: Model) -> tuple[object, ...]:
        return (self.files,)

    async def fingerprints(self, models: Sequence[Model]) -> dict[str, tuple[object, ...]]:
        return {model.id: self.fingerprint(model) for model in models}

    def broken(self, live: LiveRun, exc: Exception) -> Failure:
        return report(live.model.id, Diagnosis("internal_error", str(exc), ""))

    def fails(self, name: str) -> None:
        self.running[name].set_result(report(name, BROKEN))


def config(*names: str, **server: object) -> Config:
    models = {name: Model(id=name) for name in names}
    return Config(Path("/"), Server(**{"max_loaded": 1, "min_residency": 0.0, **server}), models)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def a_pool(settings: Config) -> AsyncIterator[tuple[Pool, ScriptedLauncher]]:
    launcher = ScriptedLauncher()
    async with Pool(settings, launcher) as pool:  # type: ignore[arg-type]
        yield pool, launcher


async def settled() -> None:
    await anyio.wait_all_tasks_blocked()


async def ready(pool: Pool, launcher: ScriptedLauncher, name: str) -> None:
    """Load a model and let go of it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.load, name)
        await settled()
        launcher.ready[name]()


async def test_a_request_starts_its_model_and_waits_for_it() -> None:
    """A lease on a cold model comes when its child is ready, and is counted."""
    async with a_pool(config("a")) as (pool, launcher):
        waiting = asyncio.ensure_future(pool.lease("a"))
        await settled()
        assert not waiting.done()

        launcher.ready["a"]()
        with await waiting as run:
            assert run.leases == 1
        assert run.leases == 0


async def test_an_open_run_is_leased_without_the_planner() -> None:
    """While nobody waits, a lease only counts: the fleet stays the very same object."""
    async with a_pool(config("a")) as (pool, launcher):
        await ready(pool, launcher, "a")
        fleet = pool.fleet

        with await pool.lease("a"), await pool.lease("a") as run:
            assert run.leases == 2

        assert pool.fleet is fleet


async def test_many_requests_start_one_child() -> None:
    """Requests for a loading model share its start."""
    async with a_pool(config("a")) as (pool, launcher):
        waiting = [asyncio.ensure_future(pool.lease("a")) for _ in range(20)]
        await settled()
        launcher.ready["a"]()

        leases = await asyncio.gather(*waiting)

        assert launcher.started == ["a"]
        assert leases[0].run.leases == 20
        for lease in leases:
            lease.__exit__()


async def test_a_failed_start_reaches_everybody_who_waits() -> None:
    """Each waiting request gets the report, and it is kept for `why`."""
    async with a_pool(config("a")) as (pool, launcher):
        waiting = [asyncio.ensure_future(pool.lease("a")) for _ in range(3)]
        await settled()
        launcher.fails("a")

        for request in waiting:
            with pytest.raises(ModelFailed, match="it broke"):
                await request
        assert pool.reports["a"].cause == "unknown"
        assert pool.fleet.failures["a"] == pool.reports["a"]


async def test_the_last_report_outlives_a_later_success() -> None:
    """What went wrong last stays known after the model has started again."""
    async with a_pool(config("a")) as (pool, launcher):
        failing = asyncio.ensure_future(pool.lease("a"))
        await settled()
        launcher.fails("a")
        with pytest.raises(ModelFailed):
            await failing

        await ready(pool, launcher, "a")

        assert pool.fleet.failures == {}
        assert pool.reports["a"].message == "a cannot start: it broke"


async def test_a_swap_waits_for_the_last_lease() -> None:
    """A busy model is not stopped under its request; the next one starts when it is gone."""
    async with a_pool(config("a", "b")) as (pool, launcher):
        await ready(pool, launcher, "a")
        held = await pool.lease("a")
        waiting = asyncio.ensure_future(pool.lease("b"))
        await settled()
        assert launcher.ended == []

        held.__exit__()
        await settled()

        assert launcher.ended == ["a"]
        assert launcher.started == ["a", "b"]
        launcher.ready["b"]()
        (await waiting).__exit__()


async def test_the_next_model_is_expected_while_the_other_drains() -> None:
    """From the decision to swap on, its files may be read; more requests for either model do not change that."""
    async with a_pool(config("a", "b")) as (pool, launcher):
        await ready(pool, launcher, "a")
        held = [await pool.lease("a") for _ in range(2)]
        assert launcher.expected is None

        waiting = [asyncio.ensure_future(pool.lease(name)) for name in ("b", "b", "a")]
        await settled()
        assert launcher.expected == "b"

        held[0].__exit__()
        await settled()
        assert (launcher.expected, launcher.ended) == ("b", [])

        held[1].__exit__()
        await settled()
        assert launcher.started == ["a", "b"]
        for request in waiting:
            request.cancel()


async def test_the_next_run_takes_over_what_was_read_for_it() -> None:
    """The model is expected until its own start can claim what has been read; then nobody is."""
    async with a_pool(config("a", "b")) as (pool, launcher):
        await ready(pool, launcher, "a")
        held = await pool.lease("a")
        waiting = asyncio.ensure_future(pool.lease("b"))
        await settled()
        held.__exit__()
        await settled()
        assert (launcher.started, launcher.expected) == (["a", "b"], "b")

        launcher.ready["b"]()
        (await waiting).__exit__()
        assert launcher.expected is None


async def test_the_first_in_the_queue_is_expected() -> None:
    """Of several models that wait for the same room, the one that gets it."""
    async with a_pool(config("a", "b", "c")) as (pool, launcher):
        await ready(pool, launcher, "a")
        held = await pool.lease("a")
        waiting = [asyncio.ensure_future(pool.lease(name)) for name in ("b", "c")]
        await settled()
        assert launcher.expected == "b"

        waiting[0].cancel()
        await settled()
        assert launcher.expected == "c"

        held.__exit__()
        await settled()
        assert launcher.started == ["a", "c"]
        waiting[1].cancel()


async def test_nobody_is_expected_after_a_swap_was_called_off() -> None:
    """The only client that wanted the other model has left: it is not read any more, and the first one stays."""
    async with a_pool(config("a", "b")) as (pool, launcher):
        await ready(pool, launcher, "a")
        held = await pool.lease("a")
        waiting = asyncio.ensure_future(pool.lease("b"))
        await settled()
        assert launcher.expected == "b"

        waiting.cancel()
        await settled()

        assert launcher.expected is None
        held.__exit__()
        assert launcher.expected is None
        assert launcher.started == ["a"]


async def test_nobody_is_expected_without_a_swap() -> None:
    """Neither while there is room, nor for a model that is used, waited for or unloaded."""
    async with a_pool(config("a", "b", max_loaded=2)) as (pool, launcher):
        await ready(pool, launcher, "a")
        with await pool.lease("a"):
            assert launcher.expected is None

        await ready(pool, launcher, "b")
        assert launcher.expected is None

        held = await pool.lease("a")
        leaving = asyncio.ensure_future(pool.unload("a"))
        await settled()
        assert launcher.expected is None

        held.__exit__()
        await leaving
        assert launcher.expected is None


async def test_nobody_is_expected_once_a_swap_has_ended() -> None:
    """The model that came in runs, and nothing else is read."""
    async with a_pool(config("a", "b")) as (pool, launcher):
        await ready(pool, launcher, "a")
        await ready(pool, launcher, "b")

        assert launcher.ended == ["a"]
        with await pool.lease("b"):
            assert launcher.expected is None


async def test_nobody_is_expected_when_all_ends() -> None:
    """A shutdown in the middle of a swap leaves nothing to read."""
    async with a_pool(config("a", "b")) as (pool, launcher):
        await ready(pool, launcher, "a")
        held = await pool.lease("a")
        waiting = asyncio.ensure_future(pool.lease("b"))
        await settled()
        assert launcher.expected == "b"

        pool.close()
        with pytest.raises(ShuttingDown):
            await waiting
        assert launcher.expected is None
        held.__exit__()


async def test_cancelling_a_queued_request_leaves_no_ticket() -> None:
    """A client that goes away while it waits is forgotten, and its victim is given back."""
    async with a_pool(config("a", "b")) as (pool, launcher):
        await ready(pool, launcher, "a")
        held = await pool.lease("a")
        waiting = asyncio.ensure_future(pool.lease("b"))
        await settled()
        assert pool.fleet.runs[0].retiring is not None

        waiting.cancel()
        await settled()

        assert pool.fleet.queue == ()
        assert pool.fleet.runs[0].retiring is None
        held.__exit__()
        assert launcher.started == ["a"]


async def test_cancelling_in_the_moment_of_the_grant_gives_the_lease_back() -> None:
    """A grant whose request was cancelled in the same turn of the loop is not lost."""
    async with a_pool(config("a")) as (pool, launcher):
        waiting = asyncio.ensure_future(pool.lease("a"))
        await settled()

        launcher.ready["a"]()
        waiting.cancel()
        await asyncio.wait([waiting])

        assert waiting.cancelled()
        live = pool.live("a")
        assert live is not None
        assert live.leases == 0


async def test_a_client_cancelled_just_before_the_grant_does_not_harm_the_others() -> None:
    """A cancellation and a grant in the same turn of the loop: the other waiting request still gets its lease."""
    async with a_pool(config("a")) as (pool, launcher):
        leaving, staying = (asyncio.ensure_future(pool.lease("a")) for _ in range(2))
        await settled()

        leaving.cancel()
        launcher.ready["a"]()
        with anyio.fail_after(5):
            lease = await staying

        assert leaving.cancelled() or leaving.cancelling()
        await asyncio.wait([leaving])
        assert lease.run.leases == 1
        lease.__exit__()


async def test_a_client_cancelled_just_before_a_refusal_does_not_harm_the_others() -> None:
    """A cancellation and a failed start in the same turn of the loop: everybody else is told."""
    async with a_pool(config("a")) as (pool, _):
        leaving, staying = (asyncio.ensure_future(pool.lease("a")) for _ in range(2))
        await settled()

        leaving.cancel()
        await pool.unload("a")

        with pytest.raises(ModelUnloaded):
            await staying
        await asyncio.wait([leaving])


async def test_a_load_nobody_waits_for_goes_on() -> None:
    """A client that leaves during the load does not waste what has been loaded so far."""
    async with a_pool(config("a")) as (pool, launcher):
        waiting = asyncio.ensure_future(pool.lease("a"))
        await settled()
        waiting.cancel()
        await settled()

        launcher.ready["a"]()

        assert pool.fleet.runs[0].phase is Phase.READY


async def test_unloading_a_loading_model_tells_who_waits() -> None:
    """An unload by hand ends the load and says so to its requests."""
    async with a_pool(config("a")) as (pool, launcher):
        waiting = asyncio.ensure_future(pool.lease("a"))
        await settled()

        await pool.unload("a")

        assert launcher.ended == ["a"]
        with pytest.raises(ModelUnloaded):
            await waiting


async def test_a_crash_restarts_on_demand() -> None:
    """After a child died while serving, the next request gets a fresh one."""
    async with a_pool(config("a")) as (pool, launcher):
        await ready(pool, launcher, "a")
        with await pool.lease("a") as run:
            launcher.fails("a")
            await run.gone.wait()
            assert run.failure is not None

        await ready(pool, launcher, "a")

        assert launcher.started == ["a", "a"]


async def test_a_bug_in_one_run_does_not_fell_the_house() -> None:
    """An exception nobody expected is that model's failure; the others go on."""
    async with a_pool(config("a", "b", max_loaded=2)) as (pool, launcher):
        await ready(pool, launcher, "b")
        waiting = asyncio.ensure_future(pool.lease("a"))
        await settled()

        launcher.running["a"].set_exception(RuntimeError("surprise"))

        with pytest.raises(ModelFailed, match="surprise"):
            await waiting
        with await pool.lease("b") as run:
            assert run.model.id == "b"


async def test_an_idle_model_is_unloaded_after_its_ttl() -> None:
    """Idleness is counted from the last release, by a timer that needs no request."""
    settings = config("a")
    settings.models["a"] = Model(id="a", ttl=0.05)  # type: ignore[index]
    async with a_pool(settings) as (pool, launcher):
        await ready(pool, launcher, "a")
        live = pool.live("a")
        assert live is not None

        with anyio.fail_after(10):
            await live.gone.wait()

        assert launcher.ended == ["a"]
        assert live.failure is None


async def test_closing_refuses_who_waits_and_ends_every_run() -> None:
    """Leaving the pool answers everybody and leaves no run."""
    async with a_pool(config("a", "b")) as (pool, launcher):
        await ready(pool, launcher, "a")
        held = await pool.lease("a")
        waiting = asyncio.ensure_future(pool.lease("b"))
        await settled()

        pool.close()

        with pytest.raises(ShuttingDown):
            await waiting
        assert launcher.ended == []
        held.__exit__()
        await settled()
        assert launcher.ended == ["a"]
    assert pool.fleet.runs == ()


async def test_a_second_close_does_not_wait_for_requests() -> None:
    """Forced closing cuts what still runs."""
    async with a_pool(config("a")) as (pool, launcher):
        await ready(pool, launcher, "a")
        await pool.lease("a")
        pool.close()
        assert launcher.ended == []

        pool.close(force=True)
        await settled()

        assert launcher.ended == ["a"]


# Another config.


async def test_another_config_holds_for_runs_that_stay() -> None:
    """Here how many requests a model takes: nobody asks the planner while it has room."""
    async with a_pool(config("a")) as (pool, launcher):
        await ready(pool, launcher, "a")
        pool.adopt(Config(Path("/"), Server(), {"a": Model("a", concurrency=1)}))

        with await pool.lease("a"):
            assert pool.lease_at_once("a") is None
        assert launcher.started == ["a"]


async def test_who_waits_for_a_changed_model_gets_the_new_one() -> None:
    """Its start that was under way ends, and another one begins."""
    async with a_pool(config("a")) as (pool, launcher):
        waiting = asyncio.ensure_future(pool.lease("a"))
        await settled()
        changed = Model("a", {"ctx-size": 1})
        pool.adopt(Config(Path("/"), Server(), {"a": changed}))
        await settled()
        assert (launcher.started, launcher.ended) == (["a", "a"], ["a"])

        launcher.ready["a"]()
        with await waiting as run:
            assert run.model is changed


async def test_who_waits_for_a_model_that_goes_is_told() -> None:
    """And so is whoever had looked its name up before."""
    async with a_pool(config("a", "b")) as (pool, launcher):
        waiting = asyncio.ensure_future(pool.lease("a"))
        await settled()
        pool.adopt(config("b"))

        for late in (waiting, pool.lease("a"), pool.load("a")):
            with pytest.raises(ModelNotFound):
                await late
        await settled()
        assert launcher.ended == ["a"]


async def test_the_crash_of_a_former_process_is_told_to_those_it_served() -> None:
    """It is no failure of what the config says now: that one may start."""
    async with a_pool(config("a")) as (pool, launcher):
        await ready(pool, launcher, "a")
        with await pool.lease("a") as run:
            pool.adopt(Config(Path("/"), Server(), {"a": Model("a", {"ctx-size": 1})}))
            launcher.fails("a")
            await run.gone.wait()

            assert run.failure is not None
        assert pool.fleet.failures == {}
        assert pool.reports == {}
        await ready(pool, launcher, "a")


async def test_what_was_found_of_a_former_model_says_nothing() -> None:
    """A look at it may have begun before the reload."""
    async with a_pool(config("a")) as (pool, _):
        await settled()
        former = pool.config.models["a"]
        pool.adopt(Config(Path("/"), Server(), {"a": Model("a", {"ctx-size": 1})}))
        pool._checked(former, report("a", BROKEN))

        assert pool.fleet.failures == {}
        pool.adopt(config())
        pool._checked(former, report("a", BROKEN))
        assert pool.fleet.failures == {}


async def test_a_failure_is_forgotten_with_what_failed() -> None:
    """What its files were then is no reason to wait any more, either."""
    async with a_pool(config("a")) as (pool, launcher):
        failing = asyncio.ensure_future(pool.lease("a"))
        await settled()
        launcher.fails("a")
        with pytest.raises(ModelFailed):
            await failing
        assert pool.fleet.failures.keys() == {"a"}
        pool.adopt(Config(Path("/"), Server(), {"a": Model("a", {"ctx-size": 1})}))

        assert pool.fleet.failures == {}
        assert pool.reports.keys() == {"a"}
        pool.adopt(config())
        assert pool.reports == {}


# Who watches.


async def test_steps_can_be_taken_again() -> None:
    """Whoever is told of a step has all it took: the planner says the same once more."""
    steps: list[Step] = []
    async with a_pool(config("a", "b")) as (pool, launcher):
        pool.on_step.append(steps.append)
        await ready(pool, launcher, "a")
        with await pool.lease("a"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.load, "b")
                await settled()
                tasks.cancel_scope.cancel()
        await settled()

    assert {type(step.event) for step in steps} >= {Requested, BecameReady, Abandoned, Closing}
    for step in steps:
        assert decide(step.before, step.event, step.now)[1] == step.actions

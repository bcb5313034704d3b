"""The decision log: what is in its files, and that each of them replays."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from supervisor.config.values import Model
from supervisor.fleet.actions import Grant, Spawn, Terminate
from supervisor.fleet.events import BecameReady, Exited, Reconfigured, Released, Requested
from supervisor.fleet.planner import decide
from supervisor.fleet.queue import Ticket, TicketId
from supervisor.fleet.step import Step
from supervisor.fleet.values import Count, Fleet, RunId
from supervisor.record.decision_log import MOST_STEPS, STRETCH, DecisionLog, last_part
from tests.conftest import ROOT, eventually
from tests.fleet.scene import config_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.fleet.events import Event
    from supervisor.record.scribe import Lot
    from tests.conftest import RunningService

COMMAND = Path(sys.executable).parent / "llama-supervise"
LARGE = 1 << 30


class House:
    """Two models on one place; each request is for the one that is not there."""

    def __init__(self) -> None:
        self.fleet = Fleet(config_of("a", "b"))
        self.now = 0.0
        self.counts: dict[RunId, Count] = {}
        self.steps: list[Step] = []

    def swap(self, number: int) -> None:
        todo: list[Event] = [Requested(Ticket(TicketId(number), "ab"[number % 2], self.now))]
        while todo:
            for action in self.step(todo.pop(0)):
                match action:
                    case Spawn(run):
                        todo.append(BecameReady(run.id))
                    case Terminate(run):
                        todo.append(Exited(run))
                    case Grant(_, run):
                        self.step(Released(run), {run: Count(0, self.now)})

    def step(self, event: Event, counts: dict[RunId, Count] | None = None) -> tuple[object, ...]:
        self.now += 0.25
        before = self.fleet.recounted(counts or {})
        self.fleet, actions = decide(before, event, self.now)
        self.steps.append(Step(self.now, before, event, actions))
        return actions


def steps(swaps: int) -> list[Step]:
    house = House()
    for number in range(swaps):
        house.swap(number)
    return house.steps


def replay(*arguments: object) -> tuple[int, str]:
    """What `scripts/replay` answers."""
    script = ModuleType("replay")
    script.__file__ = str(ROOT / "scripts" / "replay")
    SourceFileLoader("replay", script.__file__).exec_module(script)
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
        code = script.main([str(each) for each in arguments])
    return code, said.getvalue()


def written(path: Path, taken: list[Step], *, size: int = LARGE, count: int = 5) -> None:
    with DecisionLog(path, size=size, count=count) as log:
        for step in taken:
            log.note(step)


def noted(path: Path) -> int:
    """How many steps are in a log."""
    return path.read_text().count('"counts":')


def test_replay_tells_every_step(tmp_path: Path) -> None:
    """Time, event, actions and the words of decisions; all the same as then."""
    written(tmp_path / "log", steps(3))
    code, said = replay(tmp_path / "log")

    assert code == 0
    assert "request 1 (b) comes" in said
    assert "b needs a place, and all 1 are taken; evicted a (idle" in said
    assert "> end a (run 1)" in said
    assert "> let request 1 (b) through to b (run 2)" in said
    assert said.endswith(f"{len(steps(3))} steps, all of them as they were\n")


def test_changed_line_is_found(tmp_path: Path) -> None:
    """The first step that differs is shown with both answers, and nothing after it."""
    written(tmp_path / "log", steps(4))
    lines = (tmp_path / "log").read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if '"Terminate","run":2' in line)
    lines[place] = lines[place].replace('"Terminate","run":2', '"Terminate","run":1')
    (tmp_path / "log").write_text("\n".join(lines))
    code, said = replay(tmp_path / "log")

    assert code == 1
    then, _, now = said.partition("The log says:")[2].partition("and not:")
    assert "end 1" in then
    assert "end b (run 2)" in now
    assert "request 3" not in said


def test_changed_state_is_found(tmp_path: Path) -> None:
    """A step whose answer is the same may still lead elsewhere: the next snapshot knows."""
    written(tmp_path / "log", steps(200))
    lines = (tmp_path / "log").read_text().splitlines()
    snapshot = next(number for number, line in enumerate(lines) if '"follows":true' in line)
    lines[snapshot] = lines[snapshot].replace('"spawned":', '"spawned":1')
    (tmp_path / "log").write_text("\n".join(lines))
    code, said = replay(tmp_path / "log")

    assert code == 1
    assert "the log has another fleet" in said


def test_every_file_replays(tmp_path: Path) -> None:
    """Files are put aside at their size, no more are kept than may be, and each begins with all that was known."""
    written(tmp_path / "log", steps(100), size=10_000, count=3)
    files = sorted(tmp_path.iterdir())

    assert [file.name for file in files] == ["log", "log.1", "log.2", "log.3"]
    assert all(file.stat().st_size <= 10_000 for file in files)
    assert [replay(file)[0] for file in files] == [0] * 4


def test_two_services_one_file(tmp_path: Path) -> None:
    """The second goes on where the first has left the file, even in the middle of a line."""
    written(tmp_path / "log", steps(2))
    whole = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(whole[:-20])
    written(tmp_path / "log", steps(3))
    code, said = replay(tmp_path / "log")

    assert code == 0
    assert said.count("the log begins") == 2
    assert f"line {len(steps(2)) + 1} is left out" in said


def test_file_that_is_taken_away(tmp_path: Path) -> None:
    """The next one begins anew."""
    taken = steps(4)
    with DecisionLog(tmp_path / "log", size=LARGE, count=1) as log:
        for step in taken[:9]:
            log.note(step)
        eventually(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().count("\n") == 10)
        (tmp_path / "log").unlink()
        for step in taken[9:]:
            log.note(step)

    assert replay(tmp_path / "log")[0] == 0


def test_disk_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That is said once; when it can be written again, what is there replays."""
    taken, now, folder = steps(4), [0.0], tmp_path / "folder"
    folder.write_text("in the way")
    with (
        caplog.at_level("INFO", "supervisor.logs"),
        DecisionLog(folder / "log", size=LARGE, count=1, clock=lambda: now[0]) as log,
    ):
        log.note(taken[0])
        eventually(lambda: "cannot be written for now" in caplog.text)
        folder.unlink()
        log.note(taken[1])
        eventually(lambda: not log.waiting)
        now[0] = 60.0
        for step in taken[2:]:
            log.note(step)
        eventually(lambda: "can be written again" in caplog.text)

    assert replay(folder / "log")[0] == 0
    assert caplog.text.count("for now") == 1


def test_steps_that_were_too_many(tmp_path: Path) -> None:
    """Who decides never waits; after a gap the log begins anew."""
    go, taken = threading.Event(), steps(4)

    class Stuck(DecisionLog):
        def _write(self, place: None, lot: Lot[Step]) -> None:
            go.wait()
            super()._write(place, lot)

    with Stuck(tmp_path / "log", size=LARGE, count=1) as log:
        log.note(taken[0])
        eventually(lambda: not log.waiting)
        for _ in range(MOST_STEPS):
            log.note(taken[0])
        log.note(taken[1])
        go.set()
        eventually(lambda: not log.waiting)
        eventually(lambda: noted(tmp_path / "log") == 1 + MOST_STEPS)
        for step in taken[2:]:
            log.note(step)
        eventually(lambda: noted(tmp_path / "log") == 1 + MOST_STEPS + len(taken) - 2)
    lines = (tmp_path / "log").read_text().splitlines()

    tail = tmp_path / "tail"
    tail.write_text("\n".join(lines[-len(taken) + 1 :]))
    assert '"follows":false' in tail.read_text()
    assert replay(tail)[0] == 0


def test_reload_is_in_it(tmp_path: Path) -> None:
    """The new config holds for the steps that follow."""
    house = House()
    house.swap(0)
    house.step(Reconfigured(config_of("a", Model("b", ttl=5.0), "c", max_loaded=2)))
    house.swap(1)
    written(tmp_path / "log", house.steps)
    code, said = replay(tmp_path / "log")

    assert code == 0
    assert "another config holds, with 3 models" in said
    assert "> end" not in said


def test_filters(tmp_path: Path) -> None:
    """Only so far, and only what concerns one model."""
    written(tmp_path / "log", steps(6))
    code, said = replay(tmp_path / "log", "--until", "8", "--model", "b")

    assert code == 0
    assert "8 steps" in said
    assert "request 1 (b) comes" in said
    assert "request 0 (a) comes" not in said


@pytest.mark.parametrize("since", [1, 9])
def test_as_a_test(tmp_path: Path, since: int) -> None:
    """What is written is a test of the planner that passes as long as the planner says what it said."""
    written(tmp_path / "log", steps(6))
    code, text = replay(tmp_path / "log", "--since", since, "--as-test")
    test: dict[str, Callable[[], None]] = {}
    exec(text, test)
    test["test_what_was_logged"]()

    assert code == 0
    wrong: dict[str, Callable[[], None]] = {}
    exec(text.replace(".then(Terminate('b'))", ".then()"), wrong)
    with pytest.raises(AssertionError):
        wrong["test_what_was_logged"]()


@pytest.mark.parametrize(
    "text", ["", "no log\n", '{"now":1.0}\n', '{"now":1.0,"counts":[],"event":{"":"Tick"},"actions":[]}']
)
def test_what_is_no_log(tmp_path: Path, text: str) -> None:
    """Nothing to replay is no success."""
    (tmp_path / "log").write_text(text)

    assert replay(tmp_path / "log")[0] == 2
    assert replay(tmp_path / "nothing")[0] == 2


def test_last_part_replays(tmp_path: Path) -> None:
    """However long a log is, its end begins with a snapshot, and goes back into the file before."""
    written(tmp_path / "log", steps(600), size=8 * STRETCH)
    part = last_part(tmp_path / "log")
    (tmp_path / "part").write_text(part)

    assert STRETCH < len(part) <= 4 * STRETCH
    assert (tmp_path / "log").stat().st_size < len(part)
    assert replay(tmp_path / "part")[0] == 0


# Of a service.


def test_a_service_replays(start: Callable[..., RunningService], tiny: Path) -> None:
    """Real swaps with memory, a failed start and a reload: the log tells them again, whole or as the doctor has it."""
    config = f"""
        [server]
        decision_log = "decisions.jsonl"
        max_loaded = 1
        [memory]
        budget = {{ host = "2GiB" }}
        [defaults]
        model = "{tiny}/tiny-a.gguf"
        ctx-size = 256
        fit = "off"
        threads = 1
        [models.a]
        [models.b]
        [models.broken]
        model = "{tiny}/broken-missing-tensor.gguf"
    """
    service = start(config)
    log = service.directory / "decisions.jsonl"
    for model in ("a", "b", "a", "broken"):
        service.chat(model)
    (service.directory / "models.toml").write_text(
        config.replace("2GiB", "3GiB").replace("max_loaded = 1", "max_loaded = 2")
    )
    with service.http as http:
        assert http.post("/api/reload").json()["changes"]
    assert service.chat("b").status_code == 200
    command = [COMMAND, "doctor", "-c", service.directory / "models.toml", "--url", service.url, "-o", "-"]
    doctor = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    service.stop()

    code, said = replay(log)
    assert code == 0, said
    assert "evicted a" in said
    assert "another config holds" in said
    assert "broken (run" in said
    (service.directory / "doctor.md").write_text(doctor)
    assert replay(service.directory / "doctor.md")[0] == 0
    lines = log.read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if '"Terminate"' in line)
    changed = json.loads(lines[place])
    changed["actions"] = [action for action in changed["actions"] if action[""] != "Terminate"]
    lines[place] = json.dumps(changed, separators=(",", ":"))
    log.write_text("\n".join(lines))
    assert replay(log)[0] == 1

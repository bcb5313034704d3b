"""Who is expected is read ahead, once, and no sequence of calls leaves a reader behind."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.values import Model
from supervisor.llama.command import Surroundings
from supervisor.llama.preflight import Inspector
from supervisor.runtime import warming
from supervisor.runtime.prefetch import PIECE, RESERVE, Prefetch
from supervisor.runtime.warming import Warmer
from tests.conftest import DEADLINE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from supervisor.config.values import Option

A, B = Model(id="a"), Model(id="b")


class SlowFile:
    """An empty file whose reader hangs, as on a slow disk, until the test lets it go on."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def stat(self) -> SimpleNamespace:
        assert self.go.wait(DEADLINE)
        return SimpleNamespace(st_size=0)


@dataclass
class SlowDisk:
    """An inspector to whose models slow files belong; notes what was begun."""

    begun: list[str] = field(default_factory=list)
    files: list[SlowFile] = field(default_factory=list)

    def weights(self, model: Model) -> Sequence[SlowFile]:
        """Two, so that a reader which was stopped at the first leaves the second alone."""
        self.begun.append(model.id)
        self.files += [SlowFile(), SlowFile()]
        return self.files[-2:]

    def go_on(self) -> None:
        for file in self.files:
            file.go.set()


@pytest.fixture
def disk() -> Iterator[SlowDisk]:
    """Whatever a test does, its readers end."""
    disk = SlowDisk()
    yield disk
    disk.go_on()
    eventually(lambda: not readers())


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def warmer_of(disk: SlowDisk) -> Warmer:
    return Warmer(disk)  # type: ignore[arg-type]


def started(prefetch: Prefetch | None) -> Prefetch:
    assert prefetch is not None
    return prefetch


def test_what_was_expected_is_claimed(disk: SlowDisk) -> None:
    """A start takes over what was begun for it; it goes on."""
    warmer = warmer_of(disk)
    warmer.expect(A)
    prefetch = started(warmer.claim(A))

    assert disk.begun == ["a"]
    assert prefetch.report.reason is None
    assert len(readers()) == 1
    disk.go_on()
    assert prefetch.wait(DEADLINE)
    assert prefetch.report.reason == "done"


def test_who_is_expected_again_is_not_begun_again(disk: SlowDisk) -> None:
    """The pool says whom it expects at every step."""
    warmer = warmer_of(disk)
    for _ in range(5):
        warmer.expect(A)

    assert disk.begun == ["a"]
    assert len(readers()) == 1


def test_who_is_expected_instead_stops_the_first(disk: SlowDisk) -> None:
    """Only one model is read ahead for a swap."""
    warmer = warmer_of(disk)
    warmer.expect(A)
    (reader,) = readers()
    warmer.expect(B)
    disk.files[0].go.set()
    reader.join(DEADLINE)

    assert not reader.is_alive()
    assert disk.begun == ["a", "b"]
    assert started(warmer.claim(B)).report.reason is None


def test_a_swap_that_is_called_off_stops_reading(disk: SlowDisk) -> None:
    """Nobody is expected any more; who starts later begins anew."""
    warmer = warmer_of(disk)
    warmer.expect(A)
    warmer.expect(None)
    disk.files[0].go.set()
    eventually(lambda: not readers())

    prefetch = started(warmer.claim(A))
    assert disk.begun == ["a", "a"]
    assert prefetch.report.reason is None


def test_what_was_claimed_is_its_starts_own(disk: SlowDisk) -> None:
    """After the claim, expecting nobody, another or the same model does not stop it."""
    warmer = warmer_of(disk)
    warmer.expect(A)
    prefetch = started(warmer.claim(A))
    for model in (None, B, A, None):
        warmer.expect(model)

    assert prefetch.report.reason is None
    prefetch.stop()
    assert prefetch.report.reason == "stopped"


def test_a_start_of_another_keeps_who_is_expected(disk: SlowDisk) -> None:
    """A model that starts beside the swap reads its own files; the expected one goes on being read."""
    warmer = warmer_of(disk)
    warmer.expect(A)
    other = started(warmer.claim(B))
    warmer.expect(A)
    expected = started(warmer.claim(A))

    assert disk.begun == ["a", "b"]
    assert other is not expected
    assert (other.report.reason, expected.report.reason) == (None, None)


def test_a_second_attempt_reads_for_itself(disk: SlowDisk) -> None:
    """What one attempt has claimed and stopped does not serve the next."""
    warmer = warmer_of(disk)
    warmer.expect(A)
    first = started(warmer.claim(A))
    first.stop()
    second = started(warmer.claim(A))

    assert second is not first
    assert second.report.reason is None


CALLS = st.lists(
    st.tuples(st.sampled_from(["expect", "claim"]), st.sampled_from([A, B, None])).filter(
        lambda call: call != ("claim", None)
    ),
    max_size=12,
)


@given(CALLS)
def test_no_sequence_leaves_a_reader(calls: list[tuple[str, Model | None]]) -> None:
    """Every start gets a reader of its own; once all are stopped and nobody is expected, no thread reads."""
    disk = SlowDisk()
    warmer = warmer_of(disk)
    claimed: list[Prefetch] = []
    for verb, model in calls:
        if verb == "expect":
            warmer.expect(model)
        else:
            assert model is not None
            claimed.append(started(warmer.claim(model)))
    assert len(set(map(id, claimed))) == len(claimed)
    assert all(prefetch.report.reason is None for prefetch in claimed)

    warmer.expect(None)
    for prefetch in claimed:
        prefetch.stop()
    disk.go_on()

    eventually(lambda: not readers())


@pytest.mark.parametrize(
    "options",
    [{"load-mode": "dio"}, {"lm": "dio"}, {"direct-io": True}, {"dio": True}],
)
def test_direct_reads_are_not_warmed(disk: SlowDisk, options: dict[str, Option]) -> None:
    """A child that reads past the page cache gains nothing from it."""
    model = Model(id="a", options=options)
    warmer = warmer_of(disk)
    warmer.expect(model)

    assert warmer.claim(model) is None
    assert disk.begun == []


@pytest.mark.parametrize(
    "options", [{}, {"load-mode": "none"}, {"load-mode": "mmap"}, {"direct-io": False}, {"dio": False}]
)
def test_other_ways_of_loading_are(disk: SlowDisk, options: dict[str, Option]) -> None:
    """Mapping and reading both take from the page cache."""
    assert warmer_of(disk).claim(Model(id="a", options=options)) is not None


@pytest.mark.parametrize("model", [Model(id="a", cmd=("server",)), Model(id="a", prefetch=False)])
def test_what_is_not_to_be_read_is_not(disk: SlowDisk, model: Model) -> None:
    """Another server's files nobody knows; `prefetch = false` is obeyed; either can be expected."""
    warmer = warmer_of(disk)
    warmer.expect(model)
    warmer.expect(model)

    assert warmer.claim(model) is None
    assert disk.begun == []


def test_the_files_of_a_model_are_read(tmp_path: Path) -> None:
    """Weights and projector, as the config names them; every byte is looked at, and read if it is not in memory."""
    files = [tmp_path / "m.gguf", tmp_path / "p.gguf"]
    for file in files:
        file.write_bytes(bytes(2 * PIECE + 123))
    model = Model(id="a", options={"model": "m.gguf", "mmproj": "p.gguf", "ctx-size": 512})
    warmer = Warmer(inspector(tmp_path))
    warmer.expect(model)
    prefetch = started(warmer.claim(model))

    assert prefetch.wait(DEADLINE)
    told = prefetch.report
    assert told.reason == "done"
    assert told.bytes_read + told.bytes_resident == 2 * (2 * PIECE + 123)


@pytest.mark.parametrize("options", [{}, {"mmproj": False}, {"hf-repo": "some/thing"}, {"model": "missing.gguf"}])
def test_files_that_are_not_there_harm_nobody(tmp_path: Path, options: dict[str, Option]) -> None:
    """A model without files, or with a missing one, has nothing to read; its start says what is wrong."""
    prefetch = started(Warmer(inspector(tmp_path)).claim(Model(id="a", options=options)))

    assert prefetch.wait(DEADLINE)
    assert prefetch.report.bytes_read == 0


def inspector(base: Path) -> Inspector:
    return Inspector(Surroundings(base, base, {}, base), cache_dir=None)


def test_what_stays_is_not_pushed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of children that stay is kept out of what may be warmed, for what they map counts as available."""
    reserves: list[int] = []

    class Noted:
        def __init__(self, paths: object, *, reserve: int) -> None:
            reserves.append(reserve)

        def start(self) -> None:
            pass

        def stop(self) -> None:
            pass

    class Weightless:
        def weights(self, model: Model) -> tuple[Path, ...]:
            return ()

    monkeypatch.setattr(warming, "Prefetch", Noted)
    monkeypatch.setattr(warming, "resident_bytes", {1: 1000, 2: 500}.get)
    warmer = Warmer(Weightless())  # type: ignore[arg-type]
    warmer.expect(Model("a"), [1, 2, 3])
    warmer.claim(Model("b"), [2])

    assert reserves == [RESERVE + 1500, RESERVE + 500]

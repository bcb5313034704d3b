"""What starts have taught outlives the service, and whatever happens to its file, the worst is that it is forgotten."""

from __future__ import annotations

import json
import logging
import os
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.runtime.fits import MARGIN, MOST, Fit, Fits, key_of

GIGA = 10**9
FIT = Fit(host_bytes=GIGA, beside=1)
PLENTY = 1 << 50


def skips(fits: Fits, key: str = "k") -> bool:
    """Whether fitting may be left out when there is nothing else and all the memory there could be."""
    return fits.can_skip(key, available=PLENTY, beside=0, has_devices=False)


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    """A start nobody has seen needs fitting, and looking it up writes nothing."""
    assert not skips(Fits(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_was_learned_is_known_to_the_next_service(tmp_path: Path) -> None:
    """It is kept in one file, in a directory made for it, and nothing else is left there."""
    folder = tmp_path / "made" / "for" / "it"
    fits = Fits(folder)
    fits.learn("k", FIT)

    assert skips(fits)
    assert skips(Fits(folder))
    assert not skips(Fits(folder), "another")
    assert [path.name for path in folder.iterdir()] == ["fits.json"]


def test_without_a_directory_it_is_known_as_long_as_we_live() -> None:
    """No cache directory is no reason to fit every time."""
    fits = Fits(None)
    fits.learn("k", FIT)

    assert skips(fits)
    fits.forget("k")
    assert not skips(fits)


def test_what_was_forgotten_stays_forgotten(tmp_path: Path) -> None:
    """A start that did not hold is not tried by the next service either; what nobody knew can be forgotten too."""
    fits = Fits(tmp_path)
    fits.learn("k", FIT)
    fits.learn("other", FIT)
    fits.forget("k")
    fits.forget("never known")

    assert not skips(fits)
    assert not skips(Fits(tmp_path))
    assert skips(Fits(tmp_path), "other")


def test_the_last_lesson_counts(tmp_path: Path) -> None:
    """A start that took more memory than the one before it is remembered with that."""
    fits = Fits(tmp_path)
    fits.learn("k", FIT)
    fits.learn("k", Fit(3 * GIGA, 0))

    for known in (fits, Fits(tmp_path)):
        assert not known.can_skip("k", available=2 * GIGA, beside=0, has_devices=False)
        assert known.can_skip("k", available=4 * GIGA, beside=0, has_devices=False)


def test_a_lesson_that_is_known_is_not_written_again(tmp_path: Path) -> None:
    """The file stays as it is while nothing new is learned."""
    fits = Fits(tmp_path)
    fits.learn("k", FIT)
    (tmp_path / "fits.json").unlink()
    fits.learn("k", FIT)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("available", "expected"),
    [(None, False), (0, False), (GIGA, False), (int(GIGA * MARGIN) - 1, False), (int(GIGA * MARGIN), True)],
)
def test_the_memory_must_be_there_with_a_margin(available: int | None, expected: bool) -> None:
    """A tenth more than the first start took must be available, and known to be."""
    fits = Fits(None)
    fits.learn("k", FIT)

    assert fits.can_skip("k", available=available, beside=0, has_devices=False) is expected


def test_on_devices_there_may_not_be_more_company() -> None:
    """Other children may hold memory of the device: as many as at first are borne, more are not; without, all are."""
    fits = Fits(None)
    fits.learn("k", FIT)
    answers = {
        (beside, has_devices): fits.can_skip("k", available=PLENTY, beside=beside, has_devices=has_devices)
        for beside, has_devices in product((0, 1, 2), (False, True))
    }

    assert [case for case, may in answers.items() if not may] == [(2, True)]


@given(st.integers(0, 1 << 50), st.integers(0, 9), st.integers(0, 1 << 50), st.integers(0, 9), st.booleans())
def test_more_room_never_forbids(used: int, beside: int, available: int, company: int, has_devices: bool) -> None:
    """Where a start may leave fitting out, it may with more memory and with less company too."""
    fits = Fits(None)
    fits.learn("k", Fit(used, beside))

    if fits.can_skip("k", available=available, beside=company, has_devices=has_devices):
        assert fits.can_skip("k", available=available + 1, beside=max(company - 1, 0), has_devices=has_devices)
        assert available >= used


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe\x00",
        b'{"k": 1}',
        b'{"k": {"host_bytes": "much", "beside": 0}}',
        b'{"k": {"host_bytes": 1}}',
        b'{"k": {"host_bytes": 1e400, "beside": 0}}',
    ],
)
def test_a_file_that_says_nothing_is_written_anew(tmp_path: Path, content: bytes) -> None:
    """A broken file, or another version's, is as good as none."""
    path = tmp_path / "fits.json"
    path.write_bytes(content)
    fits = Fits(tmp_path)

    assert not skips(fits)
    fits.learn("k", FIT)
    assert skips(Fits(tmp_path))


@given(st.data())
def test_a_file_cut_or_changed_anywhere_is_borne(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """No bytes in the file keep the service from starting."""
    folder = tmp_path_factory.mktemp("cut")
    Fits(folder).learn("k", FIT)
    path = folder / "fits.json"
    whole = path.read_bytes()
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    path.write_bytes(whole[:begin] + data.draw(st.binary(max_size=4)) + whole[end:])

    fits = Fits(folder)
    fits.learn("new", FIT)

    assert skips(Fits(folder), "new")


def test_a_file_with_more_than_we_know_is_read(tmp_path: Path) -> None:
    """What a later version adds to an entry does not make us forget it."""
    entry = {"host_bytes": 1, "beside": 0, "device_bytes": [1, 2]}
    (tmp_path / "fits.json").write_text(json.dumps({"k": entry}))

    assert skips(Fits(tmp_path))


def test_a_directory_that_cannot_be_made_costs_only_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said in the log, and what is learned holds until the service ends."""
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "supervisor.fits"):
        fits = Fits(tmp_path / "file")
        fits.learn("k", FIT)

    assert skips(fits)
    assert "cannot keep what starts have taught" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_that_is_taken_costs_only_the_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory where the file should be is no reason to fail."""
    (tmp_path / "fits.json").mkdir()
    with caplog.at_level(logging.WARNING, "supervisor.fits"):
        fits = Fits(tmp_path)
        fits.learn("k", FIT)

    assert skips(fits)
    assert "cannot keep what starts have taught" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["fits.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_ours_costs_only_the_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A read-only cache is said in the log."""
    tmp_path.chmod(0o500)
    with caplog.at_level(logging.WARNING, "supervisor.fits"):
        fits = Fits(tmp_path)
        fits.learn("k", FIT)
    tmp_path.chmod(0o700)

    assert skips(fits)
    assert "cannot keep what starts have taught" in caplog.text


def test_the_oldest_are_forgotten_first(tmp_path: Path) -> None:
    """The file is bounded; a lesson that is learned anew is young again."""
    entry = {"host_bytes": GIGA, "beside": 0}
    (tmp_path / "fits.json").write_text(json.dumps({str(number): entry for number in range(MOST)}))
    fits = Fits(tmp_path)
    fits.learn("0", FIT)
    fits.learn("new", FIT)

    known = json.loads((tmp_path / "fits.json").read_text())
    assert len(known) == MOST
    assert not skips(Fits(tmp_path), "1")
    assert all(skips(Fits(tmp_path), key) for key in ("0", "2", "new"))


def test_a_file_that_has_grown_too_large_is_cut(tmp_path: Path) -> None:
    """Whoever wrote it, the next lesson brings it back to its size."""
    entry = {"host_bytes": GIGA, "beside": 0}
    (tmp_path / "fits.json").write_text(json.dumps({str(number): entry for number in range(MOST + 50)}))
    Fits(tmp_path).learn("new", FIT)

    assert len(json.loads((tmp_path / "fits.json").read_text())) == MOST


PARTS = st.lists(st.none() | st.integers() | st.text() | st.tuples(st.text(), st.integers()), max_size=4)


@given(PARTS, PARTS)
def test_a_key_tells_starts_apart(one: list[object], other: list[object]) -> None:
    """Two keys are the same exactly when everything is; whatever names a file has, there is a key."""
    assert (key_of(one) == key_of(other)) == (one == other)


def test_a_key_bears_names_that_are_no_text() -> None:
    """A file name of any bytes can be part of a key."""
    path = os.fsdecode(b"/models/\xff.gguf")

    assert key_of([path]) != key_of([Path(path)]) != key_of(["/models/.gguf"])

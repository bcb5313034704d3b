"""Whether the samples would notice: every row of the catalogue and of the warnings is spoiled, one at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.llama import causes, diagnosis, warnings
from supervisor.llama.causes import CATALOGUE, CAUSES, Cause
from supervisor.llama.diagnosis import End, diagnose, found
from supervisor.llama.warnings import SIGNS, Sign, warning_in
from tests.failures.samples import SAMPLES, WARNINGS
from tests.failures.test_kinds import FAILS
from tests.failures.test_strings import ended

pytestmark = pytest.mark.slow

ELSEWHERE = {
    "reserved_flag",  # tests/llama/test_flags.py
    "mmproj_unreadable",  # these two only for who is not root
    "file_unreadable",
    "binary_does_not_run",  # these two are tested nowhere yet
    "socket_path_too_long",
}
"""Causes that no child and no row of `test_kinds` names."""


def verdicts() -> list[object]:
    """All that is concluded from the samples, and from what a look at the files finds."""
    return [
        *(diagnose(ended(sample, phase)) for sample in SAMPLES for phase in ("loading", "serving")),
        *(_looked_up(code) for row in FAILS for code in row.code.split("|")),
    ]


def _looked_up(code: str) -> object:
    try:
        return found(code)
    except KeyError:
        return None


def expected_is_met() -> bool:
    return all(diagnose(ended(sample)).cause == sample.code for sample in SAMPLES)


TRUE_VERDICTS = verdicts()
TRUE_WARNINGS = [warning_in(line) for _, line, _ in WARNINGS]


def swapped(old: Cause, new: Cause) -> tuple[Cause, ...]:
    return tuple(new if cause is old else cause for cause in CATALOGUE)


def install(monkeypatch: pytest.MonkeyPatch, catalogue: tuple[Cause, ...]) -> None:
    monkeypatch.setattr(diagnosis, "CATALOGUE", catalogue)
    codes = {cause.code: cause for cause in (*catalogue, *causes.ENDS)}
    monkeypatch.setattr(diagnosis, "CAUSES", codes)


WITHOUT_PATTERN = [
    (cause, replace(cause, patterns=tuple(other for other in cause.patterns if other is not pattern)), pattern.pattern)
    for cause in CATALOGUE
    for pattern in cause.patterns
]


@pytest.mark.parametrize("cause", CATALOGUE, ids=lambda cause: cause.code)
def test_another_code_is_noticed(monkeypatch: pytest.MonkeyPatch, cause: Cause) -> None:
    """No code may change without a test that says so: clients depend on them."""
    if cause.code in ELSEWHERE:
        pytest.skip("named by other tests")
    install(monkeypatch, swapped(cause, replace(cause, code="mutated")))

    assert verdicts() != TRUE_VERDICTS


@pytest.mark.parametrize(("cause", "mutant", "pattern"), WITHOUT_PATTERN, ids=lambda value: str(value)[:60])
def test_a_lost_pattern_is_noticed(monkeypatch: pytest.MonkeyPatch, cause: Cause, mutant: Cause, pattern: str) -> None:
    """Each pattern does something that no other does."""
    install(monkeypatch, swapped(cause, mutant))

    assert verdicts() != TRUE_VERDICTS, pattern


@pytest.mark.parametrize("cause", [each for each in CATALOGUE if each.patterns], ids=lambda cause: cause.code)
@pytest.mark.parametrize("field", ["permanent", "serving"])
def test_the_other_kind_of_failure_is_noticed(monkeypatch: pytest.MonkeyPatch, cause: Cause, field: str) -> None:
    """Whether it is tried again, and whether it explains a crash, is tested for every row."""
    install(monkeypatch, swapped(cause, replace(cause, **{field: not getattr(cause, field)})))

    assert verdicts() != TRUE_VERDICTS


@pytest.mark.parametrize(
    ("cause", "outranked"),
    [(cause, code) for cause in CATALOGUE for code in sorted(cause.outranks)],
    ids=lambda value: value if isinstance(value, str) else value.code,
)
def test_ranks_name_causes_that_exist(cause: Cause, outranked: str) -> None:
    """A misspelt code would outrank nothing."""
    assert outranked in CAUSES
    assert outranked != cause.code


@pytest.mark.parametrize("cause", [each for each in CATALOGUE if each.outranks], ids=lambda cause: cause.code)
def test_a_lost_rank_is_noticed(monkeypatch: pytest.MonkeyPatch, cause: Cause) -> None:
    """A file that is missing is first of all the projector, the adapter or the draft it was meant to be."""
    install(monkeypatch, swapped(cause, replace(cause, outranks=frozenset())))

    assert verdicts() != TRUE_VERDICTS


@pytest.mark.parametrize("number", range(len(SIGNS)), ids=lambda number: SIGNS[number].pattern.pattern[:50])
@pytest.mark.parametrize("change", ["code", "pattern"])
def test_a_spoiled_sign_is_noticed(monkeypatch: pytest.MonkeyPatch, number: int, change: str) -> None:
    """Each sign is there for a line that no other sign knows."""
    sign: Sign = SIGNS[number]
    mutants = (replace(sign, code="mutated"),) if change == "code" else ()
    monkeypatch.setattr(warnings, "SIGNS", (*SIGNS[:number], *mutants, *SIGNS[number + 1 :]))

    assert [warning_in(line) for _, line, _ in WARNINGS] != TRUE_WARNINGS


def test_the_samples_are_right_to_begin_with() -> None:
    """The verdicts that mutants are compared with are those the table demands."""
    assert expected_is_met()
    assert diagnose(End("loading", (), 1)).cause == "unknown"

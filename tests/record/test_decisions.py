"""The last decisions: in order, bounded, and the same one many times as one."""

from __future__ import annotations

from supervisor.fleet.decisions import Decision, Kind
from supervisor.record.decisions import Decisions


def kept(decisions: Decisions) -> list[tuple[str, str, int]]:
    return [(each.decision.model, each.decision.reason, each.times) for each in decisions]


def test_bounded() -> None:
    """The oldest goes."""
    decisions = Decisions(most=2)
    for name in "abc":
        decisions.add(Decision(Kind.STARTED, name, "starts"))

    assert kept(decisions) == [("b", "starts", 1), ("c", "starts", 1)]


def test_the_same_again() -> None:
    """A client that asks a failing model without end leaves one line, with the last time, and the others stay."""
    decisions = Decisions(most=3)
    decisions.add(Decision(Kind.STARTED, "a", "starts"))
    first = decisions.add(Decision(Kind.REFUSED, "b", "no"))
    for _ in range(10):
        decisions.add(Decision(Kind.STARTED, "c", "starts"))
        last = decisions.add(Decision(Kind.REFUSED, "b", "no"))

    assert kept(decisions) == [("a", "starts", 1), ("c", "starts", 10), ("b", "no", 11)]
    assert last.at >= first.at
    assert last.as_json()["times"] == 11


def test_something_else_between() -> None:
    """What came between was about this model too: then it is told again."""
    decisions = Decisions()
    decisions.add(Decision(Kind.STARTED, "a", "starts"))
    decisions.add(Decision(Kind.EVICTED, "b", "b needs a place", ("a",)))
    decisions.add(Decision(Kind.STARTED, "a", "starts"))

    assert [times for _, _, times in kept(decisions)] == [1, 1, 1]

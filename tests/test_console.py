"""What commands say, to a terminal and to everybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor import console
from supervisor.parts import Column

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = (Column("model"), Column("size", is_number=True), Column("files"))
ROWS = [("org/a[4bit]", "1", ("ok", "green")), ("b", "200", ("gone", "red"))]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """stdout and stderr as on a terminal that is wide enough."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wish of whoever runs the tests."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture
def for_programs() -> Iterator[None]:
    console.speak_json(wanted=True)
    yield
    console.speak_json(wanted=False)


def test_a_program_gets_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """No colours, no breaks; what looks like markup is none."""
    console.say("org/a[4bit] is ready ", ("x" * 300, "bold"))
    console.table(COLUMNS, ROWS)
    console.caution("odd", "look")

    output, errors = capsys.readouterr()
    assert output == f"org/a[4bit] is ready {'x' * 300}\norg/a[4bit]\t1\tok\nb\t200\tgone\n"
    assert errors == "warning: odd\nhint: look\n"


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_colours_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers stand below each other; what looks like markup is none."""
    console.say("org/a[4bit] is ", ("ready", "green"))
    console.table(COLUMNS, ROWS)
    console.problems_table([("models.a", "it is gone", "fetch it")])

    output, errors = capsys.readouterr()
    assert output.splitlines()[0] == "org/a[4bit] is \x1b[32mready\x1b[0m"
    assert [line.rstrip() for line in output.splitlines()[2:]] == [
        "org/a[4bit]     1  \x1b[32mok\x1b[0m",
        "b             200  \x1b[31mgone\x1b[0m",
    ]
    assert [word in errors for word in ("where", "models.a", "it is gone", "fetch it")] == [True] * 4


@pytest.mark.usefixtures("terminal")
def test_a_bar_is_for_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere there is nothing to see of how far a load is."""
    with console.progress_bar("loading org/a[4bit]") as show:
        show(0.5, "weights")
    assert "loading org/a[4bit]" in capsys.readouterr().out

    monkeypatch.delenv("FORCE_COLOR")  # pytest's stdout is none by itself
    with console.progress_bar("loading a") as show:
        show(0.5, "weights")
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("for_programs")
def test_where_the_log_is_json_so_are_complaints(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """They are lines of that log, with their level."""
    console.caution("odd", "look")
    console.complain("wrong")

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "odd; hint: look"),
        ("ERROR", "wrong"),
    ]
    assert capsys.readouterr().err == ""

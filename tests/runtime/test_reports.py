"""Why each model failed last, and whether its files are still what they were then."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from supervisor.config.values import Config, Model, Server
from supervisor.llama.diagnosis import found, report
from supervisor.runtime.reports import Reports

A = Model("a", {"model": "a.gguf"})
OTHER = Model("a", {"model": "b.gguf"})
BROKEN = report("a", found("model_file_truncated"))
PASSING = report("a", found("oom_killed"))


def config(*models: Model) -> Config:
    return Config(Path("/"), Server(), {model.id: model for model in models})


class Files:
    """What the files of every model are, as far as they can be told apart."""

    def __init__(self) -> None:
        self.now = 1
        self.looks = 0

    def __call__(self, model: Model) -> tuple[object, ...]:
        self.looks += 1
        return (self.now,)


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def reports(files: Files) -> Reports:
    return Reports(config(A), files)


def test_what_no_time_mends_stands_until_a_file_is_another(reports: Reports, files: Files) -> None:
    """Then it is worth one try, and another only after another failure."""
    reports.note(BROKEN, A)
    assert reports.stands(A)
    assert not reports.is_outdated("a")

    files.now = 2
    assert not reports.stands(A)
    assert [reports.is_outdated("a") for _ in range(2)] == [True, False]
    assert reports.last == {"a": BROKEN}


def test_what_may_mend_itself_is_no_matter_of_files(reports: Reports, files: Files) -> None:
    """Nor is a model that never failed: for those nobody looks at files."""
    reports.note(PASSING, A)

    assert not reports.stands(A)
    assert not reports.is_outdated("a")
    assert files.looks == 0


def test_another_config(reports: Reports) -> None:
    """A model that starts otherwise may be tried, and why it failed stays known; of one that is gone nothing is."""
    reports.note(BROKEN, A)
    reports.adopt(config(OTHER))
    assert not reports.stands(OTHER)
    assert reports.last == {"a": BROKEN}

    reports.adopt(config())
    assert reports.last == {}


def test_what_is_found_of_a_former_model_is_only_logged(reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """Its run ended after the reload."""
    reports.adopt(config(OTHER))
    reports.note(BROKEN, A)

    assert reports.last == {}
    assert not reports.stands(OTHER)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert BROKEN.hint in caplog.text

"""Where the comments of a llama-swap file stand in the file that an import writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config.llama_swap.reader import parse
from supervisor.importing.llama_swap import draft
from supervisor.importing.source import Source

MODEL = "  m:\n    cmd: docker run -p ${PORT}:80 x\n"
MATRIX = "matrix:\n  vars: {a: m}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# one\n# two\n\n# three\n\nmodels:\n" + MODEL, "# one\n# two\n#\n# three\n\n["),
        ("models:\n" + MODEL + "    # noted\n    filters:\n      stripParams: a\n", "# noted\nstrip_params = "),
        ("models:\n" + MODEL + "    # noted\n    timeouts:\n      connect: 5\n", "# noted\ntimeouts = "),
        ("# noted\n\n# it\nperformance:\n  every: 9s\nmodels:\n" + MODEL, "# it\nperformance = "),
        ("models:\n" + MODEL + MATRIX + "  # noted\n  sets: {s: a}\n", "# noted\nsets = "),
        ("models:\n" + MODEL + MATRIX + "  sets: {s: a}\n  evict_costs:\n    a: 5 # noted\n", "}  # noted\n"),
        ("models:\n" + MODEL + "    ttl: 5  # noted\n", 'ttl = "5s"  # noted\n'),
        ("models:\n" + MODEL + "    aliases:\n      # noted\n      - a\n", "# noted\naliases = "),
        ("models:\n" + MODEL + "    # ttl: 5\n", 'cmd = "docker run -p ${PORT}:80 x"\n'),
        ("models:\n  # noted\n" + MODEL, "# noted\n[models.m]\n"),
        (
            "models:\n" + MODEL + "logTimeFormat: ansic  # noted\n",
            "Noted at `logTimeFormat` in c.yaml, which has no place",
        ),
    ],
)
def test_where_it_stands(text: str, line: str) -> None:
    """At the key that says the same now, the first one for a table of several; else at the model, else at the end."""
    config = parse(text, base=Path("/base"), environ={})
    page = draft(Source("c.yaml", text, config, {})).page.render()

    assert line in page
    assert page.count("noted") == text.count("noted")

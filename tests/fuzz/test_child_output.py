"""What a child may print: any bytes, on both pipes; it is logged, understood where it can be, and breaks nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.config.values import Model
from supervisor.fleet.values import Phase, Run
from supervisor.llama import protocol
from supervisor.llama.diagnosis import End, diagnose, report
from supervisor.llama.endpoint import TcpEndpoint
from supervisor.runtime.child import Child
from supervisor.runtime.hearing import became_ready, listen, load_report
from supervisor.runtime.live import LiveRun
from supervisor.runtime.logs import LINE_LIMIT, Logs
from supervisor.runtime.tuning import Tuning
from tests.failures import samples
from tests.fuzz.mutation import ODD, example, numbers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzz.mutation import Random

STATES = ("loading", "ready", "sleeping", "x", "", None, 1, [], {})
NUMBERS = (0, 1, 0.5, -1, 1e308, float("nan"), float("inf"), 10**400, "0.5", None, True, [], {})
LINES = [
    line.encode()
    for name in dir(samples)
    if isinstance(found := getattr(samples, name), tuple)
    for each in found
    if isinstance(each, samples.Sample)
    for line in each.lines
]
SPEEDS = (
    b"eval time = 10.00 ms / 5 tokens (2.00 ms per token, 500.00 tokens per second)",
    b"eval time = 1 tokens 1.2.3 tokens per second",
    b"eval time ... tokens per second",
    b"prompt eval time = 1 ms ( 1 tokens per second)",
)


def told(random: Random) -> bytes:
    """A line of the child protocol, more or less."""
    payload: Any = {
        random.choice(("current", "stage", "x")): random.choice(("weights", None, 5, [])),
        "value": random.choice(NUMBERS),
        "meta": random.choice(({"size": random.choice(NUMBERS), "n_ctx": random.choice(NUMBERS)}, None, [], "x")),
    }
    message = {"state": random.choice(STATES), "payload": random.choice((payload, payload, payload, None, [], "x", 1))}
    kind = random.choice(("state", "state", "ready", "sleep", "info", "x", ""))
    return f"{protocol.PREFIX}{kind}:{json.dumps(message)}".encode()


def printed(random: Random) -> bytes:
    """Some lines, ended or not."""
    lines = []
    for _ in range(random.randint(1, 8)):
        line = random.choice((told(random), random.choice(LINES), random.choice(SPEEDS), random.choice(ODD)))
        lines.append(random.mutated(line, 2) if random.chance(0.5) else line)
    return random.choice((b"\n", b"\n", b"\r\n", b"")).join(lines) + random.choice((b"\n", b""))


@pytest.mark.parametrize("speaks", [True, False], ids=["llama-server", "command"])
@pytest.mark.anyio
async def test_any_output(tmp_path: Path, speaks: bool) -> None:
    """Whatever comes on stdout and stderr is kept as clean lines, and every verdict on it can be shown."""
    for number in numbers(150):
        with example("child output", number) as random:
            logs = Logs(16 * 1024)
            live = LiveRun(
                Run(
                    1,
                    Model("m", options={"ctx-size": random.choice((0, 512, "x"))}),
                    phase=Phase.STARTING,
                    started_at=0.0,
                    used_at=0.0,
                )
            )  # type: ignore[arg-type]
            live.child = child = _child(tmp_path, logs, live, speaks=speaks)
            for _ in range(random.randint(1, 6)):
                data = printed(random)
                stream = random.choice(("stdout", "stderr"))
                for piece in random.cut(data):
                    child._output(stream, piece)
            for splitter in child._splitters.values():
                splitter.close()
            end = End(
                random.choice(("loading", "serving")), tuple(child._stderr), random.choice((0, 1, 3, -9, -11, -99))
            )
            json.dumps(report("m", diagnose(end), end=end).as_json())
            json.dumps([warning.message for warning in live.warnings.values()])
            for line in logs.of("m").lines():
                assert line.text.isprintable() or "\t" in line.text or not line.text.isascii()
                assert len(line.text) <= LINE_LIMIT
            if child.progress is not None:
                assert 0.0 <= child.progress.fraction <= 1.0
            if live.load is not None:
                json.dumps(live.load.as_json(), allow_nan=False)


def _child(tmp_path: Path, logs: Logs, live: LiveRun, *, speaks: bool) -> Child:
    command: Any = SimpleNamespace(
        speaks_protocol=speaks, argv=("x",), stop=(), env={}, cwd=tmp_path, endpoint=TcpEndpoint(1)
    )

    def ready(payload: Any) -> None:
        became_ready(live, payload, load_report(live, payload, Tuning(), None))

    return Child(
        command,
        check_endpoint="/health",
        load_timeout=1,
        load_limit=1,
        stop_timeout=1,
        redact=lambda text: text,
        log=logs.writer("m", 1),
        on_line=lambda text: listen(live, text),
        on_ready=ready,
    )

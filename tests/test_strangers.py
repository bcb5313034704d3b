"""What a client writes must not be taken for what a child says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.llama.diagnosis import End, diagnose

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import RunningService


def test_a_request_that_quotes_a_device_error_harms_nobody(start: Callable[..., RunningService], tiny: Path) -> None:
    """llama-server logs words of a bad request; they neither kill it nor open the breaker."""
    service = start(f'[models.a]\nmodel = "{tiny}/tiny-a.gguf"\nctx-size = 256\n')
    service.chat("a")
    pid = service.pid("a")

    for words in ("CUDA error: boom", "x\nCUDA error: boom", "device lost on you"):
        answer = service.chat("a", response_format={"type": words})
        assert answer.status_code < 500

    assert service.chat("a").status_code == 200
    assert service.pid("a") == pid


@pytest.mark.parametrize(
    "line",
    [
        '0.12.345.678 W srv    operator(): got exception: {"error":{"message":"CUDA error: boom"}}',
        "0.12.345.678 E srv    operator(): got exception: CUDA error: boom",
        "0.12.345.678 I slot update_slots: prompt: CUDA error: out of memory",
    ],
)
def test_quoted_errors_are_no_reason_for_a_crash(line: str) -> None:
    """A crash is not explained by what a client had written."""
    assert diagnose(End("serving", (line,), -11)).cause == "killed_by_signal"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("0.12.345.678 E CUDA error: an illegal memory access was encountered", "gpu_error"),
        ("0.12.345.678 E ggml_cuda_error: CUDA error: unspecified launch failure", "gpu_error"),
        ("ggml_vulkan: device lost on Vulkan0", "gpu_error"),
        ("CUDA error: out of memory", "out_of_device_memory"),
        ("/src/ggml-rpc.cpp:547: Remote RPC server crashed or returned malformed response", "rpc_unreachable"),
    ],
)
def test_its_own_errors_are(line: str, cause: str) -> None:
    """A message of the child's own, with or without time and function before it, explains its end."""
    assert diagnose(End("serving", ("all is well", line), -6)).cause == cause


def test_an_old_error_does_not_explain_a_late_end() -> None:
    """What a child has survived long ago is not what killed it."""
    lines = ("0.12.345.678 E CUDA error: out of memory", *(f"line {number}" for number in range(200)))

    assert diagnose(End("serving", lines, -11)).cause == "killed_by_signal"


def test_the_kernels_word_comes_first() -> None:
    """When the OOM killer was at work, that is the reason of a SIGKILL."""
    end = End("serving", ("CUDA error: boom",), -9, was_out_of_memory=True)

    assert diagnose(end).cause == "oom_killed"


def test_a_wrong_check_endpoint_is_told(start: Callable[..., RunningService]) -> None:
    """A server that answers, but never 200, is not waited for as if it were loading."""
    service = start('[models.files]\ncmd = "python3 -m http.server ${PORT} --bind 127.0.0.1"\nload_timeout = "600ms"\n')

    error = service.chat("files").json()["error"]

    assert error["code"] == "check_endpoint_wrong"
    assert "`GET /health` with status 404" in error["message"]

"""What every request has to be answered with: asked of each llama-server itself, before anything is broken."""

from __future__ import annotations

import json
import random
import string
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from supervisor.runtime.command_lines import free_port
from tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CHAT, EMBED, TOKENIZE = "/v1/chat/completions", "/v1/embeddings", "/tokenize"
LENGTHS = (3, 20, 120)
"""Tokens of an answer; the tiny models never end by themselves."""
PROMPTS = ("hello there", "tell me a story", "one two three")
OPTIONS = ("--ctx-size", "512", "--parallel", "1", "--fit", "off", "--threads", "1")
"""One slot and one thread: batches of several requests would round differently, and greedy choices could change."""
LARGE = 700_000
"""Bytes of an upload that is passed on while it comes, or has to be kept whole."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and what the one right answer to it holds."""

    model: str
    path: str
    body: Mapping[str, Any]
    answer: Any = field(repr=False)
    """Text and counted tokens of a chat, the vector of an embedding, the tokens of a text."""


def questions(binary: Path, models: Mapping[str, Path], *, seed: int) -> list[Question]:
    """All that will be asked, with the answers of a llama-server that nobody supervises."""
    found: list[Question] = []
    for name, path in models.items():
        port = free_port()
        argv = [binary, "-m", path, *OPTIONS, "--host", "127.0.0.1", "--port", str(port), "--no-webui"]
        extra = ["--embeddings"] if name == "embed" else []
        server = subprocess.Popen([*argv, *extra], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
                eventually(lambda http=http: _is_healthy(http))  # type: ignore[misc]
                found += [_asked(http, name, *each) for each in _requests(name, seed)]
        finally:
            server.kill()
            server.wait()
    return found


def _requests(name: str, seed: int) -> Sequence[tuple[str, dict[str, Any]]]:
    if name == "embed":
        return [(EMBED, {"model": name, "input": prompt}) for prompt in PROMPTS]
    chats = [(CHAT, _chat(name, prompt, length)) for prompt in PROMPTS for length in LENGTHS]
    words = random.Random(seed).choices(string.ascii_lowercase + " ", k=LARGE)
    return [*chats, (TOKENIZE, {"model": name, "content": "".join(words)})]


def _chat(name: str, prompt: str, length: int) -> dict[str, Any]:
    greedy = {"temperature": 0, "seed": 1, "cache_prompt": False, "max_tokens": length}
    return {"model": name, "messages": [{"role": "user", "content": prompt}], **greedy}


def _asked(http: httpx.Client, name: str, path: str, body: dict[str, Any]) -> Question:
    answer = http.post(path, json=body)
    answer.raise_for_status()
    return Question(name, path, body, essence(path, answer.json()))


def essence(path: str, answer: Any) -> Any:
    """What of an answer must be the same every time."""
    if path == EMBED:
        return [round(each, 4) for each in answer["data"][0]["embedding"]]
    if path == TOKENIZE:
        return hash(json.dumps(answer["tokens"]))
    usage = answer["usage"]
    text = answer["choices"][0]["message"]["content"]
    return text, usage["prompt_tokens"], usage["completion_tokens"]


def _is_healthy(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False

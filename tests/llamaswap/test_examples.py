"""Five configs as people have them, each used for a day's work in a few requests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.conftest import alive, eventually
from tests.llamaswap.children import CHILD, running_server
from tests.llamaswap.conftest import Swap, seen, sent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SINGLE_GPU = """
# one GPU: whichever model is asked for is the one that is loaded
healthCheckTimeout: 500
logLevel: info
globalTTL: 600
macros:
  llama: >
    <child>
    --n-gpu-layers 99 --flash-attn on
models:
  "qwen3-32b":
    name: "Qwen3 32B"
    description: "for thinking"
    aliases: ["gpt-4o", "claude-sonnet-4"]
    cmd: |
      ${llama}
      --model /models/Qwen3-32B-Q4_K_M.gguf
      --ctx-size 32768   --jinja
    filters:
      stripParams: "temperature, top_p"
  "gemma3-4b":
    cmd: |
      ${llama} \\
        --model /models/gemma-3-4b.gguf
    ttl: 60
    env: ["CUDA_VISIBLE_DEVICES=0", "TEST_GPU=0"]
"""


def test_single_gpu(start_swap: Callable[..., Swap]) -> None:
    """A model at a time: a request for another one waits until the first has answered, then swaps."""
    swap = start_swap(SINGLE_GPU)
    body = sent(swap.ask("gpt-4o", temperature=0.1, min_p=0.2))
    first = swap.child_pid("qwen3-32b")
    held = swap.hold("qwen3-32b", "long answer")
    other = swap.later(swap.ask, "gemma3-4b")
    swap.child("qwen3-32b").go("long answer")

    assert body == {"model": "gpt-4o", "min_p": 0.2}
    assert (held.result().text, other.result().status_code) == ("held", 200)
    assert swap.running() == {"gemma3-4b": "ready"}
    assert not alive(first)
    order = [(entry["event"], entry["pid"]) for entry in swap.journal()]
    assert order.index(("stop", first)) < order.index(("start", swap.child_pid("gemma3-4b")))
    assert swap.starts("qwen3-32b")[0]["argv"][-3:] == ["--ctx-size", "32768", "--jinja"]
    assert swap.starts("gemma3-4b")[0]["env"]["TEST_GPU"] == "0"


GROUP = """
# an embedding model stays beside whichever model chats
models:
  embed: {cmd: "<child> --embedding", useModelName: nomic-embed, unlisted: true}
  rerank: {cmd: "<child> --reranking"}
  chat: {cmd: "<child>"}
groups:
  always:
    swap: false
    exclusive: false
    persistent: true
    members: [embed, rerank]
hooks: {on_startup: {preload: [embed]}}
"""


def test_group(start_swap: Callable[..., Swap]) -> None:
    """The members of a group are loaded when they are asked for; one of them in advance."""
    swap = start_swap(GROUP)
    eventually(lambda: swap.running().get("embed") == "ready")
    request = seen(swap.ask("embed", path="/v1/embeddings", input="x"))

    assert (request["target"], '"nomic-embed"' in request["body"]) == ("/v1/embeddings", True)
    assert swap.ask("rerank", path="/v1/rerank").status_code == 200
    assert swap.ask("chat").status_code == 200
    assert len(swap.starts("embed")) == 1


MATRIX = """
# speech beside a small model; the large one is alone
models:
  large: {cmd: "<child>"}
  small: {cmd: "<child>"}
  kokoro: {cmd: "<child>", capabilities: {in: [text], out: [audio]}}
  whisper: {cmd: "<child>", checkEndpoint: /, capabilities: {in: [audio], out: [text]}}
matrix:
  vars: {L: large, s: small, k: kokoro, w: whisper}
  evict_costs: {w: 10}
  sets:
    alone: L
    talk: s & (k | w)
"""


def test_matrix(start_swap: Callable[..., Swap]) -> None:
    """Every model of a matrix is loaded when it is asked for, speech by its own routes."""
    swap = start_swap(MATRIX)
    spoken = seen(swap.ask("kokoro", path="/v1/audio/speech", input="hello", voice="af"))
    voices = seen(swap.get("/v1/audio/voices?model=kokoro"))
    heard = seen(swap.post("/v1/audio/transcriptions", data={"model": "whisper"}, files={"file": ("a.wav", b"RIFF")}))

    assert (spoken["target"], voices["target"]) == ("/v1/audio/speech", "/v1/audio/voices?model=kokoro")
    assert "RIFF" in heard["body"]
    assert swap.ask("large").status_code == 200
    assert swap.ask("small").status_code == 200
    flags = {entry["id"]: entry.get("capabilities") for entry in swap.get("/v1/models").json()["data"]}
    assert (flags["kokoro"], flags["whisper"]) == ({"audio_speech": True}, {"audio_transcriptions": True})


DOCKER = """
# containers: the client is our child, and only `docker stop` ends the server
models:
  vllm:
    proxy: "http://127.0.0.1:${PORT}"
    cmd: |
      <dir>/docker run --name ${MODEL_ID} --init --rm
        -p ${PORT}:8000
        -e HF_TOKEN=none
        vllm/vllm-openai --model x
    cmdStop: <dir>/docker stop ${MODEL_ID}
    unloadTimeout: 60
"""
DOCKER_PROGRAM = """#!/bin/sh
# as docker: `run` stays in the foreground beside a server that is not its child and that no signal to it reaches
echo "$@" >> {directory}/docker.log
case "$1" in
run)
    port=${{7%%:*}}
    setsid {python} {child} --journal {directory}/journal --id "$3" --port "$port" > {directory}/container.log 2>&1 &
    echo $! > {directory}/"$3".pid
    trap '' TERM
    while kill -0 "$(cat {directory}/"$3".pid)" 2> /dev/null; do sleep 0.02; done
    ;;
stop)
    kill "$(cat {directory}/"$2".pid)"
    ;;
esac
"""


def test_docker(tmp_path: Path, start_swap: Callable[..., Swap]) -> None:
    """A container is started by `cmd`, reached at its published port, and ended by `cmdStop`."""
    directory = tmp_path / "swap1"
    directory.mkdir()
    docker = directory / "docker"
    docker.write_text(DOCKER_PROGRAM.format(directory=directory, python=sys.executable, child=CHILD))
    docker.chmod(0o755)
    swap = start_swap(DOCKER)
    swap.ask("vllm").raise_for_status()
    server = swap.child_pid("vllm")
    assert swap.get("/running").json()["running"][0]["proxy"] == f"http://127.0.0.1:{swap.start_port}"
    response = swap.get("/unload")

    assert response.text == "OK"
    eventually(lambda: not alive(server))
    assert (directory / "docker.log").read_text().splitlines()[-1] == "stop vllm"
    assert swap.ask("vllm").status_code == 200


PEERS = """
# a small model here, the others elsewhere
apiKeys: ["for-our-users"]
models:
  local: {cmd: "<child>"}
peers:
  cloud:
    proxy: <cloud>/api
    apiKey: "bought"
    models: [openai/gpt-5, meta/llama]
    filters: {setParams: {provider.data_collection: deny}}
  workstation:
    proxy: <workstation>
    models: [big]
"""


def test_peers(start_swap: Callable[..., Swap]) -> None:
    """One address and one key for all: each peer gets what is meant for it, and nothing else."""
    with running_server() as cloud, running_server() as workstation:
        swap = start_swap(PEERS.replace("<cloud>", cloud.url).replace("<workstation>", workstation.url))
        swap.client.headers["authorization"] = "Bearer for-our-users"
        bought, big, here = (seen(swap.ask(name)) for name in ("openai/gpt-5", "workstation/big", "local"))
        ids = [entry["id"] for entry in swap.get("/v1/models").json()["data"]]

    assert (bought["target"], bought["headers"]["authorization"]) == ("/api/v1/chat/completions", "Bearer bought")
    assert '"data_collection":"deny"' in bought["body"].replace(" ", "")
    assert "authorization" not in big["headers"]
    assert '"big"' in big["body"]
    assert "authorization" not in here["headers"]
    assert ids == ["cloud/meta/llama", "cloud/openai/gpt-5", "local", "workstation/big"]

"""Whole files: one with every key, and five as people have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from supervisor.config import schema
from supervisor.config.expressions import Either, Included, Single, Together
from supervisor.config.llama_swap.reader import parse
from supervisor.config.llama_swap.schema import FILTERS, TABLES, TIMEOUTS
from supervisor.config.routing import DEFAULT_GROUP, Group, Groups, Matrix
from supervisor.config.values import (
    Capabilities,
    Config,
    Console,
    Filters,
    Management,
    Model,
    Overload,
    Peer,
    Performance,
    Profile,
    Selector,
    Server,
    Strategy,
    Timeouts,
    Transport,
)

FOLDER = Path(__file__).parent / "llama_swap"
ENVIRON = {
    "SWAP_KEY": "sk-first",
    "CELLAR_KEY": "sk-cellar",
    "HF_TOKEN": "hf_secret",
    "OWN_KEY": "sk-own",
    "OPENROUTER_API_KEY": "sk-or",
}


def read(name: str) -> Config:
    return parse((FOLDER / f"{name}.yaml").read_text("utf-8"), base=Path("/"), environ=ENVIRON)


KEYS = {**TABLES, "peers.NAME.filters.": FILTERS, "peers.NAME.timeouts.": TIMEOUTS}


def known_paths() -> set[str]:
    """Every key by its path, `NAME` for what the user calls something."""
    return {f"{table}{key}" for table, keys in KEYS.items() for key in keys}


def paths_of(tree: dict[str, object], table: str = "") -> set[str]:
    """The keys of a file, the same way."""
    found = set()
    for key, value in tree.items():
        path = f"{table}{key}"
        found.add(path)
        for below, named in ((f"{path}.", False), (f"{path}.NAME.", True)):
            if any(known.startswith(below) for known in KEYS) and isinstance(value, dict):
                for each in value.values() if named else [value]:
                    found |= paths_of(each, below)
    return found


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.iterdir())])
def test_examples_load_without_a_warning(name: str) -> None:
    """Nothing in them is odd."""
    assert read(name).warnings == ()


OTHERWISE = {"groups", "matrix", "models.NAME.healthCheckTimeout"} | {
    f"{owner}.NAME.filters.strip_params" for owner in ("models", "peers")
}
"""Older ways to say the same, which exclude the new ones, and a key of a model that only earns a warning."""


def test_the_file_with_everything_has_every_key() -> None:
    """In its own place; what is called the same elsewhere does not count."""
    found = paths_of(yaml.safe_load((FOLDER / "everything.yaml").read_text("utf-8")))

    assert found >= known_paths() - OTHERWISE
    assert not found & OTHERWISE


SPELLINGS = [
    (path + key, name.strip())
    for path, keys in TABLES.items()
    for key, known in keys.items()
    for name in known.toml.split(",")
    if name.strip()
]


@pytest.mark.parametrize(("key", "spelling"), SPELLINGS)
def test_its_spelling_in_models_toml(key: str, spelling: str) -> None:
    """What the docs say a key is called in models.toml is a key there."""
    table, _, name = spelling.rpartition("] ")
    place = {
        "": schema.MODEL,
        "[defaults": schema.DEFAULTS,
        "[server": schema.SERVER,
        "[peers.NAME": schema.PEER,
        "[selectors.NAME": schema.SELECTOR,
        "[profiles.NAME": schema.PROFILE,
        "[groups.NAME": schema.GROUP,
        "[matrix": schema.MATRIX,
    }[table if "]" in spelling else CONTINUED.get(key, "")]
    inner = {"timeouts": schema.TIMEOUTS, "capabilities": schema.CAPABILITIES, "performance": schema.PERFORMANCE}
    first, _, rest = name.partition(".")

    assert first in place
    assert not rest or rest in inner[first]


CONTINUED = {"peers.NAME.filters": "[peers.NAME"}
"""Spellings with commas, of which only the first names its table."""


def test_everything() -> None:
    """Each key arrives where it belongs."""
    config = read("everything")

    assert config.server == Server(
        host="",
        management=Management.PRIVATE,
        max_loaded=3,
        stop_timeout=20.0,
        log_level="warning",
        log_time_format="rfc3339",
        log_to_stdout=Console.BOTH,
        api_keys=("sk-first", "sk-second"),
        allowed_hosts=("*",),
        are_hosts_checked_for_models=False,
        ignore_paths=(r"\.(?:woff2|map)$",),
        aliases_in_list=True,
        start_port=9000,
        preload=("large",),
        metrics_max_in_memory=500,
        capture_buffer=20 * 1024**2,
        store="activity.db",
        session_id_headers=("X-Session",),
        performance=Performance(disabled=True, every=15.0),
    )
    assert config.models["large"] == Model(
        "large",
        cmd=(
            *("/usr/local/bin/llama-server", "--host", "127.0.0.1", "--port", "9001"),
            *("--model", "/models/large.gguf", "--ctx-size", "8192", "--alias", "large"),
        ),
        shown_cmd="/usr/local/bin/llama-server --host 127.0.0.1 --port 9001\n"
        "--model /models/large.gguf\n--ctx-size 8192 \\\n--alias large",
        cmd_stop=("kill", "-s", "INT", "${PID}"),
        proxy="http://127.0.0.1:9001",
        port=9001,
        aliases=("fast", "large:think"),
        env={"CUDA_VISIBLE_DEVICES": "0"},
        transport=Transport.TCP,
        load_timeout=60.0,
        load_limit=60.0,
        stall_timeout=None,
        unload_timeout=5.0,
        ttl=300.0,
        concurrency=3,
        overload=Overload.REFUSE,
        timeouts=Timeouts(1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        ignore_websockets=True,
        use_model_name="large-instruct",
        filters=Filters(strip=("min_p", "top_k"), force={"chat_template_kwargs.enable_thinking": False}),
        filters_by_name={
            "large:think": Filters(strip=("min_p", "top_k"), force={"chat_template_kwargs.enable_thinking": True})
        },
        capabilities=Capabilities(("text", "image"), ("text",), tools=True, reranker=True, context=8192),
        name="Large",
        description="The big one.",
        unlisted=True,
        metadata={"context": 8192},
    )
    assert config.models["small"].ttl == 900
    assert config.models["small"].send_loading_state
    assert config.models["embedder"].check_endpoint == ""
    assert config.routing == Groups(
        {
            "always": Group(("embedder", "small"), swap=False, exclusive=False, persistent=True),
            DEFAULT_GROUP: Group(("large",)),
        }
    )
    assert config.priorities == {"embedder": 10}
    assert config.profiles == {
        "coding": Profile({"gpt-4o": "large", "dall-e-3": None, "help": "pool"}, "For writing programs.")
    }
    assert config.selectors == {
        "pool": Selector(
            Strategy.SPILLOVER, ("small", "embedder"), 4, "Pool", "Whoever has time.", True, {"kind": "pool"}
        )
    }
    assert config.peers["cellar"] == Peer(
        "http://cellar.lan:8080/base",
        ("huge",),
        api_key="sk-cellar",
        timeouts=Timeouts(5.0, 6.0, 7.0, 8.0, 9.0, 10.0),
        filters=Filters(strip=("user",), force={"cache_prompt": True}),
        filters_by_name={"huge": Filters(strip=("user",), force={"cache_prompt": True, "temperature": 0.1})},
    )
    assert config.secrets == {"sk-first", "sk-second", "sk-cellar"}


def test_one_card() -> None:
    """One model at a time, each on the port of its place in the alphabet."""
    config = read("single_gpu")

    qwen = config.models["qwen3-30b-a3b"]
    assert config.server.max_loaded == 1
    assert qwen.cmd[:6] == ("/opt/llama.cpp/llama-server", "--port", "5801", "--n-gpu-layers", "99", "--flash-attn")
    assert qwen.cmd[-3:] == ("--ctx-size", "32768", "--jinja")
    assert (qwen.ttl, qwen.load_limit, qwen.aliases) == (600, 500, ("gpt-4o", "qwen"))
    assert config.models["gemma-3-12b"].proxy == "http://localhost:5800"
    assert config.models["gemma-3-12b"].env == {"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1"}


def test_an_embedder_beside_language_models() -> None:
    """A merged model has its own id in its command."""
    config = read("groups")

    assert config.models["mistral"].cmd[-1] == "/models/mistral.gguf"
    assert config.models["mistral"].ttl == 120
    assert config.routing == Groups(
        {
            "embedding": Group(("bge-m3",), swap=False, exclusive=False, persistent=True),
            "chat": Group(("qwen", "mistral"), exclusive=False),
        }
    )


def test_speech_beside_either_language_model() -> None:
    """Vars stand for models, an alias may have a priority."""
    config = read("matrix")

    assert config.routing == Matrix(
        {
            "llm": Either((Single("qwen"), Single("gemma"))),
            "speaking": Together((Included("llm"), Single("kokoro-tts"))),
            "pictures": Single("sd-xl"),
        },
        {"kokoro-tts": 50},
    )
    assert config.priorities == {"kokoro-tts": 10}
    assert config.models["kokoro-tts"].use_model_name == "kokoro"
    assert config.models["kokoro-tts"].capabilities == Capabilities(("text",), ("audio",))
    assert config.models["sd-xl"].concurrency == 1


def test_containers() -> None:
    """One with a port of ours, one with a port of its own."""
    config = read("docker")

    vllm, fixed = config.models["Qwen/Qwen3-8B"], config.models["fixed"]
    assert vllm.cmd == (
        *("docker", "run", "--init", "--rm", "--name", "vllm-5800", "--gpus", '"device=0,1"', "--shm-size", "8g"),
        *("-e", "HF_TOKEN=hf_secret", "-p", "5800:8000"),
        *("vllm/vllm-openai:v0.11.0", "--model", "Qwen/Qwen3-8B"),
    )
    assert (vllm.cmd_stop, vllm.unload_timeout) == (("docker", "stop", "vllm-5800"), 60.0)
    assert vllm.timeouts.response_header is None
    assert (fixed.port, fixed.proxy, fixed.check_endpoint) == (None, "http://localhost:9503", "")
    assert config.secrets == {"hf_secret"}


def test_other_machines() -> None:
    """A name of ours wins over a peer's; profiles and selectors lead to peers by whole names."""
    config = read("peers")

    assert config.peers == {
        "office": Peer("http://office.lan:8080", ("llama-3.3-70b", "qwen")),
        "openrouter": Peer(
            "https://openrouter.ai/api",
            ("z-ai/glm-4.7",),
            api_key="sk-or",
            filters=Filters(strip=("temperature", "top_p"), force={"provider": {"data_collection": "deny"}}),
        ),
    }
    assert config.selectors["best"].targets == ("office/llama-3.3-70b", "qwen")
    assert config.profiles["away"].pins == {"best": "openrouter/z-ai/glm-4.7", "qwen": None}
    assert config.server.aliases_in_list
    assert config.secrets == {"sk-own", "sk-or"}

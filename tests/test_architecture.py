"""The import rule of the rooms: edges point down, pure rooms do no I/O, each library enters by its own doors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "supervisor"

LEVELS = (
    {"errors"},
    {"config"},
    {"llama", "fleet", "access"},
    {"importing"},
    {"record"},
    {"runtime"},
    {"proxy", "api"},
    {"systemd"},
    {"app", "household", "listening"},
    {"reloads"},
    {"server"},
    {"service_client", "service_unit", "health_command"},
    {"parts", "command_line", "told_config"},
    {"terminal"},
    {"console", "doctor"},
    {"model_words", "log_output"},
    {"local_commands", "remote_commands", "serve_command", "service_commands"},
    {"import_command"},
    {"cli"},
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
SAME_LEVEL = {("api", "proxy"), ("proxy", "api"), ("llama", "fleet"), ("fleet", "llama")} | {
    pair for other in ("llama", "fleet") for pair in (("access", other), (other, "access"))
}
"""Siblings that must not know each other."""

PURE = (
    "errors",
    "config",
    "fleet",
    "access",
    "importing",
    "llama/arguments",
    "llama/command",
    "llama/protocol",
    "llama/causes",
    "llama/diagnosis",
    "llama/devices",
    "llama/estimate",
    "llama/fit",
    "llama/flags",
    "llama/gguf_weights",
    "llama/gguf_facts",
    "llama/kv_cache",
    "llama/offloading",
    "llama/processor",
    "llama/load_mode",
    "record/exposition",
    "record/metrics",
    "record/queries",
    "record/usage",
    "proxy/loading_state",
)
IMPURE = ("config/loader", "config/key_files")
IO = {"os", "io", "socket", "subprocess", "asyncio", "anyio", "threading", "time", "random", "shutil", "tempfile"}

DOORS = {
    "tomllib": ("config/",),
    "tomlkit": ("config/", "importing/page"),
    "yaml": ("config/llama_swap/document", "config/llama_swap/comments"),
    "msgspec": (
        "config/",
        "llama/help_cache",
        "runtime/fits",
        "runtime/footprints",
        "runtime/roster",
        "runtime/rundir",
        "record/",
        "proxy/",
        "api/",
        "local_commands",
        "remote_commands",
        "doctor",
    ),
    "anyio": (
        "llama/preflight",
        "llama/help_cache",
        "llama/trial",
        "runtime/",
        "proxy/",
        "reloads",
        "server",
        "local_commands",
        "import_command",
        "api/",
    ),
    "httptools": ("proxy/front", "proxy/connection", "proxy/passing", "runtime/asking"),
    "websockets": ("proxy/websocket", "proxy/server_socket"),
    "starlette": ("proxy/", "api/", "app"),
    "uvicorn": ("server", "reloads", "proxy/front", "proxy/upgraded"),
    "watchfiles": ("runtime/config_files",),
    "httpx": ("service_client", "remote_commands", "doctor"),
    "prometheus_client": ("record/exposition",),
    "psutil": ("runtime/hardware", "runtime/sampler"),
    "pynvml": ("runtime/gpus", "runtime/nvml"),
    "rich": ("terminal",),
}
STANDARD_DOORS = {"tomllib"}


def modules() -> dict[str, ast.Module]:
    """Every module by its path below the package, without the suffix."""
    return {
        str(path.relative_to(PACKAGE).with_suffix("")): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__init__.py"
    }


MODULES = modules()


def imports(tree: ast.Module) -> set[str]:
    """Dotted names a module imports, those for type checking included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(tree: ast.Module) -> set[str]:
    """Modules of ours that a module imports, by their path."""
    paths = {
        name.removeprefix("supervisor.").replace(".", "/") for name in imports(tree) if name.startswith("supervisor.")
    }
    return paths & MODULES.keys()


def is_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place.rstrip('/')}/") for place in places)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """No room knows a room above it, nor a sibling."""
    room = module.split("/", maxsplit=1)[0]

    for imported in own_imports(MODULES[module]):
        other = imported.split("/")[0]
        assert LEVEL_OF[other] <= LEVEL_OF[room], f"{module} imports {imported}"
        assert (room, other) not in SAME_LEVEL, f"{module} imports {imported}"


def test_there_is_no_cycle() -> None:
    """Modules can be put in an order in which each imports only earlier ones."""
    waiting = {module: own_imports(tree) - {module} for module, tree in MODULES.items()}

    while waiting:
        ready = {module for module, needed in waiting.items() if not needed & waiting.keys()}
        assert ready, f"cycle among {sorted(waiting)}"
        waiting = {module: needed for module, needed in waiting.items() if module not in ready}


@pytest.mark.parametrize("module", [module for module in MODULES if is_in(module, PURE) and not is_in(module, IMPURE)])
def test_pure_rooms_do_no_io(module: str) -> None:
    """A pure module imports nothing that reads a clock, a file, a socket or a process."""
    packages = {name.split(".")[0] for name in imports(MODULES[module])}

    assert not packages & IO


@pytest.mark.parametrize("library", DOORS)
def test_each_library_enters_by_its_doors(library: str) -> None:
    """A third-party package is imported only where it is meant to be."""
    users = [module for module, tree in MODULES.items() if library in {name.split(".")[0] for name in imports(tree)}]

    assert [module for module in users if not is_in(module, DOORS[library])] == []


def test_no_library_comes_in_unseen() -> None:
    """Every third-party package has its doors listed above."""
    import sys

    known = set(DOORS) | set(sys.stdlib_module_names) | {"supervisor"}
    found = {name.split(".")[0] for tree in MODULES.values() for name in imports(tree)}

    assert found - known == set()

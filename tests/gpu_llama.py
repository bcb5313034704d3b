"""A llama-server on a machine with two GPUs that are not there: it takes of them what the test has written down.

What processes hold lies in a folder, a file each (`ScriptedReadings`); a child that finds too little ends as
llama-server does. It says of its memory what the builds say: in lines at `--verbosity 4`, or as JSON by `--log-jsonl`.

A real llama-server is an ELF file, and only of those our service asks for options and devices: `built` makes a small
one that runs this file.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path

MIB = 2**20
WORLD = "GPU_LLAMA_WORLD"
"""The variable that names the folder."""

HELP = """\
-h,    --help                           print usage and exit
-m,    --model FNAME                    model path to load
-c,    --ctx-size N                     size of the prompt context
-dev,  --device <dev1,dev2,..>          comma-separated list of devices to use for offloading
-ngl,  --n-gpu-layers N                 max. number of layers to store in VRAM
-lv,   --verbosity, --log-verbosity N   set the verbosity threshold
--log-jsonl                             log as JSON lines
-a,    --alias STRING                   set model name aliases
--host HOST                             ip address to listen
--port PORT                             port to listen
"""

LAUNCHER = """\
#include <unistd.h>
int main(int count, char **words) {
    char *argv[64] = {PYTHON, SCRIPT};
    for (int place = 1; place < count && place < 60; place++) argv[place + 1] = words[place];
    execv(PYTHON, argv);
    return 127;
}
"""


def built(folder: Path, compiler: str) -> Path:
    """A `llama-server` in this folder."""
    binary = folder / "llama-server"
    paths = {"PYTHON": sys.executable, "SCRIPT": str(Path(__file__).resolve())}
    defined = [f"-D{name}={json.dumps(value)}" for name, value in paths.items()]
    subprocess.run([compiler, "-x", "c", "-", "-o", binary, *defined], input=LAUNCHER, text=True, check=True)
    return binary


class Child:
    """One start, from its arguments to the end of its stdin."""

    def __init__(self, world: Path, options: Namespace) -> None:
        script = json.loads((world / "script.json").read_text())
        self.devices: dict[str, int] = script["devices"]
        """Bytes there are, by name."""
        self.options = options
        self._readings = world / "readings"
        self._takes: int = script["takes"].get(options.alias, 0)
        self._is_slow: bool = options.alias in script.get("slow", ())
        self._note(world)

    def _note(self, world: Path) -> None:
        """Write down how we were started."""
        with (world / "starts.jsonl").open("a") as file:
            seen = {"model": self.options.alias, "pid": os.getpid(), "argv": sys.argv[1:]}
            file.write(json.dumps(seen) + "\n")

    def run(self) -> None:
        shares = self._shares()
        self._tell(shares)
        self._take(shares)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.options.host)
        listener.listen()
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        report("loading", {"stage": "text_model", "value": 1.0})
        report("ready", {"meta": {"n_ctx": 0}})
        sys.stdin.read()
        if not self._is_slow:
            self._own().unlink()

    def _shares(self) -> dict[str, int]:
        """Of each device it may use; as llama-server does, in proportion to what is free there."""
        free = self._free()
        used = self.options.device.split(",") if self.options.device else [*self.devices]
        total = sum(free[name] for name in used)
        return {name: self._takes * free[name] // total for name in used}

    def _free(self) -> dict[str, int]:
        free = dict(self.devices)
        for path in self._readings.glob("*.json"):
            with suppress(OSError, ValueError):  # it is being written, or gone
                for name, size in json.loads(path.read_text()).items():
                    free[name] -= size
        return free

    def _take(self, shares: dict[str, int]) -> None:
        free = self._free()
        for number, (name, size) in enumerate(shares.items()):
            if size > free[name]:
                place = f"allocating {size / MIB:.2f} MiB on device {number}"
                log(
                    self.options,
                    f"ggml_backend_cuda_buffer_type_alloc_buffer: {place}: cudaMalloc failed: out of memory",
                )
                log(self.options, f"alloc_tensor_range: failed to allocate {name} buffer of size {size}")
                sys.exit(1)
        written = self._own().with_suffix(".new")
        written.write_text(json.dumps(shares))
        written.rename(self._own())

    def _own(self) -> Path:
        return self._readings / f"{os.getpid()}.json"

    def _tell(self, shares: dict[str, int]) -> None:
        """Weights, cache and buffers, 8 to 1 to 1."""
        parts = {name: (size * 8 // 10, size // 10, size // 10) for name, size in shares.items()}
        if self.options.log_jsonl:
            rows = [{"kind": "device", "name": name, "self": sum(sizes) / MIB} for name, sizes in parts.items()] + [
                {"kind": "host", "name": "Host", "self": 0, "model": 0, "context": 0, "compute": 0}
            ]
            record({"type": "fit_memory_breakdown", "data": {"unit": "MiB", "rows": rows}})
        if self.options.verbosity < 4:
            return
        for name, (weights, cache, compute) in parts.items():
            log(self.options, f"load_tensors:        {name} model buffer size = {weights / MIB:9.2f} MiB")
            log(self.options, f"llama_kv_cache:      {name} KV buffer size = {cache / MIB:9.2f} MiB")
            log(self.options, f"sched_reserve:      {name} compute buffer size = {compute / MIB:9.2f} MiB")
            log(self.options, f"sched_reserve:  {name}_Host compute buffer size =    16.00 MiB")


def log(options: Namespace, text: str) -> None:
    if options.log_jsonl:
        record({"type": "log", "time": 0, "level": "info", "msg": text})
    else:
        os.write(2, f"{text}\n".encode())


def record(message: object) -> None:
    os.write(2, (json.dumps(message) + "\n").encode())


def report(state: str, payload: object) -> None:
    os.write(1, f"cmd_child_to_router:state:{json.dumps({'state': state, 'payload': payload})}\n".encode())


def answer(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")


def main() -> None:
    parser = ArgumentParser(add_help=False)
    for flag in ("--help", "--version", "--list-devices", "--log-jsonl"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--verbosity", type=int, default=3)
    parser.add_argument("--device", default="")
    for flag in ("--model", "--ctx-size", "--n-gpu-layers", "--alias", "--host", "--port"):
        parser.add_argument(flag, default="")
    options = parser.parse_args()
    if options.help:
        sys.stdout.write(HELP)
    elif options.version:
        sys.stdout.write("version: 1 (scripted)\n")
    elif options.list_devices:
        sys.stdout.write(listing(Path(os.environ[WORLD])))
    else:
        Child(Path(os.environ[WORLD]), options).run()


def listing(world: Path) -> str:
    devices: dict[str, int] = json.loads((world / "script.json").read_text())["devices"]
    lines = (f"  {name}: a card ({size // MIB} MiB, {size // MIB} MiB free)\n" for name, size in devices.items())
    return "Available devices:\n" + "".join(lines)


if __name__ == "__main__":
    main()

"""The commands that ask a running service: ps, load, unload, logs, why, plan."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Self

import httpx
import msgspec.json

from supervisor import console, model_words
from supervisor.service_client import keeps_secret, service_client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

POLL_SECONDS = 0.2
TIMEOUT = 30.0
MOST_DECISIONS = 10
DIFFERENT = 3
"""The exit code of `plan` when there is something to do; 1 and 2 are errors everywhere."""


class Remote:
    """A running service, seen from a terminal. Every method returns an exit code."""

    def __init__(self, url: str, *, as_json: bool, key: str | None = None) -> None:
        self._url = url
        self._as_json = as_json
        self._key = key
        self._http = self._client(timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def _client(self, *, timeout: float | None) -> httpx.Client:
        return service_client(self._url, key=self._key, timeout=timeout)

    def ps(self) -> int:
        """What every model does right now."""
        status = self._get("/status")
        if status is None:
            return 1
        if self._as_json:
            _print_json(status)
        else:
            model_words.processes_table(status["models"])
            if status["queue"]:
                console.say(f"{len(status['queue'])} request(s) waiting")
        return 0

    def load(self, name: str) -> int:
        """Load a model, showing how it goes; 1 with its report when it fails."""
        model = self._id(name)
        if model is None:
            return 1
        # A connection of its own, for the answer comes only when the load is over, however long that takes.
        with self._client(timeout=None) as http, ThreadPoolExecutor(1) as threads:
            loading = threads.submit(http.post, "/models/load", json={"model": model, "wait": True})
            self._show_progress(model, loading)
        try:
            answer = loading.result()
        except httpx.HTTPError as exc:
            return self._unreachable(exc)
        if answer.status_code != httpx.codes.OK:
            return self._not_loaded(answer)
        found = next((row for row in self._rows([model])), None)
        if self._as_json:
            _print_json(found)
        elif found and found["process"]:
            console.say(f"{model} is ready (pid {found['process']['pid']})")
        return 0

    def _show_progress(self, model: str, loading: Future[httpx.Response]) -> None:
        with console.progress_bar(f"loading {model}") as show:
            while not wait([loading], timeout=POLL_SECONDS).done:
                progress = next((row["status"].get("progress") or {} for row in self._rows([model])), {})
                # Short of the end, for after the last byte come the context and the warm-up.
                show(0.95 * progress.get("value", 0.0), progress.get("stage", ""))
            show(1.0, "")

    def _not_loaded(self, answer: httpx.Response) -> int:
        error = answer.json().get("error", {}) if "json" in answer.headers.get("content-type", "") else {}
        if "failure" not in error:
            return self._refused(answer)
        status = self._get("/status")
        failure = status["failures"].get(error["failure"]["model"]) if status else None
        return self._failed(failure or error["failure"] | {"message": error["message"]})

    def unload(self, name: str | None, *, force: bool) -> int:
        """Unload a model and wait until it is gone; without a name, all."""
        status = self._get("/status")
        if status is None:
            return 1
        models = [self._id(name)] if name else [row["id"] for row in status["models"]]
        if None in models:
            return 1
        for model in models:
            if not self._post("/models/unload", {"model": model, "force": force}):
                return 1
        while any(row["process"] for row in self._rows(models)):
            time.sleep(POLL_SECONDS)
        return 0

    def logs(self, name: str, *, follow: bool) -> int:
        """What a model printed; with `follow`, what it prints from now on too."""
        try:
            path = f"/logs/stream/{name}" if follow else f"/logs/{name}"
            with self._http.stream("GET", path, timeout=None) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    return self._refused(answer)
                for text in answer.iter_text():
                    sys.stdout.write(text)
                    sys.stdout.flush()
        except httpx.HTTPError as exc:
            return self._unreachable(exc)
        return 0

    def why(self, name: str) -> int:
        """The last failure of a model, and what was decided about it."""
        model = self._id(name)
        status = self._get("/status") if model else None
        if model is None or status is None:
            return 1
        failure = status["failures"].get(model)
        if self._as_json:
            _print_json(failure)
        elif failure is None:
            console.say(f"{model} has not failed since the service started")
        else:
            model_words.report(failure)
            if not failure["current"]:
                console.say("It has started since.")
        decisions = [each for each in status["decisions"] if model in {each["model"], *each["others"]}]
        if decisions and not self._as_json:
            model_words.decisions(decisions[-MOST_DECISIONS:])
        return 0

    def plan(self) -> int:
        """What a reload would change: 0 if nothing, 3 if anything, 2 if the config cannot be used."""
        try:
            answer = self._http.get("/api/reload")
        except httpx.HTTPError as exc:
            return self._unreachable(exc)
        body = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            return self._invalid(body["error"])
        if answer.status_code != httpx.codes.OK:
            return self._refused(answer)
        if self._as_json:
            _print_json(body)
        else:
            for line in body["summary"] or ["nothing would change"]:
                console.say(line)
        return DIFFERENT if body["changes"] else 0

    def _invalid(self, error: Mapping[str, Any]) -> int:
        if self._as_json:
            _print_json(error)
        for problem in error["problems"]:
            console.complain(problem)
        console.complain(error["message"].partition("; hint")[0])
        return 2

    def _id(self, name: str) -> str | None:
        """The model behind an alias or a variant."""
        entry = self._get(f"/v1/models/{name}")
        return entry.get("variant_of", entry["id"]) if entry else None

    def _rows(self, models: Sequence[str | None]) -> list[dict[str, Any]]:
        status = self._get("/status") or {"models": []}
        return [row for row in status["models"] if row["id"] in models]

    def _failed(self, failure: Mapping[str, Any]) -> int:
        if self._as_json:
            _print_json(failure)
        else:
            model_words.report(failure)
        return 1

    def _get(self, path: str) -> dict[str, Any] | None:
        return self._answer("GET", path, None)

    def _post(self, path: str, fields: Mapping[str, object]) -> bool:
        return self._answer("POST", path, fields) is not None

    def _answer(self, method: str, path: str, fields: Mapping[str, object] | None) -> dict[str, Any] | None:
        try:
            answer = self._http.request(method, path, json=fields)
        except httpx.HTTPError as exc:
            self._unreachable(exc)
            return None
        if answer.status_code != httpx.codes.OK:
            self._refused(answer)
            return None
        body: dict[str, Any] = answer.json()
        return body

    def _refused(self, answer: httpx.Response) -> int:
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"{answer.status_code} from {answer.url}"
        hint = self._key_hint if answer.status_code == httpx.codes.UNAUTHORIZED else ""
        console.complain(message, hint)
        return 1

    @property
    def _key_hint(self) -> str:
        if self._key is None:
            return "put a key into `LLAMA_SUPERVISE_KEY`, or name its config with `-c FILE`"
        if keeps_secret(self._url):
            return "it does not know the key of this config, or of `LLAMA_SUPERVISE_KEY`"
        return "keys are not sent over a network in plain text; ask it over `https://`"

    def _unreachable(self, exc: httpx.HTTPError) -> int:
        hint = "start it, or give `--url`"
        if "CERTIFICATE" in str(exc):
            hint = "trust its certificate with `SSL_CERT_FILE`; if it is on this machine, ask 127.0.0.1"
        console.complain(f"no service answers at {self._url} ({exc})", hint)
        return 1


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")

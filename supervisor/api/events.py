"""`GET /api/events`: the state of the service as it changes, for pages that show it, in llama-swap's words.

Every message is an object of `type` and `data`, in which `data` is JSON once more, as text.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec.json

from supervisor.api.stream import Stream
from supervisor.errors import ConfigRejected, SupervisorError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from starlette.requests import Request
    from starlette.responses import Response

    from supervisor.api.service import Service
    from supervisor.config.changes import Plan
    from supervisor.config.values import Capabilities, Config, Model
    from supervisor.fleet.values import Run
    from supervisor.record.bus import Bus

HEARTBEAT_SECONDS = 15.0
"""Of silence, after which a comment shows proxies on the way, and us, that the other end is there."""
GATHERED_SECONDS = 0.1
"""How long what happens to requests waits to be told together; of the changes of one only the last is."""
HEARTBEAT = b": still here\n\n"


class Events:
    """The endpoint, and what feeds it."""

    def __init__(
        self,
        service: Service,
        bus: Bus,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._service = service
        self._bus = bus
        self._heartbeat_seconds = heartbeat_seconds
        self._read(service.config)
        self._is_due = False
        """Whether the models' states will be told at the end of this turn of the loop."""
        service.pool.on_change.append(self.models_changed)

    async def stream(self, request: Request) -> Response:
        """Everything as it is, then as it changes."""
        return Stream(self._frames(), "text/event-stream")

    # What others tell.

    def models_changed(self) -> None:
        """The state of a model is another; told once however many change in this turn of the loop."""
        if self._bus.is_heard and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._tell_models)

    def adopt(self, config: Config) -> None:
        """Tell what there is now; who listens stays."""
        self._read(config)
        self._bus.publish("uiConfig", self._page_settings(), key="")
        self.profile_changed()

    def reloaded(self, outcome: Plan | SupervisorError) -> None:
        """The config has been read again: what that has changed, or why it has changed nothing."""
        if isinstance(outcome, SupervisorError):
            problems = outcome.problems if isinstance(outcome, ConfigRejected) else ()
            self._bus.publish("configReloaded", {"error": outcome.message, "problems": problems})
        else:
            self._bus.publish("configReloaded", outcome.as_json())

    def _read(self, config: Config) -> None:
        self._models = [config.models[name] for name in sorted(config.models)]
        self._peers = list(_peers(config))
        self._entries: dict[tuple[str, str], msgspec.Raw] = {}
        """Models by id and state, encoded: there may be ten thousand, and few of them change."""

    def profile_changed(self) -> None:
        """Another profile is active, or none."""
        self._bus.publish("profileChanged", self._profile(), key="")
        self.models_changed()

    def _tell_models(self) -> None:
        self._is_due = False
        if self._bus.is_heard:
            self._bus.publish("modelStatus", self.model_status(), key="")

    # What a page is told.

    async def _frames(self) -> AsyncGenerator[bytes, None]:
        logs = self._service.logs
        with (
            self._bus.subscribe() as news,
            logs.proxy.reader(news.wake) as proxy,
            logs.upstream.reader(news.wake) as upstream,
        ):
            yield b"".join((_log("proxy", proxy.take()), _log("upstream", upstream.take()), *self._everything()))
            while not news.is_closed:
                if not await news.wait(self._heartbeat_seconds):
                    yield HEARTBEAT
                    continue
                await news.gather(GATHERED_SECONDS)
                events = news.take()
                told = self._everything() if events is None else (event.shown(frame) for event in events)
                printed = {"proxy": proxy.take(), "upstream": upstream.take()}
                frames = [*(_log(source, text) for source, text in printed.items() if text), *told]
                if frames:
                    yield b"".join(frames)

    def _everything(self) -> Iterator[bytes]:
        """All that is no log: for who has just come, and for who was too slow."""
        yield frame("modelStatus", self.model_status())
        yield frame("uiConfig", self._page_settings())
        yield frame("profileChanged", self._profile())
        yield frame("inflight", self._service.in_flight.snapshot())

    def _page_settings(self) -> dict[str, object]:
        return {"activity": {"session_id": self._service.config.server.session_id_headers}}

    def _profile(self) -> dict[str, str | None]:
        return {"active": self._service.names.active_profile}

    def model_status(self) -> list[msgspec.Raw]:
        """Our models by id, then the peers'."""
        runs = self._service.pool.fleet.by_model()
        return [*(self._entry(model, _state(runs.get(model.id))) for model in self._models), *self._peers]

    def _entry(self, model: Model, state: str) -> msgspec.Raw:
        known = self._entries.get((model.id, state))
        if known is None:
            known = self._entries[model.id, state] = _raw(_model(model, state))
        return known


def frame(kind: str, data: object) -> bytes:
    """One message. Without spaces after the colons, as llama-swap writes it."""
    text = msgspec.json.encode(data).decode()
    return b"%b%b}\n\n" % (_beginning(kind), msgspec.json.encode(text))


@lru_cache(32)
def _beginning(kind: str) -> bytes:
    return b'event:message\ndata:{"type":%b,"data":' % msgspec.json.encode(kind)


def capability_flags(capabilities: Capabilities) -> dict[str, bool]:
    """What a model can do in llama-swap's words; those that it cannot are left out."""
    inputs, outputs = capabilities.inputs, capabilities.outputs
    flags = {
        "vision": "image" in inputs,
        "audio_transcriptions": "audio" in inputs and "text" in outputs,
        "audio_speech": "text" in inputs and "audio" in outputs,
        "image_generation": "text" in inputs and "image" in outputs,
        "image_to_image": "image" in inputs and "image" in outputs,
        "function_calling": capabilities.tools,
        "reranker": capabilities.reranker,
    }
    return {name: True for name, is_so in flags.items() if is_so}


def _log(source: str, text: str) -> bytes:
    return frame("logData", {"data": text, "source": source})


def _state(run: Run | None) -> str:
    return run.phase.value if run is not None else "stopped"


def _model(model: Model, state: str) -> dict[str, object]:
    known = model.capabilities
    fields = {
        "aliases": model.aliases,
        "capabilities": capability_flags(known) if known else {},
        "context_length": known.context if known else 0,
    }
    return {
        "id": model.id,
        "name": model.name.strip(),
        "description": model.description.strip(),
        "state": state,
        "unlisted": model.unlisted,
        "peerID": "",
        **{name: value for name, value in fields.items() if value},
    }


def _peers(config: Config) -> Iterator[msgspec.Raw]:
    offered = {f"{name}/{model}": name for name, peer in config.peers.items() for model in peer.models}
    for whole_name, peer in sorted(offered.items()):
        fields = {"name": "", "description": "", "state": "", "unlisted": False, "peerID": peer}
        yield _raw({"id": whole_name, **fields})


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))

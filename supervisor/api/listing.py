"""What models there are, as OpenAI's, llama.cpp's and llama-swap's clients expect to read it."""

from __future__ import annotations

import shlex
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from supervisor.api.events import capability_flags
from supervisor.config.values import Strategy
from supervisor.fleet.names import Target
from supervisor.fleet.values import Phase, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from supervisor.api.service import Service
    from supervisor.config.values import Capabilities, Config, Model, Variant
    from supervisor.fleet.names import Meaning
    from supervisor.llama.preflight import Inspection

OWNER = "llama-supervise"
_ABLE_FIELDS = frozenset(("architecture", "capabilities", "supported_parameters", "context_length"))


class Listing:
    """The list of everything a request may name. What is cold stays as it was encoded: ten thousand may be."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._cold: dict[str, tuple[Inspection | None, tuple[tuple[str, msgspec.Raw], ...]]] = {}

    def adopt(self, config: Config) -> None:
        """Encode every entry anew."""
        self._cold.clear()

    def __call__(self, is_visible: Callable[[str], bool] | None = None) -> dict[str, object]:
        """As `GET /v1/models` answers, by name; only those that are visible to who asks."""
        models, fleet = self._service.config.models, self._service.pool.fleet
        warm = fleet.by_model().keys() | fleet.failures.keys()
        named: list[tuple[str, object]] = []
        for name, model in models.items():
            named += _named(_of(self._service, model)) if name in warm else self._of_cold(model)
        named += _named(elsewhere(self._service, models.keys()))
        if is_visible is not None:
            named = [(name, entry) for name, entry in named if is_visible(name)]
        named.sort(key=itemgetter(0))
        return {"object": "list", "data": [entry for _, entry in named]}

    def _of_cold(self, model: Model) -> tuple[tuple[str, msgspec.Raw], ...]:
        inspection = self._service.inspection(model.id)
        known = self._cold.get(model.id)
        if known is None or known[0] is not inspection:
            named = _named(_of(self._service, model))
            entries = tuple((name, msgspec.Raw(msgspec.json.encode(entry))) for name, entry in named)
            known = self._cold[model.id] = inspection, entries
        return known[1]


def _named(entries: Iterable[dict[str, object]]) -> Iterator[tuple[str, dict[str, object]]]:
    return ((str(entry["id"]), entry) for entry in entries)


def model(service: Service, name: str) -> dict[str, object]:
    """One entry of the list; raises `ModelNotFound`."""
    target = service.names.meaning(name)
    if not isinstance(target, Target) or target.peer is not None:
        return next(entry for entry in elsewhere(service) if entry["id"] in {name, _whole_name(target)})
    found = service.config.models[target.model]
    variant = found.variants.get(target.name)
    return _variant(service, found, target.name, variant) if variant else _model(service, found)


def _whole_name(meaning: Meaning) -> str:
    return meaning.whole_name if isinstance(meaning, Target) else meaning.selector


def running(service: Service) -> dict[str, object]:
    """The processes there are, in llama-swap's shape."""
    rows = []
    for run in sorted(service.pool.fleet.runs, key=lambda run: run.model.id):
        live = service.pool.live_run(run.id)
        command = live.child.command if live and live.child else None
        shown = run.model.shown_cmd or shlex.join(run.model.cmd)
        if command is not None:
            shown = command.redact(shown) if run.model.cmd else " ".join(command.shown)
        rows.append(
            {
                "model": run.model.id,
                "state": run.phase.value,
                "cmd": shown,
                "proxy": str(live.endpoint) if live and live.endpoint else "",
                "ttl": round(run.model.ttl or 0),
                "name": run.model.name,
                "description": run.model.description,
            }
        )
    return {"running": rows}


def status(service: Service, model_id: str) -> dict[str, object]:
    """`status` of a model in llama.cpp's words, and what those cannot say in more fields."""
    run = service.pool.fleet.run_of(model_id)
    if run is None:
        failure = service.pool.fleet.failures.get(model_id)
        failed: dict[str, object] = {"failed": True, "exit_code": failure.exit_code} if failure else {}
        return {"value": "unloaded", **failed}
    if run.phase is Phase.STARTING:
        live = service.pool.live_run(run.id)
        progress = live.child.progress if live and live.child else None
        shown = {"stage": progress.stage, "value": progress.fraction} if progress else None
        return {"value": "loading", "progress": shown}
    detail = "stopping" if run.phase is Phase.STOPPING else "draining" if run.retiring else None
    return {"value": "loaded", **({"detail": detail} if detail else {})}


def _of(service: Service, model: Model) -> Iterator[dict[str, object]]:
    if not model.unlisted:
        yield _model(service, model)
        for name, variant in model.variants.items():
            if not variant.unlisted:
                yield _variant(service, model, name, variant)
        if service.config.server.aliases_in_list:
            for alias in model.aliases:
                meta = {"llamaswap": {"type": "alias", "modelID": model.id}}
                yield {**_entry(service, alias), "status": status(service, model.id), "meta": meta}


def _model(service: Service, model: Model) -> dict[str, object]:
    inspection = service.inspection(model.id)
    entry: dict[str, object] = {
        **_entry(service, model.id),
        "name": model.name.strip() or (inspection.header.name if inspection and inspection.header else ""),
        "description": model.description.strip(),
        "aliases": list(model.aliases),
        "status": status(service, model.id),
        "meta": _meta(service, model, inspection),
    }
    if inspection and inspection.header:
        entry["architecture"] = _modalities(inspection)
    if model.capabilities is not None:
        entry.update(_able(model.capabilities))
    return {key: value for key, value in entry.items() if value not in ("", [])}


def _entry(service: Service, name: str) -> dict[str, object]:
    """What every entry of the list has."""
    return {"id": name, "object": "model", "created": service.started_at, "owned_by": OWNER}


def elsewhere(service: Service, taken: Collection[str] = ()) -> Iterator[dict[str, object]]:
    """Names that lead to other models: of selectors, of peers, and of the active profile where nothing hides them."""
    for name, selector in sorted(service.config.selectors.items()):
        if not selector.unlisted:
            settings = {"spillover": selector.spillover} if selector.strategy is Strategy.SPILLOVER else {}
            told = {"type": "selector", "strategy": selector.strategy.value, "targets": list(selector.targets)}
            yield {
                **_entry(service, name),
                **_described(selector.name, selector.description),
                "status": {"value": "unloaded"},
                "meta": {**selector.metadata, "llamaswap": {**selector.metadata, **told, **settings}},
            }
    for peer, offered in sorted(service.config.peers.items()):
        for model in sorted(offered.models):
            yield {
                **_entry(service, f"{peer}/{model}"),
                "name": f"{peer}: {model}",
                "status": {"value": "unloaded", **_reach(service, peer)},
                "meta": {"llamaswap": {"type": "peer", "peerID": peer}},
            }
    active = service.names.active_profile
    for pin, target in sorted(service.config.profiles[active].pins.items() if active is not None else ()):
        if target and pin not in taken and pin not in service.config.selectors:
            meta = {"llamaswap": {"type": "profile", "target": target}}
            yield {**_entry(service, pin), "status": {"value": "unloaded"}, "meta": meta}


def profiles(service: Service) -> dict[str, object]:
    """The profiles there are, and the active one."""
    rows = [
        {"id": name, "description": profile.description, "pins": {pin: to or "" for pin, to in profile.pins.items()}}
        for name, profile in sorted(service.config.profiles.items())
    ]
    return {"active": service.names.active_profile, "profiles": rows}


def _described(name: str, description: str) -> dict[str, str]:
    pairs = (("name", name.strip()), ("description", description.strip()))
    return {key: value for key, value in pairs if value}


def _reach(service: Service, peer: str) -> dict[str, object]:
    """What could be learned of a peer so far: one that cannot be reached is told apart from one that refuses."""
    return {"unreachable": True} if service.reachable(peer) is False else {}


def _able(able: Capabilities) -> dict[str, object]:
    """What a model can do, in the fields that clients look at (spec: llama-swap.md, section 1.4)."""
    architecture: dict[str, object] = {}
    if able.inputs:
        architecture["input_modalities"] = list(able.inputs)
    if able.inputs and able.outputs:
        architecture["modality"] = f"{'+'.join(able.inputs)}->{'+'.join(able.outputs)}"
    if able.outputs:
        architecture["output_modalities"] = list(able.outputs)
    return {
        "capabilities": capability_flags(able),
        **({"architecture": architecture} if architecture else {}),
        **({"supported_parameters": ["tools", "tool_choice"]} if able.tools else {}),
        **({"context_length": able.context} if able.context else {}),
    }


def _variant(service: Service, model: Model, name: str, variant: Variant) -> dict[str, object]:
    entry = _model(service, model)
    entry.pop("aliases", None)
    entry.pop("description", None)
    described = {"description": variant.description} if variant.description else {}
    return {**entry, "id": name, **described, "variant_of": model.id}


def _meta(service: Service, model: Model, inspection: Inspection | None) -> dict[str, Any]:
    """The keys llama-server uses, from the file while cold and from the child once it is ready; then the owner's."""
    meta: dict[str, Any] = {}
    if inspection and inspection.header:
        header = inspection.header
        meta = {
            "n_ctx_train": header.context_length,
            "n_embd": header.embedding_length,
            "n_vocab": header.vocabulary_size,
            "n_params": header.parameters,
            "size": inspection.size,
            "ftype": header.quantisation,
        }
    live = service.pool.live(model.id)
    told = live.ready_payload.get("meta") if live else None
    warnings = service.warnings(model.id)
    hidden = _ABLE_FIELDS if model.capabilities is not None else frozenset()
    owners = {key: value for key, value in model.metadata.items() if key not in hidden}
    aliases = {"aliases": list(model.aliases)} if model.aliases else {}
    context = {"n_ctx": model.capabilities.context} if model.capabilities and model.capabilities.context else {}
    return {
        **meta,
        **context,
        **(told if isinstance(told, dict) else {}),
        **({"warnings": warnings} if warnings else {}),
        **owners,
        "llamaswap": {**owners, "type": "model", **aliases},
    }


def _modalities(inspection: Inspection) -> dict[str, list[str]]:
    names = {"vision": "image", "audio": "audio"}
    seen = [names.get(kind, kind) for kind in inspection.projector.modalities] if inspection.projector else []
    return {"input_modalities": ["text", *seen], "output_modalities": ["text"]}


def state_of(service: Service, model_id: str) -> str:
    """One word for people: cold, failed, loading, ready, busy, draining, stopping."""
    run = service.pool.fleet.run_of(model_id)
    if run is None:
        return "failed" if model_id in service.pool.fleet.failures else "cold"
    if run.phase is Phase.READY:
        live = service.pool.live_run(run.id)
        if run.retiring in {Reason.EVICTED, Reason.UNLOADED, Reason.RELOADED, Reason.CLOSING}:
            return "draining"
        return "busy" if live and live.leases else "ready"
    return "loading" if run.phase is Phase.STARTING else "stopping"

"""What models there are, as OpenAI's, llama.cpp's and llama-swap's clients expect to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from supervisor.fleet.values import Phase, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.api.service import Service
    from supervisor.config.values import Model, Variant
    from supervisor.llama.preflight import Inspection

OWNER = "llama-supervise"
_RUNNING_STATES = {Phase.STARTING: "starting", Phase.READY: "ready", Phase.STOPPING: "stopping"}


class Listing:
    """The list of everything a request may name. What is cold stays as it was encoded: ten thousand may be."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._cold: dict[str, tuple[Inspection | None, tuple[msgspec.Raw, ...]]] = {}

    def __call__(self) -> dict[str, object]:
        """As `GET /v1/models` answers."""
        fleet = self._service.pool.fleet
        warm = fleet.by_model().keys() | fleet.failures.keys()
        data: list[object] = []
        for model in self._service.config.models.values():
            data += _of(self._service, model) if model.id in warm else self._of_cold(model)
        return {"object": "list", "data": data}

    def _of_cold(self, model: Model) -> tuple[msgspec.Raw, ...]:
        inspection = self._service.inspection(model.id)
        known = self._cold.get(model.id)
        if known is None or known[0] is not inspection:
            entries = tuple(msgspec.Raw(msgspec.json.encode(entry)) for entry in _of(self._service, model))
            known = self._cold[model.id] = inspection, entries
        return known[1]


def model(service: Service, name: str) -> dict[str, object]:
    """One entry of the list; raises `ModelNotFound`."""
    target = service.names.resolve(name)
    found = service.config.models[target.model]
    variant = found.variants.get(target.name)
    return _variant(service, found, target.name, variant) if variant else _model(service, found)


def running(service: Service) -> dict[str, object]:
    """The processes there are, in llama-swap's shape."""
    rows = []
    for run in sorted(service.pool.fleet.runs, key=lambda run: run.model.id):
        live = service.pool.live_run(run.id)
        command = live.child.command.shown if live and live.child else ()
        rows.append(
            {
                "model": run.model.id,
                "state": _RUNNING_STATES[run.phase],
                "cmd": " ".join(command),
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


def _model(service: Service, model: Model) -> dict[str, object]:
    inspection = service.inspection(model.id)
    entry: dict[str, object] = {
        "id": model.id,
        "object": "model",
        "created": service.started_at,
        "owned_by": OWNER,
        "name": model.name or (inspection.header.name if inspection and inspection.header else ""),
        "description": model.description,
        "aliases": list(model.aliases),
        "status": status(service, model.id),
        "meta": _meta(service, model, inspection),
    }
    if inspection and inspection.header:
        entry["architecture"] = _modalities(inspection)
    return {key: value for key, value in entry.items() if value not in ("", [])}


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
    return {
        **meta,
        **(told if isinstance(told, dict) else {}),
        **({"warnings": warnings} if warnings else {}),
        **model.metadata,
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
        if run.retiring in {Reason.EVICTED, Reason.UNLOADED, Reason.CLOSING}:
            return "draining"
        return "busy" if live and live.leases else "ready"
    return "loading" if run.phase is Phase.STARTING else "stopping"

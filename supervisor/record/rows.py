"""One request as a row of the record: what llama-swap's page shows of it, and what else is known (spec: section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import msgspec.json

from supervisor.errors import ModelFailed
from supervisor.record.go_time import format_time
from supervisor.record.usage import LONGEST_MESSAGE, NOTHING, Usage, error_message, unpacked, usage_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from supervisor.errors import SupervisorError
    from supervisor.record.inflight import Headers
    from supervisor.record.recording import Recording

CLIENT_LEFT = 499
"""The status of a request whose client left, or whose owner cancelled it, before there was one."""
LONGEST_NAME = 200
"""Characters of what a client may choose."""


class Row(msgspec.Struct, frozen=True):  # it is made faster than a dataclass
    """One request that has ended; the fields are the columns of the table."""

    timestamp: float
    """When it began, in seconds since the epoch."""
    model: str
    req_path: str
    resp_content_type: str
    resp_status_code: int
    cache_tokens: int
    draft_tokens: int
    draft_acc_tokens: int
    input_tokens: int
    output_tokens: int
    prompt_per_second: float
    tokens_per_second: float
    duration_ms: int
    wait_ms: int | None
    """Until the model's server was asked; None: it never was."""
    first_ms: int | None
    """Until the first byte of its answer."""
    error_msg: str
    cause: str
    """The code of the error we answered with; empty where it was none, or the server's own."""
    request_id: str
    key_name: str
    session_id: str
    metadata: str
    """JSON."""


COLUMNS = Row.__struct_fields__


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row with its number."""

    id: int
    row: Row

    def as_json(self, *, has_capture: bool) -> dict[str, object]:
        """As llama-swap's page reads it, and what else is known."""
        row = self.row
        told: dict[str, object] = {
            "wait_ms": row.wait_ms,
            "first_ms": row.first_ms,
            "error_msg": row.error_msg,
            "cause": row.cause,
            "request_id": row.request_id,
            "key_name": row.key_name,
            "session_id": row.session_id,
            "metadata": msgspec.Raw(row.metadata.encode()) if row.metadata else None,
        }
        return {
            "id": self.id,
            "timestamp": format_time("rfc3339", datetime.fromtimestamp(row.timestamp).astimezone()),
            "model": row.model,
            "req_path": row.req_path,
            "resp_content_type": row.resp_content_type,
            "resp_status_code": row.resp_status_code,
            "tokens": {
                "cache_tokens": row.cache_tokens,
                "draft_tokens": row.draft_tokens,
                "draft_acc_tokens": row.draft_acc_tokens,
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
                "prompt_per_second": row.prompt_per_second,
                "tokens_per_second": row.tokens_per_second,
            },
            "duration_ms": row.duration_ms,
            "has_capture": has_capture,
            **{name: value for name, value in told.items() if value is not None and value != ""},
        }


def row_of(
    recording: Recording, session_headers: Collection[bytes] = (), priorities: Mapping[str, int] | None = None
) -> Row:
    """What became of a request.

    `session_headers` are the names, in lower case, that tell its session; `priorities` those of models that have one.
    """
    client = recording.client
    status = client.status or CLIENT_LEFT
    usage, took = _usage_of(recording) if status == 200 else (NOTHING, 0.0)
    return Row(
        timestamp=recording.when,
        model=recording.model[:LONGEST_NAME],
        req_path=recording.path,
        resp_content_type=_text(client.answer_headers, b"content-type"),
        resp_status_code=status,
        cache_tokens=usage.cache_tokens,
        draft_tokens=usage.draft_tokens,
        draft_acc_tokens=usage.draft_acc_tokens,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        prompt_per_second=usage.prompt_per_second,
        tokens_per_second=usage.tokens_per_second,
        duration_ms=max(_ms(recording.began_at, recording.ended_at) or 0, round(took)),
        wait_ms=_ms(recording.began_at, recording.sent_at),
        first_ms=_ms(recording.began_at, recording.first_at),
        error_msg=_error_of(recording, status)[:LONGEST_MESSAGE],
        cause=_cause_of(recording.error),
        request_id=recording.request_id,
        key_name=recording.key_name,
        session_id=_session(client.headers, session_headers),
        metadata=_metadata(recording, priorities or {}),
    )


def body_of(recording: Recording) -> bytes | None:
    """The whole answer as it was before it was compressed; None if it was not kept."""
    if not recording.is_whole:
        return None
    body = b"".join(recording.kept)
    return unpacked(body, recording.encoding) if recording.encoding else body


def _usage_of(recording: Recording) -> tuple[Usage, float]:
    pieces = recording.kept
    if pieces and recording.encoding:
        body = body_of(recording)
        pieces = [body] if body else []
    if not pieces:
        return NOTHING, 0.0
    return usage_of(pieces, is_stream=recording.is_stream, is_whole=recording.is_whole)


def _error_of(recording: Recording, status: int) -> str:
    if recording.was_cancelled:
        return "cancelled by the owner of the service"
    if recording.error is not None:
        return recording.error.message
    if not recording.was_answered:
        return "the client left before the end of its answer"
    if status >= 400:
        return error_message(status, b"".join(recording.kept))
    return ""


def _cause_of(error: SupervisorError | None) -> str:
    if error is None:
        return ""
    return error.failure.cause if isinstance(error, ModelFailed) else error.code


def _session(headers: Headers, names: Collection[bytes]) -> str:
    for name, value in headers:
        if name in names:
            return value.decode(errors="replace")[:LONGEST_NAME]
    return ""


def _text(headers: Headers, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == wanted), "")[:LONGEST_NAME]


def _metadata(recording: Recording, priorities: Mapping[str, int]) -> str:
    told = {"fifo_priority": str(priorities.get(recording.model, 0))} if recording.is_local else {}
    if recording.selector:
        told["selector"] = recording.selector
    return msgspec.json.encode(told).decode() if told else ""


def _ms(begin: float, end: float | None) -> int | None:
    return None if end is None else round((end - begin) * 1000)

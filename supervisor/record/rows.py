"""One request as a row of the record: what llama-swap's page shows of it, and what else is known (spec: section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
import msgspec.json

from supervisor.record.go_time import local_time
from supervisor.record.usage import LONGEST_MESSAGE, NOTHING, Usage, error_message, unpacked, usage_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.record.ended import Ended

CLIENT_LEFT = 499
"""The status of a request whose client left, or whose owner cancelled it, before there was one."""
LONGEST_NAME = 200
"""Characters of what a client may choose."""


class Row(msgspec.Struct, frozen=True, gc=False):  # it is made faster than a dataclass
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
            "timestamp": local_time(row.timestamp),
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


def row_of(ended: Ended, priorities: Mapping[str, int] | None = None) -> Row:
    """What became of a request; `priorities` are those of models that have one."""
    status = ended.status or CLIENT_LEFT
    usage, took = _usage_of(ended) if status == 200 else (NOTHING, 0.0)
    began = ended.began_at
    return Row(
        ended.when,
        ended.model[:LONGEST_NAME],
        ended.path,
        ended.content_type.decode("latin-1")[:LONGEST_NAME],
        status,
        usage.cache_tokens,
        usage.draft_tokens,
        usage.draft_acc_tokens,
        usage.input_tokens,
        usage.output_tokens,
        usage.prompt_per_second,
        usage.tokens_per_second,
        max(round((ended.ended_at - began) * 1000), round(took)),
        None if ended.sent_at is None else round((ended.sent_at - began) * 1000),
        None if ended.first_at is None else round((ended.first_at - began) * 1000),
        (ended.message or _refusal_of(ended, status))[:LONGEST_MESSAGE],
        ended.cause,
        ended.request_id,
        ended.key_name,
        ended.session.decode(errors="replace")[:LONGEST_NAME],
        _metadata((priorities or {}).get(ended.model, 0) if ended.is_local else None, ended.selector),
    )


def body_of(ended: Ended) -> bytes | None:
    """The whole answer as it was before it was compressed; None if it was not kept."""
    if not ended.is_whole:
        return None
    body = b"".join(ended.pieces)
    return unpacked(body, ended.encoding) if ended.encoding else body


def _usage_of(ended: Ended) -> tuple[Usage, float]:
    pieces = ended.pieces
    if pieces and ended.encoding:
        body = body_of(ended)
        pieces = [body] if body else []
    if not pieces:
        return NOTHING, 0.0
    return usage_of(pieces, is_stream=ended.is_stream, is_whole=ended.is_whole)


def _refusal_of(ended: Ended, status: int) -> str:
    """What the model's server says of an answer that is no success."""
    return error_message(status, b"".join(ended.pieces)) if status >= 400 else ""


@lru_cache(1024)
def _metadata(priority: int | None, selector: str | None) -> str:
    told = {} if priority is None else {"fifo_priority": str(priority)}
    if selector:
        told["selector"] = selector
    return msgspec.json.encode(told).decode() if told else ""

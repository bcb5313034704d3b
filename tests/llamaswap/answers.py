"""What a language model's server says: the shapes that the clients of OpenAI and Anthropic read."""

from __future__ import annotations

import json
from typing import Any

WORDS = ("pong", " from ")
USAGE = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}


def answer(target: str, body: bytes) -> tuple[bytes, str] | None:
    """Body and content type; None where only an echo is known."""
    path = target.partition("?")[0]
    fields: dict[str, Any] = json.loads(body) if body.startswith(b"{") else {}
    words = [*WORDS, str(fields.get("model"))]
    match path, bool(fields.get("stream")):
        case "/v1/chat/completions", False:
            message = {"role": "assistant", "content": "".join(words)}
            return _json(_chat("chat.completion", {"message": message, "finish_reason": "stop"}))
        case "/v1/chat/completions", True:
            chunks = [{"delta": {"content": word}, "finish_reason": None} for word in words]
            chunks.append({"delta": {}, "finish_reason": "stop"})
            return _events([(None, _chat("chat.completion.chunk", chunk)) for chunk in chunks], done=True)
        case "/v1/messages", False:
            return _json(_message([{"type": "text", "text": "".join(words)}]))
        case "/v1/messages", True:
            return _events([(event["type"], event) for event in _message_events(words)], done=False)
        case "/v1/embeddings", _:
            rows = [{"object": "embedding", "index": 0, "embedding": [0.25, 0.5]}]
            return _json({"object": "list", "model": fields.get("model"), "data": rows, "usage": USAGE})
        case _:
            return None


def _chat(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "c",
        "object": kind,
        "created": 1,
        "model": "as loaded",
        "choices": [{"index": 0, **choice}],
        "usage": USAGE,
    }


def _message(content: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {"input_tokens": 1, "output_tokens": 3}
    head = {"id": "m", "type": "message", "role": "assistant", "model": "as loaded"}
    return {**head, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}


def _message_events(words: list[str]) -> list[dict[str, Any]]:
    return [
        {"type": "message_start", "message": {**_message([]), "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in words),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]


def _json(value: dict[str, Any]) -> tuple[bytes, str]:
    return json.dumps(value).encode(), "application/json"


def _events(events: list[tuple[str | None, dict[str, Any]]], *, done: bool) -> tuple[bytes, str]:
    frames = [f"event: {name}\n" * (name is not None) + f"data: {json.dumps(event)}\n\n" for name, event in events]
    return "".join([*frames, "data: [DONE]\n\n" * done]).encode(), "text/event-stream"

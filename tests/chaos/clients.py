"""Clients that ask, read, cancel and upload, and judge every answer by what it has to be."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import httpx

from tests.chaos.oracle import CHAT, TOKENIZE, Question, essence

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Sequence

    from tests.chaos.ledger import Ledger
    from tests.chaos.supervised import Supervised

LIMIT = 60.0
"""Seconds in which every request has to be answered, rightly or with an error."""
PIECES = 8
CUTS = ("model_crashed", "model_unloaded", "shutting_down")
"""What may break an answer off."""


class Mistaken(Exception):
    """Raised when an answer is not what it must be."""


class Cancelled(Exception):
    """Raised when we have enough."""


class Torn(Exception):
    """Raised when the answer broke off behind its head: no error can follow that, and its length shows the client."""


class Customer:
    """One client: one request after another, until it is cancelled."""

    def __init__(
        self, supervised: Supervised, ledger: Ledger, questions: Sequence[Question], choice: random.Random
    ) -> None:
        self._supervised = supervised
        self._ledger = ledger
        self._questions = questions
        self._choice = choice
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        """Ask until told to stop; the request under way is finished."""
        async with self._supervised.client() as http:
            while not self.stopped.is_set():
                await self._supervised.is_up.wait()
                await self.ask(http, self._choice.choice(self._questions))
                await asyncio.sleep(self._choice.uniform(0, 0.1))

    async def ask(self, http: httpx.AsyncClient, question: Question) -> bool:
        """Send one request and judge what comes; whether the answer was right."""
        supervised, ledger = self._supervised, self._ledger
        epoch, since = supervised.epoch, time.monotonic()
        streams = question.path == CHAT and self._choice.random() < 0.5
        name = f"{'stream' if streams else question.path.rpartition('/')[2]}"
        ledger.sent += 1
        try:
            async with asyncio.timeout(LIMIT):
                await (self._stream(http, question) if streams else self._whole(http, question))
        except Cancelled:
            ledger.cancelled += 1
        except Mistaken as exc:
            if not self._was_told(str(exc), question, since):
                ledger.wrong.append(f"{name} of {question.model}: {str(exc)[:400]}")
        except (httpx.HTTPError, TimeoutError, Torn) as exc:
            if isinstance(exc, Torn) and any(ledger.is_true(code, question.model, since) for code in CUTS):
                ledger.errors["broken off"] += 1
            elif supervised.epoch != epoch:
                ledger.cut += 1
            else:
                seconds = time.monotonic() - since
                ledger.lost.append(f"{name} of {question.model} after {seconds:.1f} s: {type(exc).__name__} {exc}")
        else:
            ledger.right[name] += 1
            return True
        return False

    def _was_told(self, text: str, question: Question, since: float) -> bool:
        """Whether this is an error that says truly what has happened; it is counted then."""
        try:
            error = json.loads(text)["error"]
            code = (error.get("failure") or {}).get("cause") or error["code"]
            is_ours = bool(error["message"] and error["type"])
        except (ValueError, KeyError, TypeError):
            return False
        if is_ours and self._ledger.is_true(code, question.model, since):
            self._ledger.errors[code] += 1
            return True
        return False

    async def _whole(self, http: httpx.AsyncClient, question: Question) -> None:
        content = json.dumps(question.body).encode()
        body: Any = self._slowly(content) if question.path == TOKENIZE and self._choice.random() < 0.7 else content
        headers = {"content-type": "application/json"}
        if body is not content and self._choice.random() < 0.5:
            headers["content-length"] = str(len(content))
        request = self._answer(http.build_request("POST", question.path, content=body, headers=headers), http)
        if self._choice.random() < 0.1:
            try:
                async with asyncio.timeout(self._choice.uniform(0, 0.3)):
                    await request
            except TimeoutError:
                raise Cancelled from None
            return
        answer = await request
        if answer.status_code != httpx.codes.OK:
            raise Mistaken(answer.text)
        found = essence(question.path, answer.json())
        if found != question.answer:
            raise Mistaken(f"expected {str(question.answer)[:200]!r}, got {str(found)[:200]!r}")

    async def _answer(self, request: httpx.Request, http: httpx.AsyncClient) -> httpx.Response:
        answer = await http.send(request, stream=True)
        try:
            await answer.aread()
        except httpx.RemoteProtocolError as exc:
            if answer.status_code == httpx.codes.OK and "content-length" in answer.headers:
                raise Torn(str(exc)) from exc
            raise
        finally:
            await answer.aclose()
        return answer

    async def _slowly(self, content: bytes) -> AsyncIterator[bytes]:
        size = len(content) // PIECES + 1
        for place in range(0, len(content), size):
            yield content[place : place + size]
            await asyncio.sleep(self._choice.uniform(0, 0.05))

    async def _stream(self, http: httpx.AsyncClient, question: Question) -> None:
        text, prompt, completion = question.answer
        body = {**question.body, "stream": True, "stream_options": {"include_usage": True}}
        patience = self._choice.randint(1, completion) if self._choice.random() < 0.2 else None
        got, usage, is_done, count = "", None, False, 0
        async with http.stream("POST", question.path, json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                raise Mistaken((await answer.aread()).decode(errors="replace"))
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if is_done:
                    raise Mistaken(f"more came after [DONE]: {line[:200]}")
                if line == "data: [DONE]":
                    is_done = True
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise Mistaken(line[6:])
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    got += choice["delta"].get("content") or ""
                if not text.startswith(got):
                    raise Mistaken(f"expected {text[:200]!r}, got {got[-200:]!r}")
                count += 1
                if patience is not None and count >= patience:
                    raise Cancelled
        if not is_done:
            raise httpx.ReadError(f"the stream ended without [DONE] after {got[-100:]!r}")
        told = (usage or {}).get("prompt_tokens"), (usage or {}).get("completion_tokens")
        if (got, *told) != (text, prompt, completion):
            raise Mistaken(f"expected {text[-100:]!r} and {prompt, completion}, got {got[-100:]!r} and {told}")

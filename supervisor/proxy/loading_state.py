"""What a stream says while its model loads, in the words of each API, and how the child's own stream follows it. Pure.

The progress goes where a model's reasoning does, so that clients show it and nobody takes it for an answer. What the
child then begins again, a message or a response, has begun already: it goes on under our name, its parts after ours.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol, assert_never

from supervisor.proxy.loading.chunks import ChatWords, TextWords
from supervisor.proxy.loading.message import MessageWords
from supervisor.proxy.loading.response import ResponseWords

if TYPE_CHECKING:
    from supervisor.errors import SupervisorError


class Telling(Enum):
    """In whose words a stream is told how loading goes."""

    CHAT = "chat"
    TEXT = "text"
    RESPONSES = "responses"
    MESSAGES = "messages"


class Joint(Protocol):
    """What a child's stream goes through to follow ours; as `lines.WholeLines`."""

    holds: bytes

    def feed(self, chunk: bytes) -> bytes:
        """What may go on now."""

    def rest(self) -> bytes:
        """What was held back, when the stream ended well."""


class LoadingState(Protocol):
    """One stream's words about a load."""

    def begin(self) -> bytes:
        """What stands before everything else."""

    def tell(self, text: str) -> bytes:
        """A piece of news."""

    def end(self) -> bytes:
        """What closes the news; the child's stream follows."""

    def failed(self, error: SupervisorError) -> bytes:
        """The last event, where the child's stream is missing or breaks off: the client's library raises."""

    def joint(self) -> Joint:
        """What the child's stream goes through."""


def loading_state(telling: Telling, model: str, *, token: str, created: int) -> LoadingState:
    """The words of one stream; `token` makes its ids unique, `created` is now in seconds since 1970."""
    match telling:
        case Telling.CHAT:
            return ChatWords(model, token, created)
        case Telling.TEXT:
            return TextWords(model, token, created)
        case Telling.RESPONSES:
            return ResponseWords(model, token, created)
        case Telling.MESSAGES:
            return MessageWords(model, token)
        case _:
            assert_never(telling)

"""How a thread that computes takes turns with the loop.

Python lets a thread go on for 5 ms while the loop waits, and the loop has to wait again after each thing it does. A
thread that rests now and then holds it up for less than a millisecond.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

PAUSE_SECONDS = 0.0001


def pause() -> None:
    """Let the loop go on."""
    time.sleep(PAUSE_SECONDS)


def in_turns(items: Iterable[T], at_once: int) -> Iterator[T]:
    """These, with a pause after so many if there are more."""
    for number, item in enumerate(items):
        if number and number % at_once == 0:
            pause()
        yield item

"""The terminal a process is controlled by (credentials(7), tty(4)): its signals, and who may ask somebody at it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios

_TERMINAL = "/dev/tty"


def has_terminal() -> bool:
    """Whether we, and what we start without a session of its own, have a controlling terminal."""
    try:
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def give_up_terminal() -> None:
    """Be controlled by no terminal, unless it is all ours.

    Its Ctrl-C still reaches us, for that goes to the group it has in front; what we start can no longer be stopped for
    writing or reading there. The leader of a session would take it from the whole session, so it keeps it.
    """
    if os.getsid(0) == os.getpid():
        return
    with contextlib.suppress(OSError):
        terminal = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY)
        try:
            fcntl.ioctl(terminal, termios.TIOCNOTTY)
        finally:
            os.close(terminal)

"""What the system gives us no more of: where a start fails for that, it is no fault of its model, and it may pass."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from supervisor.llama.diagnosis import found

if TYPE_CHECKING:
    from supervisor.llama.diagnosis import Diagnosis

_CAUSES = {
    errno.EMFILE: "too_many_open_files",
    errno.ENFILE: "too_many_open_files",
    errno.EAGAIN: "too_many_processes",
    errno.ENOMEM: "out_of_memory",
}


def shortage(exc: OSError) -> Diagnosis | None:
    """The cause of a start that failed by an error of the system; None if it is no shortage."""
    cause = _CAUSES.get(exc.errno or 0)
    return found(cause, evidence=(f"the service itself: {exc.strerror}",)) if cause else None

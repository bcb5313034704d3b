"""All that is kept of what has happened; it outlives whatever a new config replaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.record.activity import Activity
    from supervisor.record.metrics import Metrics
    from supervisor.record.samples import Samples


@dataclass(frozen=True, slots=True)
class Records:
    """What faces of the service read."""

    activity: Activity
    metrics: Metrics
    samples: Samples

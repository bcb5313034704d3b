"""What every face of the service looks at: the config, the names, the pool and what is known of the files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from supervisor.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config.values import Config
    from supervisor.fleet.names import Names
    from supervisor.llama.preflight import Inspection
    from supervisor.record.bus import Bus
    from supervisor.record.inflight import InFlight
    from supervisor.record.records import Records
    from supervisor.runtime.configuration import Configuration
    from supervisor.runtime.launcher import Launcher
    from supervisor.runtime.logs import Logs
    from supervisor.runtime.pool import Pool


@dataclass(frozen=True, slots=True)
class Service:
    """The running service, to be looked at and asked."""

    configuration: Configuration
    names: Names
    pool: Pool
    launcher: Launcher
    logs: Logs
    bus: Bus
    in_flight: InFlight
    reachable: Callable[[str], bool | None]
    """Whether a peer could be reached when it was last tried; None: it was not."""
    started_at: int
    """Seconds since the epoch."""
    records: Records

    @property
    def config(self) -> Config:
        """The config in force."""
        return self.configuration.config

    def inspection(self, model: str) -> Inspection | None:
        """What the last look at this model's files found; None before the first."""
        return self.launcher.inspections.get(model)

    def local(self, name: str) -> str:
        """The id of the model of ours that a name means; raises `ModelNotFound`.

        A model that the config has no more can be managed until its process has gone.
        """
        if name not in self.config.models and self.pool.fleet.run_of(name) is not None:
            return name
        target = self.names.model(name)
        if target.peer is not None:
            raise ModelNotFound(f"`{name}` is a model of the peer `{target.peer}`", hint="only it can manage it")
        return target.model

    def warnings(self, model: str) -> list[dict[str, str]]:
        """What runs otherwise than it was meant to, or will."""
        live, inspection = self.pool.live(model), self.inspection(model)
        known = [*(inspection.warnings if inspection else ()), *(live.warnings.values() if live else ())]
        return list({warning.message: asdict(warning) for warning in known}.values())

"""Why each model failed last, and what its files were then: what no time mends is worth a try once one is another."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from supervisor.config.changes import needs_another_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config.values import Config, Model
    from supervisor.errors import Failure
    from supervisor.llama.preflight import Fingerprint

logger = logging.getLogger("supervisor.pool")


class Reports:
    """The reports of the models of the config in force."""

    def __init__(self, config: Config, fingerprint: Callable[[Model], Fingerprint]) -> None:
        self.last: dict[str, Failure] = {}
        """Of every model that ever failed, whatever happened to it since."""
        self._config = config
        self._fingerprint = fingerprint
        self._lasting: dict[str, Fingerprint] = {}
        """What the files of a model were when it failed for good."""

    def adopt(self, config: Config) -> None:
        """Forget models that are gone; of those that start otherwise, that they cannot."""
        before, self._config = self._config, config
        for name in tuple(self._lasting):
            if not self.is_current(before.models[name]):
                del self._lasting[name]
        self.last = {name: report for name, report in self.last.items() if name in config.models}

    def is_current(self, model: Model) -> bool:
        """Whether the config in force would start the same process."""
        current = self._config.models.get(model.id)
        return current is not None and not needs_another_run(model, current)

    def note(self, failure: Failure, model: Model) -> None:
        """Log that this model has failed, and keep it unless the model is another one by now."""
        if self.is_current(model):
            self.last[failure.model] = failure
            if failure.permanent:
                self._lasting[failure.model] = self._fingerprint(model)
        level = logging.WARNING if failure.phase == "serving" else logging.ERROR
        hint = f"; hint: {failure.hint}" if failure.hint else ""
        logger.log(level, "%s%s", failure.message, hint, extra={"model": failure.model})

    def stands(self, model: Model) -> bool:
        """Whether it has failed for good, and its files are what they were then."""
        then = self._lasting.get(model.id)
        return then is not None and then == self._fingerprint(model)

    def is_outdated(self, name: str) -> bool:
        """Whether a model that failed for good has other files now; that is then forgotten."""
        if name not in self._lasting or self.stands(self._config.models[name]):
            return False
        del self._lasting[name]
        return True

"""A stage's progress in Prefect's interface, as a progress artifact."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

log = logging.getLogger("cmrm.flows")

# Seconds between two calls of Prefect's API for one stage.
ARTIFACT_SECONDS = 2.0
# What an artifact that could not be written raises; none is worth a run.
ARTIFACT_ERRORS = (httpx.HTTPError, PrefectException)


class StageArtifact:
    """The progress artifact of one stage of the flow run that makes it; what Prefect does not take is logged."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._shown_at = clock()
        self._artifact: UUID | None = self._create()

    def update(self, percent: float) -> None:
        """Send how far the stage is, unless that was sent a moment ago."""
        if self._clock() - self._shown_at >= ARTIFACT_SECONDS:
            self.finish(percent)

    def finish(self, percent: float) -> None:
        """Send how far the stage is."""
        self._shown_at = self._clock()
        if self._artifact is None:
            return
        try:
            update_progress_artifact(self._artifact, percent)
        except ARTIFACT_ERRORS as error:
            log.warning("Prefect shows no progress of %s any more: %s", self._name, error)
            self._artifact = None

    def _create(self) -> UUID | None:
        try:
            created = create_progress_artifact(
                0.0, key=f"cmrm-stage-{self._name}", description=f"Rows of the stage {self._name}"
            )
        except ARTIFACT_ERRORS as error:
            log.warning("Prefect shows no progress of %s: %s", self._name, error)
            return None
        assert isinstance(created, UUID)
        return created

"""Progress of a stage in Prefect's UI, as a progress artifact."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from flows.server.settings import override_settings

log = logging.getLogger("cmrm.flows")

# Seconds between two calls of Prefect's API for one stage.
ARTIFACT_SECONDS = 2.0
# Seconds without calls after a failed call.
PAUSE_SECONDS = 30.0
# Errors of writing an artifact; none may fail a run.
ARTIFACT_ERRORS = (httpx.HTTPError, PrefectException)
# Progress is sent from the job's thread: no retries, and a short timeout.
PATIENCE: Mapping[str, Mapping[str, float]] = {"client": {"max_retries": 0}, "api": {"request_timeout": 5.0}}


class StageArtifact:
    """The progress artifact of one stage of the current flow run; Prefect's errors are logged.

    It is created with the first progress that is sent, so that a short stage takes one call of the API.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._shown_at = clock()
        self._artifact: UUID | None = None
        self._refused = False
        # Of the flow run, which the artifact belongs to: a job's thread has another.
        self._context = copy_context()

    def update(self, percent: float) -> None:
        """Send the stage's progress, at most every `ARTIFACT_SECONDS`."""
        if self._clock() - self._shown_at >= ARTIFACT_SECONDS:
            self.finish(percent)

    def finish(self, percent: float) -> None:
        """Send the stage's progress."""
        self._shown_at = self._clock()
        if self._refused:
            return
        try:
            if self._artifact is None:
                self._artifact = self._context.copy().run(self._create, percent)
            else:
                with override_settings(PATIENCE):
                    update_progress_artifact(self._artifact, percent)
        except httpx.HTTPStatusError as error:
            log.warning("Prefect shows no progress of %s any more: %s", self._name, error)
            self._refused = True
        except ARTIFACT_ERRORS as error:
            log.warning("Prefect shows no progress of %s for now: %s", self._name, error)
            self._shown_at = self._clock() + PAUSE_SECONDS

    def _create(self, percent: float) -> UUID:
        with override_settings(PATIENCE):
            created = create_progress_artifact(
                percent, key=f"cmrm-stage-{self._name}", description=f"Rows of the stage {self._name}"
            )
        assert isinstance(created, UUID)
        return created

"""Isolate samples on which the model itself fails: run samples one by one, quarantine those, and continue the job."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cmrm.errors import UserError
from storage.errors import StoreError
from tasks.core.stage import Job
from tasks.shards.samples import StoredSample

log = logging.getLogger("cmrm.tasks")

# How many other samples are tried to show that a model which failed on a whole batch still works.
CONTROLS = 3
MOST_REASON = 300


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """The callbacks that find the samples of a job on which the model fails.

    `list_suspects` names the samples in flight when it failed, `list_controls` others, finished ones first. `probe`
    runs one sample alone, discards the result, and raises what the model raises. `quarantine` takes a sample and the
    reason.
    """

    list_suspects: Callable[[], Sequence[StoredSample]]
    list_controls: Callable[[], Sequence[StoredSample]]
    probe: Callable[[StoredSample], None]
    quarantine: Callable[[StoredSample, str], None]


def run_past_failures(job: Job, attempt: Callable[[], None], isolation: Isolation) -> None:
    """Run `attempt`, retrying after each error that some samples cause, which are quarantined.

    Raises the error if no sample causes it alone, and if the model fails on every sample: a broken model is no sample's
    fault. OOM, `UserError` and `StoreError` are raised unchanged.
    """
    while True:
        try:
            attempt()
        except Exception as error:
            if not may_be_of_a_sample(error):
                raise
            # Tensors referenced by its frames would occupy the memory that the next passes need.
            traceback.clear_frames(error.__traceback__)
            reasons = _find_reasons(job, error, isolation)
            if not reasons:
                raise
        else:
            return
        for stored, reason in reasons:
            isolation.quarantine(stored, reason)


def may_be_of_a_sample(error: BaseException) -> bool:
    """Whether one sample may have caused an error: not a `UserError`, `StoreError`, OOM or signal."""
    if not isinstance(error, Exception) or isinstance(error, UserError | StoreError):
        return False
    # Imports torch, which many judges do not need.
    from cmrm.models.oom import is_out_of_memory

    return not is_out_of_memory(error)


def describe_error(error: BaseException) -> str:
    """The error's type and message in one line of valid UTF-8."""
    said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return said.encode("utf-8", "replace").decode()


def _find_reasons(job: Job, error: Exception, isolation: Isolation) -> list[tuple[StoredSample, str]]:
    """The suspects on which the model fails alone, with its error; none if it fails on everything."""
    suspects = isolation.list_suspects()
    log.warning(
        "%s %s: %s; running %d samples one by one", job.stage, job.label, describe_error(error), len(suspects)
    )
    failed: list[tuple[StoredSample, str]] = []
    works = False
    for stored in suspects:
        said = _fails_with(isolation, stored)
        if said is None:
            works = True
        else:
            # Only a sample that works after the last failure shows that the device still works.
            works = False
            failed.append((stored, f"this model fails on it: {said}"[:MOST_REASON]))
    if failed and not works:
        controls = isolation.list_controls()[:CONTROLS]
        works = any(_fails_with(isolation, control) is None for control in controls)
    return failed if works else []


def _fails_with(isolation: Isolation, stored: StoredSample) -> str | None:
    try:
        isolation.probe(stored)
    except Exception as error:
        if not may_be_of_a_sample(error):
            raise
        return describe_error(error)
    return None

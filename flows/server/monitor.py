"""Monitor the health of a run's Prefect server: restart an embedded server once, and end a run whose server is lost.

Prefect's client retries a request for minutes, the final state of a flow run included. So the run stops after the
current job, and the process exits if Prefect still blocks it then.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import Enum
from typing import Protocol, TypeVar

from flows.errors import ServerLostError

# Seconds between two polls of /health, and the timeout of one.
POLL_SECONDS = 2.0
ANSWER_SECONDS = 20.0
# A server that refuses connections for this long is lost: a restart behind a load balancer takes less.
LOST_SECONDS = 30.0
# A server that takes connections and is silent for this long hangs: one that shares two CPU cores with workers that
# import torch was seen silent for 30 s.
HUNG_SECONDS = 120.0
# Startup time of a restarted server before it counts as silent.
STARTUP_SECONDS = 60.0
# Seconds that a run without a job in flight has to end before the process exits.
GRACE_SECONDS = 10.0
STATUS = 2

OneJob = TypeVar("OneJob")
Leave = Callable[[ServerLostError], None]


class Health(Enum):
    """What one poll of a server found."""

    ANSWERS = "answers"
    # Nothing listens, or the connection is closed without an answer.
    REFUSES = "refuses"
    SILENT = "silent"


class Restartable(Protocol):
    """An embedded server."""

    def has_ended(self) -> bool:
        """Whether the server process has exited."""

    def restart(self) -> None:
        """Kill the server process and restart it on the same port."""


class JobsInFlight:
    """Counts the jobs of a stage that are submitted to workers and not committed."""

    def __init__(self) -> None:
        self.count = 0

    def take(self, jobs: Iterable[OneJob]) -> Iterator[OneJob]:
        """Count each job as it is submitted."""
        for job in jobs:
            self.count += 1
            yield job

    def finish(self) -> None:
        """Count one committed job."""
        self.count -= 1


class Monitor(Protocol):
    """Knows whether the server of a run is lost, and counts the jobs in flight."""

    @property
    def is_lost(self) -> bool:
        """Whether no more jobs should be submitted."""

    def check(self) -> None:
        """Raise `ServerLostError` if the server is lost."""

    def jobs_in_flight(self) -> AbstractContextManager[JobsInFlight]:
        """Count jobs in flight, during which the process does not exit; the count ends with the body."""


class NoServer:
    """The monitor of a run without a server."""

    is_lost = False

    def check(self) -> None:
        """Never raise."""

    def jobs_in_flight(self) -> AbstractContextManager[JobsInFlight]:
        return nullcontext(JobsInFlight())


class ServerMonitor:
    """Polls a server's health in a background thread."""

    def __init__(
        self, poll: Callable[[], Health], *, where: str, embedded: Restartable | None, leave: Leave
    ) -> None:
        self._poll = poll
        self._where = where
        self._embedded = embedded
        self._leave = leave
        self._reason = ""
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._in_flight: list[JobsInFlight] = []
        self._thread = threading.Thread(target=self._watch, name="cmrm-server-monitor", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether the server has refused for `LOST_SECONDS`, or was silent for `HUNG_SECONDS`."""
        return self._lost.is_set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Poll while the body runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()

    @contextmanager
    def jobs_in_flight(self) -> Iterator[JobsInFlight]:
        """Count the jobs of one stage; a background stage has a count of its own."""
        counted = JobsInFlight()
        self._in_flight.append(counted)
        try:
            yield counted
        finally:
            self._in_flight.remove(counted)

    def check(self) -> None:
        """Raise `ServerLostError` if the server is lost."""
        if self.is_lost:
            raise self._make_error()

    def _watch(self) -> None:
        healthy_at = time.monotonic()
        failed = 0
        embedded = self._embedded
        while not self._ended.wait(POLL_SECONDS):
            health = self._poll()
            if health is Health.ANSWERS:
                healthy_at = time.monotonic()
                failed = 0
                continue
            failed += 1
            patience = LOST_SECONDS if health is Health.REFUSES and embedded is None else HUNG_SECONDS
            # One failed poll says nothing after a long gap, as on a computer that slept.
            too_long = failed > 1 and time.monotonic() - healthy_at > patience
            if embedded is not None and (too_long or embedded.has_ended()):
                embedded.restart()
                # Once only: a second restart would not help.
                embedded = None
                healthy_at = time.monotonic() + STARTUP_SECONDS
            elif embedded is None and too_long:
                self._reason = f"no answer for {patience:g} s"
                self._lost.set()
                self._leave_when_idle()
                return

    def _leave_when_idle(self) -> None:
        """Exit once no job has been in flight for `GRACE_SECONDS`: Prefect's retries then block the run."""
        idle_since = time.monotonic()
        while not self._ended.wait(0.2):
            if any(one.count > 0 for one in list(self._in_flight)):
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > GRACE_SECONDS:
                self._leave(self._make_error())
                return

    def _make_error(self) -> ServerLostError:
        return explain_loss(self._where, self._reason)


def explain_loss(where: str, reason: str) -> ServerLostError:
    """Make the error of a run whose server is lost."""
    return ServerLostError(
        f"Prefect's server at {where} fails or no longer answers ({reason}). Start it again, "
        "then run the same command again to resume: finished work is kept, even if the server's history is lost."
    )


def leave_process(error: ServerLostError) -> None:
    """Print the error in one line and exit with status 2, without waiting for blocked threads."""
    from cmrm.untrusted.redaction import redact_known
    from flows.terminal.safe_text import show_safely

    sys.stdout.flush()
    # An active progress bar has hidden the cursor.
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""
    print(f"{shown}cmrm: {show_safely(redact_known(str(error)))}", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(STATUS)


def keep_waiting(_error: ServerLostError) -> None:
    """Do not exit: a watch retries at its next poll."""


# What to do if the server is lost and Prefect's retries block the run.
when_lost: ContextVar[Leave] = ContextVar("cmrm_when_lost", default=leave_process)
# The server monitor of this context's run.
monitor_in_force: ContextVar[ServerMonitor | None] = ContextVar("cmrm_server_monitor", default=None)

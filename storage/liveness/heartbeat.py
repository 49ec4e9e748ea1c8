"""Heartbeats of runs: a small file that a running process renews, so that other hosts can tell when it has died."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from storage.errors import StoreError
from storage.liveness.processes import has_ended, is_of_this_boot
from storage.records.checksummed_json import seal
from storage.records.layout import heartbeat_file
from storage.store import Store

log = logging.getLogger("cmrm.storage")

RENEWAL_SECONDS = 30.0
# Twenty renewals: an object store that does not answer for five minutes must not make a live run look dead.
STALE = timedelta(minutes=10)
# The field of a run's record that marks a run with a heartbeat; records of older releases lack it.
FIELD = "heartbeat_seconds"


@contextmanager
def renew(write: Callable[[], None], *, seconds: float, what: str) -> Iterator[None]:
    """Call `write` every `seconds` from a daemon thread while the body runs.

    A `StoreError` is logged, and the write is retried at the next interval.
    """
    done = Event()

    def loop() -> None:
        while not done.wait(seconds):
            try:
                write()
            except StoreError as error:
                log.warning("%s was not renewed: %s", what, error)

    thread = Thread(target=loop, name=what, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def keep_heartbeat(store: Store, run_id: str, *, seconds: float = RENEWAL_SECONDS) -> Iterator[None]:
    """Renew a run's heartbeat while the body runs, and remove it afterwards.

    Raises StoreError if the first one cannot be written.
    """
    path = heartbeat_file(run_id)
    data = seal({"run_id": run_id, "host": socket.gethostname(), "pid": os.getpid()})
    store.files.write(path, data)
    try:
        with renew(lambda: store.files.write(path, data), seconds=seconds, what=f"the heartbeat {path}"):
            yield
    finally:
        try:
            store.files.remove(path)
        except StoreError as error:
            log.warning("%s was not removed; cmrm store gc removes it once it is old: %s", path, error)


def find_dead_runs(
    store: Store, runs: Iterable[Mapping[str, Any]], *, now: datetime | None = None
) -> list[Mapping[str, Any]]:
    """List the runs whose record says running and whose process is gone; `now` is as for `is_going_on`."""
    return [run for run in runs if run.get("status") == "running" and not is_going_on(store, run, now=now)]


def close_dead_run(store: Store, run: Mapping[str, Any]) -> None:
    """Mark a dead run's record as killed, and remove its heartbeat; raises StoreError if a write fails."""
    run_id = str(run["run_id"])
    store.write_run(run_id, {**run, "status": "killed"})
    store.files.remove(heartbeat_file(run_id))


def is_going_on(store: Store, run: Mapping[str, Any], *, now: datetime | None = None) -> bool:
    """Return whether a run's record says running and its process is not known to be gone.

    On this host the process id is checked. A run of another host is dead once its heartbeat is older than `STALE`, by
    the store's clock, which `now` replaces. Without a heartbeat (older releases) its state is unknown, and it counts as
    running. Raises StoreError if the store cannot be read.
    """
    if run.get("status") != "running":
        return False
    process = run.get("process") or {}
    if is_of_this_boot(process) or FIELD not in run:
        return not has_ended(process)
    beaten = store.files.modified(heartbeat_file(str(run["run_id"])))
    if beaten is None:
        return False  # removed when the run ended, after its record was read here
    if now is not None:
        return now - beaten <= STALE
    # Reading the store's clock costs a write, so only a heartbeat that looks stale is compared with it.
    return datetime.now(UTC) - beaten <= STALE or _read_clock(store) - beaten <= STALE


def _read_clock(store: Store) -> datetime:
    """The store's clock, which also stamps heartbeats; this host's clock if the store is not writable."""
    path = heartbeat_file(f"clock-{uuid4().hex}")
    try:
        store.files.write(path, b"")
        try:
            return store.files.modified(path) or datetime.now(UTC)
        finally:
            store.files.remove(path)
    except StoreError as error:
        log.info("the age of heartbeats is taken by this host's clock: %s", error)
        return datetime.now(UTC)

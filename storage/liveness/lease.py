"""Leases: which process works on something in a store, since when.

A dead holder's lease is taken over, by two processes if they do so at once: correctness never depends on a lease.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from time import sleep
from typing import Any
from uuid import uuid4

from storage.errors import StoreError
from storage.liveness.heartbeat import renew
from storage.liveness.processes import is_gone
from storage.records.checksummed_json import seal, unseal
from storage.records.layout import check_key
from storage.store import Store

log = logging.getLogger("cmrm.storage")

# A holder that has not renewed its lease for this long has died, or its clock is wrong; both are harmless.
STALE = timedelta(minutes=5)
RENEWAL_SECONDS = 60.0
# How often one who waits looks again.
WAIT_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease: machine, process, and since when (UTC, ISO 8601)."""

    host: str
    pid: int
    since: str


def lease_file(key: str) -> str:
    """Name a lease in the store; raises StoreError unless the key is one."""
    return f"watches/{check_key(key)}.json"


# Identifies this process, besides its process id.
_PROCESS = uuid4().hex


@contextmanager
def lease(store: Store, key: str) -> Iterator[Holder | None]:
    """Hold a lease within a `with` block, renewed by a thread; yield None, or its current holder.

    Raises StoreError if a write fails.
    """
    path = lease_file(key)
    own = {
        "token": uuid4().hex,
        "process": _PROCESS,
        **asdict(Holder(host=socket.gethostname(), pid=os.getpid(), since=_now().isoformat())),
    }
    while not store.files.create(path, _seal(own)):
        if (other := _find_holder(store, path)) is not None:
            yield other
            return
        # Released meanwhile, or never to be.
        store.files.remove(path)
    try:
        with renew(
            lambda: store.files.write(path, _seal(own)), seconds=RENEWAL_SECONDS, what=f"the lease {path}"
        ):
            yield None
    finally:
        _release(store, path, own)


@contextmanager
def wait_for_lease(store: Store, key: str) -> Iterator[None]:
    """Hold a lease within a `with` block, once its holder has released it or died."""
    while True:
        with lease(store, key) as holder:
            if holder is None:
                yield
                return
        sleep(WAIT_SECONDS)


def _release(store: Store, path: str, own: Mapping[str, Any]) -> None:
    try:
        if (_read(store, path) or {}).get("token") == own["token"]:
            store.files.remove(path)
    except StoreError as error:
        log.warning("the lease %s was not released and expires by itself: %s", path, error)


def _find_holder(store: Store, path: str) -> Holder | None:
    """The holder of a lease that has not expired."""
    held = _read(store, path)
    try:
        if held is None or abs(_now() - datetime.fromisoformat(held["renewed_at"])) > STALE:
            return None
        holder = Holder(host=str(held["host"]), pid=int(held["pid"]), since=str(held["since"]))
    except (KeyError, TypeError, ValueError):
        return None  # written by another release
    if (holder.host, holder.pid) == (socket.gethostname(), os.getpid()):
        # A restarted container reuses the same process ids.
        return holder if held.get("process") == _PROCESS else None
    return None if _has_died(holder) else holder


def _has_died(holder: Holder) -> bool:
    """Whether a holder on this machine was killed; a holder on another machine is never known to be."""
    return holder.host == socket.gethostname() and is_gone(holder.pid)


def _read(store: Store, path: str) -> dict[str, Any] | None:
    ((_, data),) = store.files.read_many([path])
    try:
        return None if data is None else unseal(data)
    except StoreError as error:
        log.warning("%s counts as not there: %s", path, error)
        return None


def _seal(own: Mapping[str, Any]) -> bytes:
    return seal({**own, "renewed_at": _now().isoformat()})


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)

"""A courtesy between processes: who is at something in a store, and since when. Correctness never rests on it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from storage.errors import StoreError
from storage.paths import check_key
from storage.processes import is_gone
from storage.sealed import seal, unseal
from storage.store import Store

log = logging.getLogger("cmrm.storage")

# A holder that has not renewed its lease for so long has died, or its clock is far off; neither harms.
STALE = timedelta(minutes=5)
RENEWAL_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease: machine, process, and since when (UTC, ISO 8601)."""

    host: str
    pid: int
    since: str


def lease_file(key: str) -> str:
    """Name the lease of a watch in the store; raises StoreError unless the key is one."""
    return f"watches/{check_key(key)}.json"


# What this process is, beside its number.
_PROCESS = uuid4().hex


@contextmanager
def lease(store: Store, key: str) -> Iterator[Holder | None]:
    """Hold a lease within a `with` block, renewed by a thread: None, or who holds it already.

    Two that come within one moment may both hold it. Raises StoreError if the disk refuses.
    """
    path = lease_file(key)
    if (other := _find_holder(store, path)) is not None:
        yield other
        return
    own = {
        "token": uuid4().hex,
        "process": _PROCESS,
        **asdict(Holder(host=socket.gethostname(), pid=os.getpid(), since=_now().isoformat())),
    }
    _write(store, path, own)
    done = Event()
    renewal = Thread(target=_renew, args=(store, path, own, done), name="lease", daemon=True)
    renewal.start()
    try:
        yield None
    finally:
        done.set()
        renewal.join()
        _give_back(store, path, own)


def _renew(store: Store, path: str, own: Mapping[str, Any], done: Event) -> None:
    while not done.wait(RENEWAL_SECONDS):
        try:
            _write(store, path, own)
        except StoreError as error:
            log.warning("the lease %s was not renewed: %s", path, error)


def _give_back(store: Store, path: str, own: Mapping[str, Any]) -> None:
    try:
        if (_read(store, path) or {}).get("token") == own["token"]:
            store.files.remove(path)
    except StoreError as error:
        log.warning("the lease %s was not given back and ends by itself: %s", path, error)


def _find_holder(store: Store, path: str) -> Holder | None:
    """Who holds a lease and has renewed it lately."""
    held = _read(store, path)
    try:
        if held is None or abs(_now() - datetime.fromisoformat(held["renewed_at"])) > STALE:
            return None
        holder = Holder(host=str(held["host"]), pid=int(held["pid"]), since=str(held["since"]))
    except (KeyError, TypeError, ValueError):
        return None  # another release's
    if (holder.host, holder.pid) == (socket.gethostname(), os.getpid()):
        # In a container that was started anew, processes have the same numbers again.
        return holder if held.get("process") == _PROCESS else None
    return None if _has_died(holder) else holder


def _has_died(holder: Holder) -> bool:
    """Whether a holder was killed on this machine; of another machine's nothing is known."""
    return holder.host == socket.gethostname() and is_gone(holder.pid)


def _read(store: Store, path: str) -> dict[str, Any] | None:
    ((_, data),) = store.files.read_many([path])
    try:
        return None if data is None else unseal(data)
    except StoreError as error:
        log.warning("%s counts as not there: %s", path, error)
        return None


def _write(store: Store, path: str, own: Mapping[str, Any]) -> None:
    store.files.write(path, seal({**own, "renewed_at": _now().isoformat()}))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)

"""Garbage collection: find and remove files that no run refers to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from storage.errors import StoreError
from storage.liveness.heartbeat import FIELD, STALE, is_going_on
from storage.maintenance.inventory import Inventory, take_inventory
from storage.records.hashing import SCHEMA_VERSION
from storage.records.manifest import Manifest, manifest_file
from storage.sql.comparisons import is_used
from storage.store import Store

# Files removed between two checks for a started run.
_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One file that can be removed: its size in bytes and the reason."""

    path: str
    bytes: int
    reason: str


def find_garbage(
    store: Store, inventory: Inventory, *, older_than: timedelta, now: datetime | None = None
) -> list[Garbage]:
    """List old files that no run refers to, manifests before the files they name.

    Files that a stopped run left for the next one are normally younger than `older_than`, and are kept.
    Raises StoreError while a run is going on, since it may use any file; while a record is damaged, since its
    references are unknown; and for a store of a newer release.
    """
    _refuse_to_judge(store, inventory, now)
    before = (now or datetime.now(UTC)) - older_than
    used = {str(key) for run in inventory.runs for key in run.get("keys") or ()}
    found: list[Garbage] = []
    for manifest in (*inventory.manifests, *inventory.others):
        if not is_used(manifest, used) and manifest.schema_version <= SCHEMA_VERSION:
            own = manifest.schema_version == SCHEMA_VERSION
            reason = "no run refers to it" if own else "an older release wrote it"
            found += _of_manifest(inventory, manifest, before, reason)
    found += _of_files(store, inventory, inventory.loose, before, "no record names it")
    found += _of_files(
        store, inventory, inventory.parts, before, "a part of a shard that nobody went on with"
    )
    found += _of_files(store, inventory, inventory.leases, before, "the lease of a process that died")
    found += _of_files(store, inventory, inventory.heartbeats, before, "the heartbeat of a run that died")
    return found + _of_files(
        store, inventory, inventory.unfinished, before, "half written by a process that died"
    )


def remove_garbage(store: Store, garbage: Sequence[Garbage]) -> Iterator[Garbage]:
    """Remove files one by one, in the order of the list.

    Raises StoreError if a removal fails, or if a run has started meanwhile; the remaining files stay.
    """
    for number, one in enumerate(garbage):
        if number % _AT_ONCE == 0:
            refuse_running(store, store.runs())
        store.remove(one.path)
        yield one


def refuse_running(store: Store, runs: Sequence[Mapping[str, Any]], *, now: datetime | None = None) -> None:
    """Raise StoreError if a run is going on, by its record, its process here, and its heartbeat elsewhere."""
    running = [run for run in runs if is_going_on(store, run, now=now)]
    if running:
        names = [str(run["run_id"]) for run in running]
        minutes = STALE.total_seconds() / 60
        fix = (
            f"one that was killed on another machine counts as dead after {minutes:.0f} minutes without a heartbeat"
            if FIELD in running[0]
            else f"if it was killed on another machine, give `cmrm store forget {names[0]}`"
        )
        raise StoreError(
            f"nothing of {store.url} can be called unused while a run is going on ({', '.join(names[:3])}): wait for "
            f"it ({fix}), then give the same command again"
        )


def _refuse_to_judge(store: Store, inventory: Inventory, now: datetime | None) -> None:
    if inventory.damaged:
        path, fault = next(iter(inventory.damaged.items()))
        raise StoreError(
            f"nothing of {store.url} can be called unused while {path} is damaged ({fault}), since what it refers to "
            "is not known: run its spec again, or remove what is left of it, then give the same command again"
        )
    if inventory.version is not None and inventory.version > SCHEMA_VERSION:
        raise StoreError(
            f"the store {store.url} has schema version {inventory.version} and this release knows {SCHEMA_VERSION}: "
            "tidy it with the newer release"
        )
    refuse_running(store, inventory.runs, now=now)


def _of_manifest(
    inventory: Inventory, manifest: Manifest, before: datetime, reason: str
) -> Iterator[Garbage]:
    if datetime.fromisoformat(manifest.created_at) < before:
        path = manifest_file(manifest.stage, manifest.key)
        yield Garbage(path=path, bytes=inventory.sizes.get(path, 0), reason=reason)
        for file in manifest.files:
            yield Garbage(path=file.path, bytes=file.bytes, reason=reason)


def _of_files(
    store: Store, inventory: Inventory, paths: Sequence[str], before: datetime, reason: str
) -> list[Garbage]:
    return [
        Garbage(path=path, bytes=inventory.sizes.get(path) or store.files.size(path) or 0, reason=reason)
        for path in paths
        if (modified := store.files.modified(path)) is not None and modified < before
    ]


def tidy(
    store: Store,
    garbage: Sequence[Garbage],
    *,
    older_than: timedelta,
    report_file: re.Pattern[str] | None = None,
) -> Iterator[Garbage]:
    """Remove listed files that are still unused when checked again; raises StoreError as `find_garbage` does.

    `report_file` is as for `take_inventory`.
    """
    inventory = take_inventory(store, report_file=report_file)
    still = {one.path for one in find_garbage(store, inventory, older_than=older_than)}
    yield from remove_garbage(store, [one for one in garbage if one.path in still])

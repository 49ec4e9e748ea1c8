"""What no run refers to, and its removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from storage.comparisons import is_used
from storage.errors import StoreError
from storage.identity import SCHEMA_VERSION
from storage.inventory import Inventory, take_inventory
from storage.manifest import Manifest, manifest_file
from storage.processes import has_ended
from storage.store import Store

# Files that are removed between two looks whether a run has begun.
_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One file that may go: its size in bytes and why."""

    path: str
    bytes: int
    reason: str


def find_garbage(
    store: Store, inventory: Inventory, *, older_than: timedelta, now: datetime | None = None
) -> list[Garbage]:
    """List what no run refers to and is old enough, manifests before the files they name.

    What a run that was stopped left for the next one is younger than `older_than` as a rule, and stays.
    Raises StoreError while a run is going on, since it may use any file; while a record is damaged, since what it
    refers to is not known; and in a store that a newer release has made.
    """
    _refuse_to_judge(store, inventory)
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
    found += _of_files(store, inventory, inventory.leases, before, "the lease of a watch that died")
    return found + _of_files(
        store, inventory, inventory.unfinished, before, "half written by a process that died"
    )


def remove_garbage(store: Store, garbage: Sequence[Garbage]) -> Iterator[Garbage]:
    """Remove files one after the other, in the order of the list.

    Raises StoreError if the disk refuses, or if a run has begun meanwhile; what is left stays.
    """
    for number, one in enumerate(garbage):
        if number % _AT_ONCE == 0:
            refuse_running(store, store.runs())
        store.files.remove(one.path)
        folder = one.path.rpartition("/")[0]
        while folder:
            store.files.prune(folder)
            folder = folder.rpartition("/")[0]
        yield one


def refuse_running(store: Store, runs: Sequence[Mapping[str, Any]]) -> None:
    """Raise StoreError if a run is going on, by its record and, on this machine, by its process."""
    running = [str(run["run_id"]) for run in runs if is_going_on(run)]
    if running:
        raise StoreError(
            f"nothing of {store.url} can be called unused while a run is going on ({', '.join(running[:3])}): wait for "
            f"it or, if it was killed on another machine, give `cmrm store forget {running[0]}`; then give the same "
            "command again"
        )


def is_going_on(run: Mapping[str, Any]) -> bool:
    """Return whether a run's record says that it is going on, and its process is not known to be gone."""
    return run.get("status") == "running" and not has_ended(run.get("process") or {})


def _refuse_to_judge(store: Store, inventory: Inventory) -> None:
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
    refuse_running(store, inventory.runs)


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


def tidy(store: Store, garbage: Sequence[Garbage], *, older_than: timedelta) -> Iterator[Garbage]:
    """Remove what was listed and is still unused at a second look; raises StoreError as `find_garbage` does."""
    still = {one.path for one in find_garbage(store, take_inventory(store), older_than=older_than)}
    yield from remove_garbage(store, [one for one in garbage if one.path in still])

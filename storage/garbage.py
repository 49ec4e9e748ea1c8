"""What no run refers to, and its removal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from storage.errors import StoreError
from storage.inventory import Inventory
from storage.manifest import Manifest, manifest_file
from storage.store import Store


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

    Work that is still going on, and what a run that was stopped left for the next one, is younger than `older_than` as
    a rule, and stays. While a run that is younger is going on, all manifests stay, since it may use any.
    Raises StoreError while a record is damaged, since what it refers to is not known.
    """
    if inventory.damaged:
        path, fault = next(iter(inventory.damaged.items()))
        raise StoreError(
            f"nothing of {store.url} can be called unused while {path} is damaged ({fault}), since what it refers to "
            "is not known: run its spec again, or remove it, then give the same command again"
        )
    before = (now or datetime.now(UTC)) - older_than
    used = {str(key) for run in inventory.runs for key in run.get("keys") or ()}
    unused = [manifest for manifest in inventory.manifests if manifest.key not in used]
    found: list[Garbage] = []
    if not find_running(inventory, since=before):
        found += _of_manifests(store, unused, before, "no run refers to it")
    found += _of_manifests(store, inventory.older, before, "another release wrote it")
    found += _of_files(store, inventory.loose, before, "no record names it")
    found += _of_files(store, inventory.parts, before, "a part of a shard that nobody went on with")
    return found + _of_files(store, inventory.unfinished, before, "half written by a process that died")


def find_running(inventory: Inventory, *, since: datetime) -> list[str]:
    """List the ids of runs that have begun since then and not ended; one that was killed looks like that too."""
    return [
        str(run["run_id"])
        for run in inventory.runs
        if run.get("status") == "running" and datetime.fromisoformat(str(run["created_at"])) >= since
    ]


def remove_garbage(store: Store, garbage: list[Garbage]) -> Iterator[Garbage]:
    """Remove files one after the other, in the order of the list; raises StoreError if the disk refuses."""
    for one in garbage:
        store.files.remove(one.path)
        folder = one.path.rpartition("/")[0]
        while folder:
            store.files.prune(folder)
            folder = folder.rpartition("/")[0]
        yield one


def _of_manifests(
    store: Store, manifests: list[Manifest] | tuple[Manifest, ...], before: datetime, reason: str
) -> Iterator[Garbage]:
    for manifest in manifests:
        if datetime.fromisoformat(manifest.created_at) < before:
            path = manifest_file(manifest.stage, manifest.key)
            yield Garbage(path=path, bytes=store.files.size(path) or 0, reason=reason)
            for file in manifest.files:
                yield Garbage(path=file.path, bytes=file.bytes, reason=reason)


def _of_files(store: Store, paths: tuple[str, ...], before: datetime, reason: str) -> list[Garbage]:
    return [
        Garbage(path=path, bytes=store.files.size(path) or 0, reason=reason)
        for path in paths
        if (modified := store.files.modified(path)) is not None and modified < before
    ]

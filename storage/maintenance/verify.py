"""Verify every file of a store against its record, by size and checksum."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from storage.errors import StoreError
from storage.maintenance.inventory import Inventory
from storage.records.hashing import SCHEMA_VERSION, digest_bytes
from storage.records.manifest import StoredFile
from storage.records.run_record import run_file
from storage.store import Store

_MOST_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One verified file: its size, and its fault, None if it is intact."""

    path: str
    bytes: int
    fault: str | None = None


def verify(store: Store, inventory: Inventory) -> Iterator[Checked]:
    """Verify the files of a store, a few concurrently.

    Records are checked by their seals, the files they name by size and sha256, partial files by the digest in their
    names, and runs by whether all their manifests exist. Files that nothing names are skipped.
    """
    for path, fault in inventory.damaged.items():
        yield Checked(path=path, bytes=0, fault=fault)
    yield from _check_runs(inventory)
    named = {(file.path, file.sha256): file for file in inventory.named()}
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        try:
            yield from chain(
                threads.map(lambda file: _check_file(store, file), named.values()),
                threads.map(lambda path: _check_part(store, path), inventory.parts),
            )
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def count_bytes(inventory: Inventory) -> int:
    """Count the bytes that `verify` will read of the files that records name."""
    return sum({file.path: file.bytes for file in inventory.named()}.values())


def _check_runs(inventory: Inventory) -> Iterator[Checked]:
    there = {manifest.key for manifest in inventory.manifests}
    for run in inventory.runs:
        if run.get("schema_version") != SCHEMA_VERSION:
            continue  # its manifests are of another schema version too
        missing = [str(key)[:12] for key in run.get("keys") or () if key not in there]
        if missing:
            fault = f"{len(missing)} manifests that it used are missing or damaged: {', '.join(missing[:3])}"
            yield Checked(path=run_file(str(run["run_id"])), bytes=0, fault=fault)


def _check_file(store: Store, file: StoredFile) -> Checked:
    try:
        fault = store.find_fault(file)
    except StoreError as error:
        fault = str(error)  # an unreadable file must not stop the verification of others
    return Checked(path=file.path, bytes=file.bytes, fault=fault)


def _check_part(store: Store, path: str) -> Checked:
    try:
        data = store.read(path)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return Checked(path=path, bytes=0)  # its shard has been committed since
        return Checked(path=path, bytes=0, fault=str(error))
    fault = None if digest_bytes(data)[:12] in path else f"{path} was changed: its name has another digest"
    return Checked(path=path, bytes=len(data), fault=fault)

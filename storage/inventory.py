"""Every file of a store, and what it belongs to: a manifest, a run, a shard in work, or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.errors import StoreError
from storage.identity import SCHEMA_VERSION
from storage.manifest import Manifest, StoredFile, manifest_file
from storage.paths import MARK
from storage.sealed import unseal
from storage.store import Store, run_file

# What stores write: data files, named after their key and content, and reports.
_OWN = re.compile(
    r"[a-z_]+/(?:[^/]+/)*[0-9a-f]{64}(?:\.[0-9]+)?\.[0-9a-f]{12}\.[a-z]+"
    r"|reports/[^/]+/(?:report\.(?:md|html)|(?:figures|tables)/[^/]+)"
)


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a store holds, as its records say; no other file has been opened.

    `damaged` gives the fault of each record that is not whole, `older` the manifests of another schema version. No
    record names `loose` files, left by a killed commit or replaced, nor `foreign` ones, which no store writes.
    """

    manifests: tuple[Manifest, ...]
    runs: tuple[dict[str, Any], ...]
    parts: tuple[str, ...]
    loose: tuple[str, ...]
    foreign: tuple[str, ...]
    unfinished: tuple[str, ...]
    damaged: dict[str, str] = field(default_factory=dict)
    older: tuple[Manifest, ...] = ()

    def named(self) -> Iterator[tuple[str, StoredFile]]:
        """Each file that a record of this release names, with that record's own path."""
        for manifest in self.manifests:
            for file in manifest.files:
                yield manifest_file(manifest.stage, manifest.key), file
        for run in self.runs:
            for file in report_files(run):
                yield run_file(str(run["run_id"])), file


def report_files(run: Mapping[str, Any]) -> list[StoredFile]:
    """List the files of a run's report, as its record names them."""
    return [StoredFile(**file) for file in run.get("files") or ()]


def take_inventory(store: Store) -> Inventory:
    """Read all records of a store; raises StoreError if there is no store or it does not answer."""
    if not store.files.exists():
        raise StoreError(f"there is no store at {store.url}: check the path, or make one by a run")
    paths = store.files.under("")
    damaged: dict[str, str] = {}
    manifests: list[Manifest] = []
    older: list[Manifest] = []
    runs: list[dict[str, Any]] = []
    records = {MARK, *store.manifest_files(), *store.run_files()} & set(paths)
    for path, data in store.files.read_many(sorted(records)):
        try:
            if data is None:
                continue  # removed since it was listed
            if path == MARK:
                unseal(data)
            elif path.startswith("runs/"):
                runs.append(_read_run(path, data))
            else:
                manifest = _read_manifest(path, data)
                (manifests if manifest.schema_version == SCHEMA_VERSION else older).append(manifest)
        except StoreError as error:
            damaged[path] = str(error)
    if MARK not in records:
        damaged[MARK] = "it is missing"
    named = {file.path for manifest in (*manifests, *older) for file in manifest.files}
    named |= {file.path for run in runs for file in report_files(run)}
    left = [path for path in paths if path not in records | named]
    return Inventory(
        manifests=tuple(manifests),
        runs=tuple(runs),
        parts=tuple(path for path in left if path.startswith("parts/")),
        loose=tuple(path for path in left if _OWN.fullmatch(path)),
        foreign=tuple(path for path in left if not path.startswith("parts/") and not _OWN.fullmatch(path)),
        unfinished=tuple(store.files.unfinished()),
        damaged=damaged,
        older=tuple(older),
    )


def _read_run(path: str, data: bytes) -> dict[str, Any]:
    record = unseal(data)
    if run_file(str(record.get("run_id"))) != path:
        raise StoreError("it was written for another run")
    return record


def _read_manifest(path: str, data: bytes) -> Manifest:
    manifest = Manifest.from_json(data)
    if manifest_file(manifest.stage, manifest.key) != path:
        raise StoreError("it was written for another stage or key")
    return manifest

"""Every file of a store, and what it belongs to: a manifest, a run, a shard in work, or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import StoreError
from storage.identity import SCHEMA_VERSION
from storage.manifest import Manifest, StoredFile, read_manifest
from storage.paths import DATA_NAME, MARK, check_key
from storage.sealed import unseal
from storage.store import Store, run_file

# What stores write: data files, named after their key and content; parts; and reports of runs.
_DATA = re.compile(rf"[a-z_]+/(?:[^/]+/)*{DATA_NAME}")
_PART = re.compile(r"parts/[^/]+/[0-9a-f]{64}/[0-9a-f]{32}\.[0-9a-f]{12}\.parquet")
_LEASE = re.compile(r"watches/[0-9a-f]{64}\.json")
_REPORT = re.compile(
    r"reports/(?P<run>[0-9]{8}-[0-9]{6}-[0-9a-f]{6})/"
    r"(?:report\.(?:md|html)|figures/[^/]+\.(?:svg|png|csv)|tables/[^/]+\.(?:csv|tex))"
)


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a store holds, as its records say; no other file has been opened.

    `leases` are of watches that go on, or did when their process died. `damaged` gives the fault of each record that is
    not whole, `others` the manifests of another schema version, and `version` that of the store itself. No record names
    `loose` files, left by a killed commit, replaced, or of a
    forgotten run, nor `foreign` ones, which no store writes. `sizes` are of all files, in bytes.
    """

    manifests: tuple[Manifest, ...]
    runs: tuple[dict[str, Any], ...]
    parts: tuple[str, ...]
    leases: tuple[str, ...]
    loose: tuple[str, ...]
    foreign: tuple[str, ...]
    unfinished: tuple[str, ...]
    others: tuple[Manifest, ...]
    damaged: dict[str, str]
    version: int | None
    sizes: dict[str, int]

    def named(self) -> Iterator[StoredFile]:
        """Each file that a manifest of this release or a run names."""
        for manifest in self.manifests:
            yield from manifest.files
        for run in self.runs:
            yield from report_files(run)


def report_files(run: Mapping[str, Any]) -> list[StoredFile]:
    """List the files of a run's report, as its record names them."""
    return [StoredFile(**file) for file in run.get("files") or ()]


def take_inventory(store: Store) -> Inventory:
    """Read all records of a store; raises StoreError if there is no store or it does not answer."""
    if not store.files.exists():
        raise StoreError(f"there is no store at {store.url}: check the path, or make one by a run")
    sizes = store.files.sizes("")
    damaged: dict[str, str] = {}
    manifests: list[Manifest] = []
    others: list[Manifest] = []
    runs: list[dict[str, Any]] = []
    version: int | None = None
    records = [path for path in sizes if path == MARK or _is_record(path)]
    for path, data in store.files.read_many(records):
        try:
            if data is None:
                continue  # removed since it was listed
            if path == MARK:
                version = unseal(data).get("schema_version")
            elif path.startswith("runs/"):
                runs.append(_read_run(path, data))
            else:
                manifest = read_manifest(path, data)
                (manifests if manifest.schema_version == SCHEMA_VERSION else others).append(manifest)
        except StoreError as error:
            damaged[path] = str(error)
    if MARK not in records:
        damaged[MARK] = "it is missing"
    named = {file.path for manifest in (*manifests, *others) for file in manifest.files}
    named |= {file.path for run in runs for file in report_files(run)}
    named.update(records)
    left = [path for path in sizes if path not in named]
    known = {str(run["run_id"]) for run in runs}
    parts = {path for path in left if _PART.fullmatch(path)}
    leases = {path for path in left if _LEASE.fullmatch(path)}
    loose = {path for path in left if _DATA.fullmatch(path) or _is_of_forgotten_run(path, known)} - parts
    return Inventory(
        manifests=tuple(manifests),
        runs=tuple(runs),
        parts=tuple(sorted(parts)),
        leases=tuple(sorted(leases)),
        loose=tuple(sorted(loose)),
        foreign=tuple(path for path in left if path not in parts | leases | loose),
        unfinished=tuple(store.files.unfinished()),
        others=tuple(others),
        damaged=damaged,
        version=version,
        sizes=sizes,
    )


def _is_record(path: str) -> bool:
    return path.startswith(("manifests/", "runs/")) and path.endswith(".json")


def _is_of_forgotten_run(path: str, known: set[str]) -> bool:
    report = _REPORT.fullmatch(path)
    return report is not None and report["run"] not in known


def _read_run(path: str, data: bytes) -> dict[str, Any]:
    record = unseal(data)
    if run_file(str(record.get("run_id"))) != path:
        raise StoreError("it was written for another run")
    try:
        report_files(record)
        [check_key(key) for key in record.get("keys") or ()]
    except (TypeError, StoreError) as error:
        raise StoreError(f"its keys or files are not what a store writes: {error}") from error
    return record

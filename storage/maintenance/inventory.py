"""Inventory of a store: every file, and whether a manifest, a run or an unfinished shard owns it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from storage.errors import NotAFileError, StoreError
from storage.liveness.heartbeat import find_dead_runs
from storage.records.checksummed_json import unseal
from storage.records.hashing import SCHEMA_VERSION
from storage.records.layout import DATA_NAME, MARK
from storage.records.manifest import Manifest, StoredFile, read_manifest
from storage.records.run_record import read_run_record, report_files
from storage.store import Store

# Files that stores write: data files, named by key and digest, and partial files of shards.
_DATA = re.compile(rf"[a-z_]+/(?:[^/]+/)*{DATA_NAME}")
_PART = re.compile(r"parts/[^/]+/[0-9a-f]{64}/[0-9a-f]{32}\.[0-9a-f]{12}\.parquet")
_LEASE = re.compile(r"watches/[0-9a-f]{64}\.json")
_HEARTBEAT = re.compile(r"heartbeats/[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.json")
# Images, and the records of the URLs that some were fetched from.
_IMAGE = re.compile(r"images/[^/]+/(?:[0-9a-f]{32}\.[a-z]+|fetched/[0-9a-f]{32}\.json)")


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The content of a store according to its records; no other file is opened.

    `parts` are partial files of shards. `leases` belong to watches and to ends of runs, `heartbeats` to runs, of live
    or killed processes. `dead` are the ids of runs whose record says running and whose process is gone. `images` are
    those that rows of data sets contain. `damaged` gives the fault of each damaged record, `others` the manifests of
    another schema version, and `version` that of the store itself. No record names `loose` files, left by a killed
    commit, replaced, or of a forgotten run, nor `foreign` ones, which no store writes. `sizes` are of all files, in
    bytes.
    """

    manifests: tuple[Manifest, ...]
    runs: tuple[dict[str, Any], ...]
    dead: frozenset[str]
    parts: tuple[str, ...]
    leases: tuple[str, ...]
    heartbeats: tuple[str, ...]
    images: tuple[str, ...]
    loose: tuple[str, ...]
    foreign: tuple[str, ...]
    unfinished: tuple[str, ...]
    others: tuple[Manifest, ...]
    damaged: dict[str, str]
    version: int | None
    sizes: dict[str, int]

    def named(self) -> Iterator[StoredFile]:
        """Iterate over the files that a manifest of this schema version or a run names."""
        for manifest in self.manifests:
            yield from manifest.files
        for run in self.runs:
            yield from report_files(run)


def take_inventory(store: Store, *, report_file: re.Pattern[str] | None = None) -> Inventory:
    """Read all records of a store; raises StoreError if there is no store or it cannot be read.

    `report_file` matches the paths of the files of runs' reports, with the run's id as its group `run`, or the ids of
    several, joined by `+`; without it, those that no record names are foreign.
    """
    if not store.files.exists():
        raise StoreError(f"there is no store at {store.url}: check the path, or make one by a run")
    sizes = store.files.sizes("")
    damaged: dict[str, str] = {}
    manifests: list[Manifest] = []
    others: list[Manifest] = []
    runs: list[dict[str, Any]] = []
    version: int | None = None
    records = [path for path in sizes if path == MARK or _is_record(path)]
    for path, data in _read_each(store, records, damaged):
        try:
            if data is None:
                continue  # removed since it was listed
            if path == MARK:
                version = unseal(data).get("schema_version")
            elif path.startswith("runs/"):
                runs.append(read_run_record(path, data))
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
    heartbeats = {path for path in left if _HEARTBEAT.fullmatch(path)}
    images = {path for path in left if _IMAGE.fullmatch(path)}
    reports = {} if report_file is None else _find_reports(left, report_file)
    forgotten = {path for path, of in reports.items() if not of <= known}
    loose = ({path for path in left if _DATA.fullmatch(path)} | forgotten) - parts
    # What was written beside a run's report later is in no record.
    own = parts | leases | heartbeats | images | loose | reports.keys()
    return Inventory(
        manifests=tuple(manifests),
        runs=tuple(runs),
        dead=frozenset(str(run["run_id"]) for run in find_dead_runs(store, runs)),
        parts=tuple(sorted(parts)),
        leases=tuple(sorted(leases)),
        heartbeats=tuple(sorted(heartbeats)),
        images=tuple(sorted(images)),
        loose=tuple(sorted(loose)),
        foreign=tuple(path for path in left if path not in own),
        unfinished=tuple(store.files.unfinished()),
        others=tuple(others),
        damaged=damaged,
        version=version,
        sizes=sizes,
    )


def _read_each(
    store: Store, paths: Sequence[str], damaged: dict[str, str]
) -> Iterator[tuple[str, bytes | None]]:
    """Read some records; paths that are not regular files go to `damaged`, and the rest are still read."""
    left = list(paths)
    while left:
        done = 0
        try:
            for path, data in store.files.read_many(left):
                done += 1
                yield path, data
        except NotAFileError as error:
            damaged[left[done]] = str(error)
            done += 1
        left = left[done:]


def _is_record(path: str) -> bool:
    return path.startswith(("manifests/", "runs/")) and path.endswith(".json")


def _find_reports(paths: Sequence[str], report_file: re.Pattern[str]) -> dict[str, set[str]]:
    """Find the files of reports, with the ids of the runs of each."""
    reports = filter(None, map(report_file.fullmatch, paths))
    return {found.string: set(found["run"].split("+")) for found in reports}

"""Commit a job's files, after checking that no row was lost or written twice; the only place that commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from cmrm.errors import UserError
from storage.records.manifest import Manifest
from storage.shards.writer import ShardWriter
from storage.store import Source, Store
from storage.tables.arrow import from_rows, table_path, table_paths
from storage.tables.parquet import to_parquet
from tasks.core.software import FIELD, list_software
from tasks.core.stage import Job

# How many names an error lists.
MOST_NAMED = 3


class RowsLostError(UserError):
    """Rows that a job was to produce are neither written nor quarantined."""


class SurplusRowsError(RowsLostError):
    """Rows were written or quarantined more than once, or were never requested."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows requested of a job, written and quarantined, by name: a name occurs once for each of its rows.

    `rows_each` is the number of rows a sample has in the table: one, or one per block.
    """

    asked: Iterable[str]
    written: Iterable[str]
    quarantined: Iterable[str] = ()
    rows_each: int = 1


# For a job that makes a file and no rows: Δ, a report, a comparison.
NO_ROWS = Rows(asked=(), written=())


def check_rows(job: Job, rows: Rows) -> None:
    """Raise `RowsLostError` unless rows written ∪ rows quarantined = rows requested, each once."""
    asked = Counter({name: count * rows.rows_each for name, count in Counter(iter(rows.asked)).items()})
    done = Counter(iter(rows.written))
    done.update({name: count * rows.rows_each for name, count in Counter(iter(rows.quarantined)).items()})
    lost, surplus = asked - done, done - asked
    if lost or surplus:
        faults = [_describe("are missing", lost), _describe("are there too often", surplus)]
        raise (SurplusRowsError if surplus else RowsLostError)(
            f"{job.stage} {job.label}: of {asked.total()} rows asked for, {'; '.join(filter(None, faults))}. Nothing "
            "was committed; give the same command again, and report this as a bug if it comes back."
        )


def commit_files(
    job: Job,
    store: Store,
    files: Mapping[str, Source],
    *,
    rows: Rows,
    counts: Mapping[str, int] = MappingProxyType({}),
    provenance: Mapping[str, Any] = MappingProxyType({}),
) -> Manifest:
    """Commit files under the job's key; `counts` are the row counts of files other than Parquet.

    Raises `RowsLostError` for lost or surplus rows, and then commits nothing.
    """
    check_rows(job, rows)
    return store.commit(
        job.stage,
        job.key,
        files,
        rows=counts,
        content=job.content(),
        provenance={**provenance, FIELD: dict(list_software())},
    )


def commit_shard(
    job: Job,
    store: Store,
    writer: ShardWriter,
    *,
    asked: Iterable[str],
    kind: str,
    quarantined: Sequence[dict[str, Any]],
    provenance: Mapping[str, Any],
    partitions: Mapping[str, str] = MappingProxyType({}),
    rows_each: int = 1,
) -> Manifest:
    """Commit a shard's written rows and its quarantine under the job's key, then delete the partial files.

    Partial files with surplus rows are deleted without a commit: the next worker starts over.
    """
    written = writer.finish()
    paths = table_paths(kind, job.key, len(written), **partitions)
    files: dict[str, Source] = dict(zip(paths, written, strict=True))
    rows = Rows(
        asked=asked,
        written=writer.units.elements(),
        quarantined=(row["sample_id"] for row in quarantined),
        rows_each=rows_each,
    )
    try:
        manifest = commit_files(
            job, store, files | _quarantine_file(job, quarantined), rows=rows, provenance=provenance
        )
    except SurplusRowsError:
        writer.discard()
        raise
    writer.discard()
    return manifest


def commit_rows(
    job: Job,
    store: Store,
    *,
    kind: str,
    table: pa.Table,
    rows: Rows,
    quarantined: Sequence[dict[str, Any]],
    provenance: Mapping[str, Any],
) -> Manifest:
    """Commit rows held in memory, and the quarantine if there is any, under the job's key."""
    files: dict[str, Source] = {table_path(kind, job.key): to_parquet(table, kind)}
    return commit_files(
        job, store, files | _quarantine_file(job, quarantined), rows=rows, provenance=provenance
    )


def _quarantine_file(job: Job, quarantined: Sequence[dict[str, Any]]) -> dict[str, Source]:
    if not quarantined:
        return {}
    table = from_rows(quarantined, "quarantine")
    return {table_path("quarantine", job.key): to_parquet(table, "quarantine")}


def _describe(what: str, rows: Counter[str]) -> str:
    if not rows:
        return ""
    named = ", ".join(repr(name) for name in list(rows)[:MOST_NAMED])
    return f"{rows.total()} {what} ({named}{', …' if len(rows) > MOST_NAMED else ''})"

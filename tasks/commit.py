"""The one place where a job's files are committed, after a check that no row of it was lost or written twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from cmrm.errors import UserError
from storage.manifest import Manifest
from storage.parquet import to_parquet
from storage.store import Source, Store
from storage.tables import from_rows, table_path, table_paths
from storage.writer import ShardWriter
from tasks.software import FIELD, list_software
from tasks.stage import Job

# How many names an error lists.
MOST_NAMED = 3


class RowsLostError(UserError):
    """Rows that a job was asked for are neither written nor quarantined."""


class SurplusRowsError(RowsLostError):
    """Rows are written or quarantined more than once, or were not asked for."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a job was asked for and what came of it, by name: each name as often as there are rows of it.

    `rows_each` is the number of rows that a sample has in the table: one, or one a block.
    """

    asked: Iterable[str]
    written: Iterable[str]
    quarantined: Iterable[str] = ()
    rows_each: int = 1


# Of a job that makes a file of its own and is asked for no rows: Δ, a report, a comparison.
NO_ROWS = Rows(asked=(), written=())


def check_rows(job: Job, rows: Rows) -> None:
    """Raise `RowsLostError` unless rows written ∪ rows quarantined = rows asked for, each once."""
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
    """Commit files under the job's key; `counts` are the rows of those that are no Parquet files.

    Raises `RowsLostError` for rows that are lost or surplus; then nothing is committed.
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
    """Commit what a writer has of a shard, and its quarantine, under the job's key; then drop its parts.

    Parts with a row too many are dropped without a commit: the next worker begins anew.
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
    """Commit rows that are all in memory, and the quarantine where there is any, under the job's key."""
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

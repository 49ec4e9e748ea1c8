"""Read the rows of a manifest from its Parquet files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.records.manifest import Manifest
from storage.store import Store
from storage.tables.arrow import kind_of
from storage.tables.parquet import iterate_groups, open_parquet, read_parquet


def need_manifest(store: Store, stage: str, key: str) -> Manifest:
    """Find a manifest that a run has just used, and verify its files as `Store.find` does.

    Raises StoreError if it is missing or damaged by now.
    """
    return _refuse_none(store.find(stage, key), store, stage, key)


def expect_manifest(store: Store, stage: str, key: str) -> Manifest:
    """Read a manifest that a worker has just committed, without verifying its files; StoreError if it is gone."""
    return _refuse_none(store.look_up(stage, key), store, stage, key)


def _refuse_none(manifest: Manifest | None, store: Store, stage: str, key: str) -> Manifest:
    if manifest is None:
        raise StoreError(
            f"{stage} {key[:12]} vanished from {store.url} while it was being used: check that the disk is still "
            "mounted and that nothing else cleans this folder, then give the same command again"
        )
    return manifest


def find_files(store: Store, manifest: Manifest, kind: str) -> list[Path]:
    """Find local copies of a manifest's files of one kind; raises StoreError if it names none."""
    paths = manifest.paths(kind)
    if not paths:
        raise StoreError(f"the manifest {manifest.stage}/{manifest.key} names no file in {kind}/")
    return [store.local_path(path) for path in paths]


def read_rows(store: Store, manifest: Manifest, kind: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a manifest's rows of one kind, or these columns of them; StoreError if a file is missing or damaged.

    Columns that files of earlier releases lack are null.
    """
    tables = [_complete(read_parquet(path), kind) for path in find_files(store, manifest, kind)]
    table = pa.concat_tables(tables)
    return table if columns is None else table.select(list(columns))


def _complete(table: pa.Table, name: str) -> pa.Table:
    kind = kind_of(name)
    for column in kind.late:
        if column not in table.column_names:
            field = kind.schema.field(column).remove_metadata()
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def iterate_all(
    store: Store, manifests: Iterable[Manifest], kind: str, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of one kind of many manifests, or these columns; one row group is in memory at a time."""
    for manifest in manifests:
        for path in find_files(store, manifest, kind):
            for group in iterate_groups(path, columns):
                table = _complete(group, kind)
                yield from _to_rows(table if columns is None else table.select(list(columns)))


def count_values(store: Store, manifest: Manifest, kind: str, column: str) -> Counter[Any]:
    """Count how often each value of a column occurs in a manifest's rows of one kind, reading nothing else."""
    counts: Counter[Any] = Counter()
    for file, group in _row_groups(store, manifest, kind):
        counts.update(file.read_row_group(group, columns=[column])[column].to_pylist())
    return counts


def iterate_rows_where(
    store: Store, manifest: Manifest, kind: str, column: str, value: str, *, start: int = 0
) -> Iterator[dict[str, Any]]:
    """Iterate over a manifest's rows whose column has a value, file by file, from number `start` of them.

    One row group is in memory at a time; of those before `start` only the column is read. Columns that files of earlier
    releases lack are null.
    """
    # In Python: pyarrow.compute takes a tenth of a second to import, and the rows become Python values anyway.
    passed = 0
    for file, group in _row_groups(store, manifest, kind):
        values = file.read_row_group(group, columns=[column])[column].to_pylist()
        places = [place for place, one in enumerate(values) if one == value][max(0, start - passed) :]
        passed += values.count(value)
        if places:
            rows = _complete(file.read_row_group(group), kind).slice(places[0])
            yield from (row for row in _to_rows(rows) if row[column] == value)


def _to_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    # In small batches: as Python values, rows take many times the memory that they take in Arrow.
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _row_groups(store: Store, manifest: Manifest, kind: str) -> Iterator[tuple[pq.ParquetFile, int]]:
    for path in find_files(store, manifest, kind):
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                yield file, group

"""The rows that a manifest stands for, from however many files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from storage.errors import StoreError
from storage.manifest import Manifest
from storage.parquet import read_parquet
from storage.store import Store


def need_manifest(store: Store, stage: str, key: str) -> Manifest:
    """Find what a key stands for, as `Store.find` does, where a run has just had it.

    Raises StoreError if it is no longer there or no longer whole.
    """
    manifest = store.find(stage, key)
    if manifest is None:
        raise StoreError(
            f"{stage} {key[:12]} vanished from {store.url} while it was being used: check that the disk is still "
            "mounted and that nothing else cleans this folder, then give the same command again"
        )
    return manifest


def find_files(store: Store, manifest: Manifest, kind: str) -> list[Path]:
    """Find a manifest's files of one kind on this machine's disk; raises StoreError if it names none."""
    paths = manifest.paths(kind)
    if not paths:
        raise StoreError(f"the manifest {manifest.stage}/{manifest.key} names no file in {kind}/")
    return [store.local_path(path) for path in paths]


def read_rows(store: Store, manifest: Manifest, kind: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a manifest's rows of one kind, or these columns of them; StoreError if a file is missing or damaged."""
    tables = [read_parquet(path) for path in find_files(store, manifest, kind)]
    table = pa.concat_tables(tables)
    return table if columns is None else table.select(list(columns))

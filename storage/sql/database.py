"""Open a store as a read-only, sandboxed DuckDB database."""

from __future__ import annotations

import atexit
import json
import logging
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from storage.errors import StoreError
from storage.records.hashing import canonical_json, digest
from storage.records.manifest import Manifest, StoredFile
from storage.sql.comparisons import compared_reports, comparison_rows
from storage.sql.kept_databases import keep_database, restore_database
from storage.sql.macros import create_macros
from storage.sql.readonly_fs import PROTOCOL, CommittedFiles
from storage.sql.sample_lookup import SampleLookup
from storage.sql.shifts import shift_rows
from storage.sql.vectors import register
from storage.sql.views import LOADED, comments, file_view, row_view, text
from storage.store import Store
from storage.tables.schemas import KINDS

log = logging.getLogger("cmrm.storage")

_CONFINEMENT = """
SET allowed_directories = ['{protocol}://'];
SET temp_directory = {spill};
SET parquet_metadata_cache = true;
SET python_enable_replacements = false;
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET allow_community_extensions = false;
SET allow_persistent_secrets = false;
SET enable_external_access = false;
SET enable_progress_bar = true;
SET enable_progress_bar_print = false;
SET lock_configuration = true;
"""


def connect(
    url: str | Path, *, run: str | None = None, memory: str | None = None
) -> duckdb.DuckDBPyConnection:
    """Open a store for SQL: a view for each kind of table (`KINDS`), shifts, runs and comparisons.

    The views show the files of all current manifests, and are empty but typed on an empty store. SQL cannot write,
    read other files, use the network or lift these restrictions. Macros are those of `storage.sql.macros`. With `run`,
    a run's id or `latest`, the views show only what that run used. `memory`, such as 512MiB, is what a query may hold
    before it spills to the disk, by default most of the machine's.
    Raises StoreError if there is no such store or run.
    """
    store = Store.open(url)
    if not store.files.exists():
        raise StoreError(f"there is no store at {store.url}: check the path, or make one by a run")
    keys = None if run is None else set(map(str, store.find_run(run).get("keys") or ()))
    manifests = list(_present(store, keys))
    committed = CommittedFiles(store.files, {file.path: file for entry in manifests for file in entry.files})
    contents = _gather(store, manifests)
    lookup = SampleLookup(store.files, contents.paths["hidden_states"])
    with tempfile.TemporaryDirectory(prefix="cmrm-sql-") as folder:
        database = Path(folder) / "store.duckdb"
        if not restore_database(contents.key, database):
            _build(database, contents, committed, lookup)
            keep_database(contents.key, database)
        # A read-only database rejects every change; its folder is then deleted, as SQL could write into it.
        connection = duckdb.connect(database, read_only=True)
    connection.register_filesystem(committed)
    register(connection)
    lookup.register(connection)
    if memory is not None:
        connection.execute(f"SET memory_limit = {text(memory)}")
    connection.execute(_CONFINEMENT.format(protocol=PROTOCOL, spill=text(_make_spill(connection))))
    _close_at_exit(connection)
    return connection


def find_missing_keys(url: str | Path, run: str) -> list[str]:
    """List the keys that a run used and that are missing or damaged: its views lack their rows."""
    store = Store.open(url)
    keys = {str(key) for key in store.find_run(run).get("keys") or ()}
    return sorted(keys - {manifest.key for manifest in _present(store, keys)})


def _make_spill(connection: duckdb.DuckDBPyConnection) -> str:
    """Make the folder that large queries spill to: private to this user, deleted with the connection."""
    # DuckDB lets SQL write files into its spill folder alone: they stay private, and are deleted too.
    folder = tempfile.mkdtemp(prefix="cmrm-sql-")
    weakref.finalize(connection, shutil.rmtree, folder, ignore_errors=True)
    return str(Path(folder) / "spill")


def _present(store: Store, keys: set[str] | None) -> Iterator[Manifest]:
    wanted = [manifest for manifest in store.manifests() if keys is None or _belongs(manifest, keys)]
    folders = {file.path.partition("/")[0] for manifest in wanted for file in manifest.files}
    # One listing per folder: checking each file would cost a request each on a remote store.
    sizes = {path: size for folder in folders for path, size in store.files.sizes(folder).items()}
    for manifest in wanted:
        # Only `find` reads every byte; but a missing or truncated file would fail every query.
        missing = [file.path for file in manifest.files if sizes.get(file.path) != file.bytes]
        if missing:
            log.warning("%s/%s is left out: %s is not whole", manifest.stage, manifest.key, missing[0])
        else:
            yield manifest


def _belongs(manifest: Manifest, keys: set[str]) -> bool:
    """Whether a run with these keys used a manifest, or is one of two compared runs."""
    return manifest.key in keys or not keys.isdisjoint(compared_reports(manifest))


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """What a database is built of: the paths of each kind's files, and the rows of the other views as JSON lines."""

    paths: Mapping[str, Sequence[str]]
    lines: Mapping[str, str]

    @cached_property
    def key(self) -> str:
        """The digest of all that determines the database."""
        return digest([duckdb.__version__, *self.statements(Path()), *self.lines.values()])

    def statements(self, folder: Path) -> Iterator[str]:
        """Make the SQL that builds the database of the lines in a folder."""
        yield "CREATE SCHEMA stored"
        for kind in KINDS:
            yield file_view(kind, self.paths[kind])
        for name, schema in LOADED.items():
            yield row_view(name, schema, folder / f"{name}.jsonl")
        for name in (*KINDS, *LOADED):
            yield comments(name)
        yield create_macros()


def _gather(store: Store, manifests: Sequence[Manifest]) -> _Contents:
    files = [file for manifest in manifests for file in manifest.files]
    rows = {
        "shifts": (row for manifest in manifests for row in shift_rows(store, manifest)),
        "runs": map(_run, store.runs()),
        "comparisons": (row for manifest in manifests for row in comparison_rows(store, manifest)),
    }
    return _Contents(
        paths={kind: [file.path for file in files if _shown(file, kind)] for kind in KINDS},
        lines={name: _write_lines(rows[name]) for name in LOADED},
    )


def _build(database: Path, contents: _Contents, committed: CommittedFiles, lookup: SampleLookup) -> None:
    for name, lines in contents.lines.items():
        (database.parent / f"{name}.jsonl").write_text(lines, encoding="ascii")
    with duckdb.connect(database) as builder:
        builder.register_filesystem(committed)
        register(builder)
        lookup.register(builder)
        # In one transaction: otherwise each of some hundred statements would be one, and written to the disk.
        builder.begin()
        for statement in contents.statements(database.parent):
            builder.execute(statement)
        builder.commit()


def _write_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows for DuckDB to read, as JSON lines.

    With an Arrow table, Arrow would import pandas if it is installed, which takes as long as everything else.
    """
    return "".join(f"{json.dumps(row, allow_nan=False, default=_to_list)}\n" for row in rows)


def _to_list(vector: NDArray[np.float32]) -> list[float | str]:
    numbers = vector.tolist()
    # JSON has no NaN; as a text it is cast like the other numbers.
    return (
        numbers if np.isfinite(vector).all() else [one if math.isfinite(one) else str(one) for one in numbers]
    )


def _shown(file: StoredFile, kind: str) -> bool:
    return file.path.startswith(f"{kind}/") and file.path.endswith(".parquet")


def _run(record: dict[str, Any]) -> dict[str, Any]:
    model = record.get("model")
    return {
        "run_id": record["run_id"],
        "created_at": record.get("created_at"),
        "model": model if isinstance(model, str | None) else json.dumps(model, ensure_ascii=False),
        "status": record.get("status"),
        "keys": [str(key) for key in record.get("keys") or ()],
        "summary": canonical_json(record.get("summary")).decode(),
        "record": canonical_json(record).decode(),
    }


def _close_at_exit(connection: duckdb.DuckDBPyConnection) -> None:
    # DuckDB prints an error about file systems of connections that are open when Python exits.
    open_still = weakref.ref(connection)

    def close() -> None:
        if (left := open_still()) is not None:
            left.close()

    atexit.register(close)

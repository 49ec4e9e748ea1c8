"""Finished rows kept while a shard is still being worked on, so that a killed worker does not lose them."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from storage.errors import PartsGoneError, StoreError
from storage.identity import digest_bytes
from storage.paths import check_key, check_stage
from storage.store import Store
from storage.tables import pieces_to_bytes, read_parquet

log = logging.getLogger("cmrm.storage")


class PartWriter:
    """Appends rows to closed Parquet files under parts/<stage>/<key>/, each whole or not there.

    Rows are flushed once max_rows wait, or when rows come and the oldest has waited for max_seconds; leaving
    the `with` block flushes too, even after an error. Any number of writers may work on one key.
    """

    def __init__(
        self,
        store: Store,
        stage: str,
        key: str,
        schema: pa.Schema,
        *,
        max_rows: int,
        max_seconds: float = 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = f"parts/{check_stage(stage)}/{check_key(key)}"
        self._store = store
        self._schema = schema
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._clock = clock
        self._waiting: list[pa.Table] = []
        self._since = 0.0
        self._relied_on: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def append(self, rows: Sequence[Mapping[str, Any]] | pa.Table) -> None:
        """Take finished rows; raises StoreError if they do not fit the schema or the disk refuses a flush."""
        try:
            table = (
                rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=self._schema)
            )
            table = table.select(self._schema.names).cast(self._schema)
        except (pa.ArrowException, KeyError, UnicodeError, TypeError, ValueError) as error:
            raise StoreError(f"these rows do not fit the parts in {self.folder}: {error}") from error
        if not table.num_rows:
            return
        if not self._waiting:
            self._since = self._clock()
        self._waiting.append(table)
        if self.waiting >= self._max_rows or self._clock() - self._since >= self._max_seconds:
            self.flush()

    @property
    def waiting(self) -> int:
        """Count the rows that a kill would lose now."""
        return sum(table.num_rows for table in self._waiting)

    def flush(self) -> None:
        """Write the waiting rows as one closed part; raises StoreError if the disk refuses, and keeps them."""
        if not self._waiting:
            return
        data = pieces_to_bytes([pa.concat_tables(self._waiting)], self._schema)
        path = f"{self.folder}/part-{uuid.uuid4().hex}.{digest_bytes(data)[:12]}.parquet"
        self._store.write_bytes(path, data)
        self._waiting.clear()
        self._relied_on.add(path)

    def done(self, *columns: str) -> set[Any]:
        """Collect what is already on disk: values of one column, or tuples of several."""
        found: set[Any] = set()
        for table in self._parts():
            values = [table[name].to_pylist() for name in columns]
            found.update(values[0] if len(columns) == 1 else zip(*values, strict=True))
        return found

    def read(self, *ids: str) -> pa.Table:
        """Read all rows on disk, one for each combination of the id columns; the first part's row wins.

        Raises PartsGoneError if parts that this writer wrote or counted as done were removed: another worker has
        committed this key, so look for its manifest.
        """
        seen: set[tuple[Any, ...]] = set()
        tables = [self._schema.empty_table()]
        for table in self._parts():
            fresh = []
            for row in zip(*(table[name].to_pylist() for name in ids), strict=True):
                fresh.append(row not in seen)
                seen.add(row)
            tables.append(table.filter(pa.array(fresh, pa.bool_())) if ids else table)
        return pa.concat_tables(tables)

    def discard(self) -> None:
        """Remove the parts, once their rows are committed elsewhere."""
        for path in self._store.files.under(self.folder):
            self._store.files.remove(path)
        self._store.files.prune(self.folder)
        self._relied_on.clear()
        self._waiting.clear()

    def _parts(self) -> list[pa.Table]:
        paths = [path for path in self._store.files.under(self.folder) if path.endswith(".parquet")]
        if gone := self._relied_on - set(paths):
            raise PartsGoneError(
                f"{len(gone)} parts in {self._store.url}/{self.folder} were removed: another worker has committed "
                "this key; use its manifest, or work through the rows again"
            )
        tables = {path: self._part(path) for path in paths}
        whole = {path: table for path, table in tables.items() if table is not None}
        self._relied_on.update(whole)
        return list(whole.values())

    def _part(self, path: str) -> pa.Table | None:
        try:
            data = self._store.read(path)
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            if path not in self._relied_on:
                return None
            # It was there when the folder was listed, a moment ago.
            raise PartsGoneError(f"{path} was removed: another worker has committed this key") from error
        try:
            return _whole(path, data, self._schema)
        except StoreError as error:
            if path in self._relied_on:
                raise PartsGoneError(
                    f"{path} was damaged while it was in use: work through the rows again"
                ) from error
            log.warning("%s counts as not there: %s; its rows are made again", path, error)
            return None


def _whole(path: str, data: bytes, schema: pa.Schema) -> pa.Table:
    if digest_bytes(data)[:12] not in path:
        raise StoreError("it was changed after it was written")
    try:
        return read_parquet(data).select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError) as error:
        raise StoreError(f"it has other columns: {error}") from error

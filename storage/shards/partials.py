"""Partial files of an unfinished shard: flushed rows, which survive a killed worker."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from storage.errors import PartsGoneError, StoreError
from storage.records.hashing import digest_bytes
from storage.records.layout import check_key, check_stage
from storage.records.manifest import StoredFile
from storage.store import Store
from storage.tables.hashing_sink import WrittenFile
from storage.tables.parquet import read_parquet

log = logging.getLogger("cmrm.storage")


class Parts:
    """Parquet files under parts/<stage>/<key>/, written atomically; any number of workers may add some.

    Each has its digest in its name, and the columns of a committed file: without its partition columns.
    """

    def __init__(self, store: Store, stage: str, key: str) -> None:
        self.folder = f"parts/{check_stage(stage)}/{check_key(key)}"
        self._store = store

    def start(self) -> Path:
        """Make an empty scratch file for a part, to be filled and passed to `keep`."""
        return self._store.files.scratch(self.folder)

    def keep(self, written: WrittenFile) -> StoredFile:
        """Add a finished file to the parts; raises StoreError if the write fails."""
        path = f"{self.folder}/{uuid.uuid4().hex}.{written.sha256[:12]}.parquet"
        self._store.files.adopt(path, written.path)
        return StoredFile(path=path, bytes=written.bytes, sha256=written.sha256, rows=written.rows)

    def read_all(self) -> Iterator[tuple[StoredFile, pa.Table]]:
        """Read the intact parts, one at a time; damaged ones are skipped and logged."""
        for path in self._store.files.under(self.folder):
            try:
                data = self._store.read(path)
                sha256 = digest_bytes(data)
                if sha256[:12] not in path:
                    raise StoreError("it was changed after it was written")
                table = read_parquet(data)
            except StoreError as error:
                # Another worker that committed the same key removed it, or it is damaged.
                log.warning("%s counts as not there: %s; its rows are made again", path, error)
                continue
            yield StoredFile(path=path, bytes=len(data), sha256=sha256, rows=table.num_rows), table

    def read(self, part: StoredFile) -> pa.Table:
        """Read a part again; raises PartsGoneError if another worker removed it."""
        try:
            return read_parquet(self._store.read(part.path))
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise PartsGoneError(
                    f"{part.path} was removed: another worker has committed this key"
                ) from error
            raise

    def discard(self) -> None:
        """Remove the parts, once their rows are committed elsewhere."""
        for path in self._store.files.under(self.folder):
            self._store.files.remove(path)
        self._store.files.prune(self.folder)

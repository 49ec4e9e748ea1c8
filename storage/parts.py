"""Finished rows in closed files while their shard is still being worked on, lest a killed worker lose them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from storage.errors import PartsGoneError, StoreError
from storage.identity import digest_bytes
from storage.manifest import StoredFile
from storage.parquet import read_parquet
from storage.paths import check_key, check_stage
from storage.sink import WrittenFile
from storage.store import Store

log = logging.getLogger("cmrm.storage")


class Parts:
    """Parquet files under parts/<stage>/<key>/, each whole or not there; any number of workers may add some.

    Each has its digest in its name, and the columns of a committed file: those that its folders say are left out.
    """

    def __init__(self, store: Store, stage: str, key: str) -> None:
        self.folder = f"parts/{check_stage(stage)}/{check_key(key)}"
        self._store = store

    def start(self) -> Path:
        """Make an empty file for a part, to be filled and then kept."""
        return self._store.files.scratch(self.folder)

    def keep(self, written: WrittenFile) -> StoredFile:
        """Let a finished file be one of the parts; raises StoreError if the disk refuses."""
        path = f"{self.folder}/{uuid.uuid4().hex}.{written.sha256[:12]}.parquet"
        self._store.files.adopt(path, written.path)
        return StoredFile(path=path, bytes=written.bytes, sha256=written.sha256, rows=written.rows)

    def read_all(self) -> Iterator[tuple[StoredFile, pa.Table]]:
        """Read the parts that are whole, one at a time; damaged ones count as not there, and the log says so."""
        for path in self._store.files.under(self.folder):
            try:
                data = self._store.read(path)
                sha256 = digest_bytes(data)
                if sha256[:12] not in path:
                    raise StoreError("it was changed after it was written")
                table = read_parquet(data)
            except StoreError as error:
                # Another worker that committed the same key has removed it, or it is damaged.
                log.warning("%s counts as not there: %s; its rows are made again", path, error)
                continue
            yield StoredFile(path=path, bytes=len(data), sha256=sha256, rows=table.num_rows), table

    def read(self, part: StoredFile) -> pa.Table:
        """Read a part again; raises PartsGoneError if another worker has removed it since."""
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

"""Finished rows kept while a shard is still being worked on, so that a killed worker does not lose them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing

import pyarrow as pa

from storage.errors import StoreError, explained
from storage.identity import digest_bytes
from storage.paths import check_key, check_stage
from storage.schemas import Kind
from storage.sink import HashingSink
from storage.store import Store

log = logging.getLogger("cmrm.storage")


class Parts:
    """Closed files of rows under parts/<stage>/<key>/, each whole or not there; any number of workers may add some.

    Arrow files, since a part is read once at most and must not cost the model's time; each holds its digest in its
    name. All rows of one `unit`, such as a sample, lie in one part.
    """

    def __init__(self, store: Store, stage: str, key: str, kind: Kind, *, unit: str) -> None:
        self.folder = f"parts/{check_stage(stage)}/{check_key(key)}"
        self._store = store
        self._kind = kind
        self._unit = unit

    def write(self, tables: Sequence[pa.Table]) -> None:
        """Write rows as one part; raises StoreError if the disk refuses."""
        place = self._store.files.scratch(self.folder)
        try:
            with (
                explained("write", str(place)),
                closing(HashingSink(place)) as sink,
                pa.ipc.new_file(sink, tables[0].schema) as writer,
            ):
                for table in tables:
                    writer.write_table(table)
            written = sink.written()
            self._store.files.adopt(f"{self.folder}/{uuid.uuid4().hex}.{written.sha256[:12]}.arrow", place)
        finally:
            place.unlink(missing_ok=True)

    def read(self) -> Iterator[pa.Table]:
        """Read the parts that are whole, one at a time, each unit once; damaged ones count as not there."""
        seen: set[str] = set()
        for path in self._store.files.under(self.folder):
            table = self._read_one(path) if path.endswith(".arrow") else None
            if table is None:
                continue
            units = table[self._unit].to_pylist()
            # Two workers may both have finished a sample.
            yield table.filter(pa.array([unit not in seen for unit in units], pa.bool_()))
            seen.update(units)

    def discard(self) -> None:
        """Remove the parts, once their rows are committed elsewhere."""
        for path in self._store.files.under(self.folder):
            self._store.files.remove(path)
        self._store.files.prune(self.folder)

    def _read_one(self, path: str) -> pa.Table | None:
        try:
            data = self._store.read(path)
            if digest_bytes(data)[:12] not in path:
                raise StoreError("it was changed after it was written")
            table = pa.ipc.open_file(data).read_all()
            if table.column_names != self._kind.schema.names:
                raise StoreError("it has other columns")
        except (StoreError, pa.ArrowException) as error:
            # Another worker that committed the same key has removed it, or it is damaged: its rows are made again.
            log.warning("%s counts as not there: %s; its rows are made again", path, error)
            return None
        return table

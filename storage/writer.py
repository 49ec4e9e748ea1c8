"""A shard's rows on their way to the disk, beside the work that makes them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from storage.errors import StoreError, explained
from storage.parquet import ROW_GROUP, ROW_GROUP_BYTES, TableWriter
from storage.parts import Parts
from storage.sink import HashingSink, WrittenFile
from storage.store import Store
from storage.tables import conform, kind_of

log = logging.getLogger("cmrm.storage")

# Of what a kill may lose: so many seconds, or so many bytes that wait in memory.
PART_SECONDS = 15.0
PART_BYTES = 64 << 20
# Batches that may wait for the disk; whoever makes more of them waits too.
_AHEAD = 2


class ShardWriter:
    """Takes finished rows and writes them in a thread of its own; memory does not grow with their number.

    Rows go into one Parquet file, which counts once it is committed, and into a closed part each time that 15 seconds
    have passed or 64 MB wait; the next worker on the same key goes on from the parts. Errors of the disk surface in a
    later `append` or in `finish`. Leaving the `with` block keeps what came in as a part, after an error too, and
    removes a file that was not committed.
    """

    def __init__(
        self,
        store: Store,
        stage: str,
        key: str,
        kind: str,
        *,
        unit: str = "sample_id",
        part_bytes: int = PART_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.parts = Parts(store, stage, key, kind_of(kind), unit=unit)
        self._kind = kind
        self._unit = unit
        self._part_bytes = part_bytes
        self._clock = clock
        self._place = store.files.scratch(self.parts.folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cmrm-writer")
        self._pending: deque[Future[None]] = deque()
        self._chunk: list[pa.Table] = []
        self._part: list[pa.Table] = []
        self._flushed = clock()
        self._sink: HashingSink | None = None
        self._file: TableWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._submit(self._flush)
            self._wait(0)
        except StoreError as fault:
            if error is None:
                raise
            log.warning("finished rows could not be kept: %s", fault)
        finally:
            self._thread.shutdown()
            self._abandon()

    def resume(self, *columns: str) -> pa.Table:
        """Take up the rows that earlier workers left in parts; returns these columns of them."""
        schema = kind_of(self._kind).schema
        taken = [pa.schema([schema.field(name) for name in columns]).empty_table()]
        for table in self.parts.read():
            self._submit(self._add, table)
            taken.append(table.select(list(columns)))
        return pa.concat_tables(taken)

    def append(self, rows: pa.Table) -> None:
        """Take finished rows, all of a unit's at once; waits while two batches are still being written.

        Raises StoreError if an earlier batch did not fit the kind, or the disk refused it.
        """
        if rows.num_rows:
            self._submit(self._keep, rows)

    def finish(self) -> WrittenFile:
        """Wait until all rows are written and the file is closed, to be committed before the block ends."""
        self._submit(self._close)
        self._wait(0)
        assert self._sink is not None
        assert self._file is not None
        return self._sink.written(rows=self._file.rows)

    def discard(self) -> None:
        """Forget all parts: what they hold is committed."""
        self._part = []
        self.parts.discard()

    def _submit(self, work: Callable[..., None], *arguments: Any) -> None:
        self._wait(_AHEAD - 1)
        self._pending.append(self._thread.submit(self._explain, work, *arguments))

    def _wait(self, most: int) -> None:
        while len(self._pending) > most:
            self._pending.popleft().result()

    def _explain(self, work: Callable[..., None], *arguments: Any) -> None:
        with explained("write", str(self._place)):
            work(*arguments)

    def _keep(self, rows: pa.Table) -> None:
        rows = conform(rows, self._kind)
        self._part.append(rows)
        self._add(rows)
        # Counted from the last flush, so that slow batches are flushed one by one.
        late = self._clock() - self._flushed >= PART_SECONDS
        if late or sum(table.nbytes for table in self._part) >= self._part_bytes:
            self._flush()

    def _flush(self) -> None:
        if self._part:
            self.parts.write(self._part)
            self._part = []
        self._flushed = self._clock()

    def _add(self, rows: pa.Table) -> None:
        self._chunk.append(rows)
        if _is_full(self._chunk):
            self._write_chunk()

    def _write_chunk(self) -> None:
        if self._file is None:
            self._sink = HashingSink(self._place)
            self._file = TableWriter(self._kind, self._sink)
        if self._chunk:
            self._file.write(pa.concat_tables(self._chunk))
            self._chunk = []

    def _close(self) -> None:
        self._write_chunk()
        assert self._file is not None
        assert self._sink is not None
        self._file.close()
        self._sink.close()

    def _abandon(self) -> None:
        if self._file is not None:
            self._file.abandon()
        if self._sink is not None:
            with contextlib.suppress(OSError):
                self._sink.close()
        with explained("remove", str(self._place)):
            self._place.unlink(missing_ok=True)


def _is_full(chunk: list[pa.Table]) -> bool:
    """Whether the rows fill a row group, of each block where there are blocks."""
    size = sum(table.nbytes for table in chunk)
    if "block" in chunk[0].column_names:
        return size >= ROW_GROUP_BYTES * len(chunk[0]["block"].unique())
    return size >= PART_BYTES or sum(table.num_rows for table in chunk) >= ROW_GROUP

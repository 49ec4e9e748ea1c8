"""The shard writer: flush a shard's rows to Parquet in a background thread, while they are computed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from storage.errors import StoreError, explained
from storage.records.manifest import StoredFile
from storage.shards.partials import Parts
from storage.store import Store
from storage.tables.arrow import conform, kind_of
from storage.tables.hashing_sink import HashingSink, WrittenFile
from storage.tables.parquet import TableWriter
from storage.tables.row_groups import ROW_GROUP, ROW_GROUP_BYTES

log = logging.getLogger("cmrm.storage")

# A part is closed after this many seconds or bytes: what a kill may lose, and the file size of a shard.
PART_SECONDS = 15.0
PART_BYTES = 64 << 20
# Smaller parts, from a slow model, are merged into files of at least this size in the end.
SMALLEST_FILE = 32 << 20
# Batches that may be queued for the disk; `append` blocks beyond that.
_MOST_QUEUED = 2


def make_writer_thread() -> ThreadPoolExecutor:
    """Make the thread in which shard writers write: one, so that each writer's work is done in its order."""
    return ThreadPoolExecutor(1, thread_name_prefix="cmrm-writer")


class ShardWriter:
    """Writes finished rows in a background thread, with memory independent of their number.

    `partitions` are the values of the kind's folders, the same in all rows. `thread` is a pool of one thread that
    several writers share, and that outlives them; a writer without one has its own.

    Rows go into Parquet files that are closed, as parts, after every 15 seconds or 64 MB; the next worker on the same
    key resumes from them, and in the end they are committed. Write errors are raised in a later `append` or in
    `finish`. Leaving the `with` block flushes all rows, after an error too.
    """

    def __init__(
        self,
        store: Store,
        stage: str,
        key: str,
        kind: str,
        *,
        unit: str = "sample_id",
        partitions: Mapping[str, str] | None = None,
        part_bytes: int = PART_BYTES,
        clock: Callable[[], float] = time.monotonic,
        thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self.parts = Parts(store, stage, key)
        self._kind = kind
        self._unit = unit
        self._partitions = dict(partitions or {})
        self._part_bytes = part_bytes
        self._clock = clock
        self._thread = make_writer_thread() if thread is None else thread
        self._owns_thread = thread is None
        self._pending: deque[Future[None]] = deque()
        self._chunk: list[pa.Table] = []
        self._closed_at = clock()
        self._file: _OpenFile | None = None
        # Parts that are being synced, with their rows by unit, in the order of `_kept`.
        self._closing: deque[tuple[Future[StoredFile], Counter[str]]] = deque()
        self._kept: list[StoredFile] = []
        # The rows of each file by unit, as written, so that lost rows are detected.
        self._units: dict[str, Counter[str]] = {}
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._failure is None:
                self._submit(self._close_part)
            self._wait(0)
        except StoreError as fault:
            if error is None:
                raise
            log.warning("finished rows could not be kept: %s", fault)
        finally:
            if self._owns_thread:
                self._thread.shutdown()
            wait(self._pending)
            self._abandon()
            wait([part for part, _ in self._closing])

    def resume(self, *columns: str) -> pa.Table:
        """Take over the rows that earlier workers left in parts; return these columns of them, each unit once."""
        schema = kind_of(self._kind).schema
        taken = [pa.schema([schema.field(name) for name in columns]).empty_table()]
        seen: set[str] = set()
        for part, table in self.parts.read_all():
            units = table[self._unit].to_pylist()
            fresh = table
            if seen.isdisjoint(units):
                self._kept.append(part)
                self._units[part.path] = Counter(units)
            else:
                # Two workers have both finished a sample.
                fresh = table.filter(pa.array([unit not in seen for unit in units], pa.bool_()))
                self._submit(self._add, self._widen(fresh))
            taken.append(fresh.select(list(columns)))
            seen.update(units)
        return pa.concat_tables(taken)

    def append(self, rows: pa.Table) -> None:
        """Queue finished rows, all of a unit's at once; blocks while two batches are still being written.

        Raises StoreError if an earlier batch did not match the kind's schema, or its write failed.
        """
        if rows.num_rows:
            self._submit(self._add, rows)

    def finish(self) -> list[StoredFile]:
        """Wait until all rows are written and small parts merged; return the parts to be committed.

        Raises PartsGoneError if another worker has committed the same key and removed its parts.
        """
        self._submit(self._close)
        self._wait(0)
        return list(self._kept)

    @property
    def units(self) -> Counter[str]:
        """How many rows of each unit are in the files that `finish` returned."""
        return sum((self._units[part.path] for part in self._kept), Counter())

    def discard(self) -> None:
        """Delete all parts, once their rows are committed."""
        self.parts.discard()

    def _submit(self, work: Callable[..., None], *arguments: Any) -> None:
        self._wait(_MOST_QUEUED - 1)
        self._pending.append(self._thread.submit(self._explain, work, *arguments))

    def _wait(self, most: int) -> None:
        while len(self._pending) > most:
            # Taken from the queue once it has ended, so that what a signal interrupts is waited for on leaving.
            wait([self._pending[0]])
            self._pending.popleft().result()

    def _explain(self, work: Callable[..., None], *arguments: Any) -> None:
        if self._failure is not None:
            # The failed file lost rows: continuing would commit a shard without them.
            raise self._failure
        try:
            with explained("write", self.parts.folder):
                work(*arguments)
        except BaseException as error:
            # The next worker computes the rows of the failed file again, like all since the last part.
            self._chunk = []
            self._abandon()
            self._failure = error
            raise

    def _add(self, rows: pa.Table) -> None:
        self._chunk.append(conform(rows, self._kind))
        if _is_full(self._chunk):
            self._write_chunk()
        # Counted from the last part, so that slow batches are closed one by one.
        if self._clock() - self._closed_at >= PART_SECONDS:
            self._close_part()
        elif self._file is not None and self._file.size >= self._part_bytes:
            self._begin_closing()

    def _write_chunk(self) -> None:
        if self._file is None:
            self._file = _OpenFile(self._kind, self._unit, self.parts.start())
        if self._chunk:
            self._file.write(pa.concat_tables(self._chunk))
            self._chunk = []

    def _close_part(self) -> None:
        self._begin_closing()
        self._collect(0)

    def _begin_closing(self) -> None:
        """Close the part that is written; the disk takes it while the next one is encoded."""
        self._closed_at = self._clock()
        if self._chunk or self._file is not None:
            self._write_chunk()
            assert self._file is not None
            file, self._file = self._file, None
            self._closing.append((file.close_later(self.parts.keep), file.units))
            self._collect(1)

    def _collect(self, most: int) -> None:
        """Wait until at most so many parts are still being closed."""
        while len(self._closing) > most:
            closing, units = self._closing.popleft()
            part = closing.result()
            self._kept.append(part)
            self._units[part.path] = units

    def _close(self) -> None:
        self._collect(0)
        small = [part for part in self._kept if part.bytes < SMALLEST_FILE]
        if len(small) > 1 or self._chunk or self._file is not None or not self._kept:
            for part in small:
                self._chunk.append(self._widen(self.parts.read(part)))
                self._kept.remove(part)
                if _is_full(self._chunk):
                    self._write_chunk()
            self._write_chunk()
            self._close_part()

    def _widen(self, rows: pa.Table) -> pa.Table:
        """The rows of a part with its partition columns."""
        for name, value in self._partitions.items():
            rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
        return conform(rows, self._kind)

    def _abandon(self) -> None:
        if self._file is not None:
            self._file.abandon()
            self._file = None


class _OpenFile:
    """An open Parquet file, hashed while it is written."""

    def __init__(self, kind: str, unit: str, place: Path) -> None:
        self.units: Counter[str] = Counter()
        self._unit = unit
        self._sink = HashingSink(place)
        self._table = TableWriter(kind, self._sink)

    @property
    def size(self) -> int:
        return self._sink.tell()

    def write(self, chunk: pa.Table) -> None:
        self._table.write(chunk)
        counted = chunk[self._unit].value_counts()
        self.units.update(dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True)))

    def close_later(self, keep: Callable[[WrittenFile], StoredFile]) -> Future[StoredFile]:
        """Write the footer, and let a thread sync the file and keep it."""
        try:
            self._table.close()
            return self._sink.close_later(keep, rows=self._table.rows)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        self._table.abandon()
        with contextlib.suppress(OSError):
            self._sink.close()
        self._sink.path.unlink(missing_ok=True)


def _is_full(chunk: Sequence[pa.Table]) -> bool:
    """Whether the rows fill a row group, or one per block and position if there are blocks."""
    size = sum(table.nbytes for table in chunk)
    if "block" in chunk[0].column_names:
        groups = len(chunk[0]["block"].unique()) * len(chunk[0]["position"].unique())
        return size >= ROW_GROUP_BYTES * groups
    return size >= SMALLEST_FILE or sum(table.num_rows for table in chunk) >= ROW_GROUP

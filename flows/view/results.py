"""Results of queries: rows are read from DuckDB as the page asks for them, and kept in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock, Thread
from typing import IO
from uuid import uuid4

import pyarrow as pa

from cmrm.errors import UserError
from flows.sql.batches import Batches, T
from flows.view.databases import Databases, Scope
from storage.errors import explained

# Results that are kept; a page whose result is gone asks again.
MOST_KEPT = 8
# Between two interrupts of a query.
INTERRUPT_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Where a batch of rows lies in the file: its first row, its rows, its place and its bytes."""

    start: int
    rows: int
    place: int
    size: int


class Result:
    """The rows of one query, in the order in which DuckDB gave them; each is computed once.

    Safe to use from several threads; `stop` may be called while another thread reads.
    """

    def __init__(self, scope: Scope, query: str) -> None:
        self.warning = scope.warning
        self._scope = scope
        self._lock = Lock()
        self._pieces: list[_Piece] = []
        # Rows are not held in memory, whatever their number.
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="cmrm-view-")  # noqa: SIM115 - closed by close()
        self._ended = self._stopped = False
        self._query = query
        self._batches: Batches | None = None
        # Why there are no further rows.
        self._fault: UserError | None = None

    def start(self) -> pa.Schema:
        """Start the query and return its columns; raises `UserError` if it is refused."""
        with self._lock:
            self._refuse_stopped()
            if self._batches is None:
                self._batches = Batches(self._scope.connection, self._query, _do)
            return self._batches.schema

    def read(self, start: int, most: int) -> pa.Table:
        """Read at most `most` rows from row `start` on; raises `UserError` for a query that fails midway."""
        schema = self.start()
        with self._lock:
            while not self._ended and self._count() < start + most:
                self._take()
            found = [
                self._load(piece).slice(max(0, start - piece.start), start + most - max(start, piece.start))
                for piece in self._pieces
                if piece.start < start + most and start < piece.start + piece.rows
            ]
        return pa.Table.from_batches(found, schema)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Iterate over all rows, from the first one on."""
        self.start()
        number = 0
        while (batch := self._find(number)) is not None:
            yield batch
            number += 1

    def stop(self) -> None:
        """Interrupt what is running on the connection, without waiting; the result is of no use afterwards."""
        self._stopped = True
        Thread(target=self._interrupt, name="cmrm-view-stop", daemon=True).start()

    def close(self) -> None:
        """Stop, and release the connection and the file."""
        self._stopped = True
        self._interrupt()
        with self._lock:
            self._batches = None
            self._scope.connection.close()
            self._file.close()

    @property
    def total(self) -> int | None:
        """The number of all rows, once the last one was read; None before."""
        return self._count() if self._ended else None

    def _interrupt(self) -> None:
        """Interrupt until nothing runs: DuckDB forgets an interrupt that comes just before its query begins."""
        while not self._lock.acquire(timeout=INTERRUPT_SECONDS):
            self._scope.connection.interrupt()
        try:
            # Threads of DuckDB compute rows ahead of those that were asked for, and to close would wait for them.
            if not self._file.closed:
                self._scope.connection.interrupt()
        finally:
            self._lock.release()

    def _refuse_stopped(self) -> None:
        if self._stopped:
            raise UserError("the query was stopped: run it again")

    def _count(self) -> int:
        return self._pieces[-1].start + self._pieces[-1].rows if self._pieces else 0

    def _find(self, number: int) -> pa.RecordBatch | None:
        with self._lock:
            while number >= len(self._pieces) and not self._ended:
                self._take()
            return self._load(self._pieces[number]) if number < len(self._pieces) else None

    def _take(self) -> None:
        """Take the next batch from DuckDB, and append it to the file."""
        self._refuse_stopped()
        if self._fault is not None:
            raise self._fault
        assert self._batches is not None
        try:
            batch = next(self._batches, None)
        except UserError as error:
            self._fault = error
            raise
        if batch is None:
            self._ended = True
            return
        if not batch.num_rows:
            return
        sink = pa.BufferOutputStream()
        # With its schema: a column of words may have a dictionary of its own in each batch.
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        data = sink.getvalue()
        with explained("write", "the rows of the result to the folder of temporary files"):
            place = self._file.seek(0, 2)
            self._file.write(data)
        self._pieces.append(_Piece(start=self._count(), rows=batch.num_rows, place=place, size=data.size))

    def _load(self, piece: _Piece) -> pa.RecordBatch:
        if self._file.closed:
            raise UserError("the result was closed: run the query again")
        self._file.seek(piece.place)
        return pa.ipc.open_stream(self._file.read(piece.size)).read_next_batch()


class Results:
    """The results of a server, by id, the last ones used."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._kept: dict[str, Result] = {}
        self._lock = Lock()

    def add(self, query: str, run: str | None) -> tuple[str, Result]:
        """Add the result of a query, not started yet, under a new id; raises `StoreError` without such a run."""
        result = Result(self._databases.open_scope(run), query)
        name = uuid4().hex
        with self._lock:
            self._kept[name] = result
            old = [self._kept.pop(oldest) for oldest in [*self._kept][:-MOST_KEPT]]
        for one in old:
            one.close()
        return name, result

    def find(self, name: str) -> Result:
        """Find a result by its id; raises `UserError` for one that is no longer kept."""
        with self._lock:
            result = self._kept.pop(name, None)
            if result is None:
                raise UserError(
                    f"the rows of this query are no longer kept (the last {MOST_KEPT} are): run it again"
                )
            self._kept[name] = result
            return result

    def drop(self, name: str) -> None:
        """Stop and close a result, if it is still kept."""
        with self._lock:
            result = self._kept.pop(name, None)
        if result is not None:
            result.close()

    def stop(self) -> None:
        """Stop all that is running."""
        with self._lock:
            for result in self._kept.values():
                result.stop()

    def close(self) -> None:
        """Close all results."""
        while self._kept:
            self.drop(next(iter(self._kept)))


def _do(work: Callable[[], T], /) -> T:
    return work()

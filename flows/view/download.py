"""All rows of a result as a file, streamed: CSV that no spreadsheet evaluates, or Parquet as DuckDB gave them."""

from __future__ import annotations

import io
from collections.abc import Callable, Coroutine
from functools import partial
from threading import Event
from types import MappingProxyType
from typing import IO, Any, cast

import pyarrow as pa
from anyio import from_thread, to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cmrm.errors import UserError
from flows.report.writers.exports import disarm
from flows.sql.export import check_columns, write_rows
from flows.view.results import Result
from flows.view.watching import watched

FORMATS = MappingProxyType({"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"})
CHUNK_BYTES = 1 << 16


class _GoneError(Exception):
    """The browser no longer reads."""


class Download(Response):
    """A response with all rows of a result whose query was started; raises `UserError` for columns it cannot hold."""

    def __init__(self, result: Result, format: str) -> None:  # noqa: A002 - named as everywhere
        self._schema = result.start()
        check_columns(self._schema, format)
        self._result = result
        self._format = format
        disposition = f'attachment; filename="rows.{format}"'
        super().__init__(headers={"content-disposition": disposition}, media_type=FORMATS[format])
        # Of a length that is not known before.
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - Starlette's signature
        """Send the rows as they are read, until the browser goes away."""
        gone = Event()

        def leave() -> None:
            gone.set()
            # A batch of rows may take hours, which nobody waits for now; rows that are all computed stay of use.
            if self._result.total is None:
                self._result.stop()

        async def push(data: bytes, *, more: bool) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with watched(receive, leave):
            try:
                await to_thread.run_sync(self._write, _Sink(partial(push, more=True), gone))
            except (_GoneError, UserError):
                if gone.is_set():
                    return
                raise
        await push(b"", more=False)

    def _write(self, sink: _Sink) -> None:
        rows, schema = self._result.batches(), self._schema
        if self._format == "csv":
            rows, schema = (_disarm_batch(batch) for batch in rows), _disarm_names(schema)
        write_rows(rows, schema, cast(IO[bytes], sink), self._format)
        sink.finish()


class _Sink(io.RawIOBase):
    """A stream that hands on what is written, from a thread, in chunks."""

    def __init__(self, push: Callable[[bytes], Coroutine[Any, Any, None]], gone: Event) -> None:
        super().__init__()
        self._push = push
        self._gone = gone
        self._waiting = bytearray()
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type] # bytes, or a buffer of Arrow
        self._waiting += view
        self._written += view.nbytes
        if len(self._waiting) >= CHUNK_BYTES:
            self._send()
        return view.nbytes

    def finish(self) -> None:
        """Hand on what is left."""
        if self._waiting:
            self._send()

    def _send(self) -> None:
        if self._gone.is_set():
            raise _GoneError
        data, self._waiting = bytes(self._waiting), bytearray()
        from_thread.run(self._push, data)


def _disarm_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Texts that no spreadsheet evaluates; numbers stay numbers."""
    columns = [_disarm_column(column) if _is_text(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=_disarm_names(batch.schema))


def _disarm_column(column: pa.Array) -> pa.Array:
    texts = column.to_pylist()
    return pa.array([None if text is None else disarm(text) for text in texts], type=pa.string())


def _disarm_names(schema: pa.Schema) -> pa.Schema:
    return pa.schema(
        [
            pa.field(disarm(field.name), pa.string() if _is_text(field.type) else field.type)
            for field in schema
        ]
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

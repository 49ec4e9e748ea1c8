"""Parquet files with a column of vectors: Arrow writes and reads the other columns, and here are the vectors."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.tables.arrow import list_vectors
from storage.tables.hashing_sink import Buffer, HashingSink
from storage.tables.row_groups import RowGroup
from storage.tables.thrift import I64, Struct, read_struct, write_struct
from storage.tables.vector_pages import (
    VectorChunk,
    count_bytes_before,
    decode_vectors,
    encode_vectors,
    find_numbers,
)

# The footer's length and the magic number, which end a Parquet file.
_MAGIC = b"PAR1"
_TAIL = 4 + len(_MAGIC)
# Fields that hold offsets in the file: of ColumnMetaData's pages and Bloom filter, and of RowGroup.
_PAGES, _FILTERS, _ROW_GROUP = (9, 10, 11), (14,), (5,)
# Threads that compress: one is slower than the disk, and more would take cores from a model that runs on them.
_ENCODERS = 2


class VectorFile:
    """Writes a Parquet file whose last column is vectors, row group by row group.

    `schema` is the whole file's; `options` are Arrow's for the other columns. Without `close` the file is invalid.
    """

    def __init__(self, place: IO[bytes] | HashingSink, schema: pa.Schema, **options: Any) -> None:
        self._schema = schema
        self._column = schema.names[-1]
        self._sink = _Interleaved(place)
        self._writer = pq.ParquetWriter(
            self._sink, schema.remove(len(schema) - 1), store_schema=False, **options
        )
        self._chunks: list[VectorChunk] = []
        self._encoders = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="cmrm-encoder")

    def write_row_groups(self, groups: Iterable[RowGroup]) -> None:
        """Write row groups in their order; threads encode the vectors of the next ones meanwhile."""
        ahead: deque[tuple[pa.Table, Future[VectorChunk]]] = deque()
        for group in groups:
            ahead.append((group.others, self._encoders.submit(self._encode, group)))
            if len(ahead) > _ENCODERS:
                self._write(*ahead.popleft())
        while ahead:
            self._write(*ahead.popleft())

    def close(self) -> None:
        """Write the footer."""
        self._encoders.shutdown()
        self._sink.hold()
        self._writer.close()
        rest = self._sink.release()
        size = int.from_bytes(rest[-_TAIL : -len(_MAGIC)], "little")
        # Arrow puts Bloom filters between the last row group and the footer.
        self._sink.write(rest[: -_TAIL - size])
        footer = self._complete(rest[-_TAIL - size : -_TAIL])
        self._sink.write(footer + len(footer).to_bytes(4, "little") + _MAGIC)

    def abandon(self) -> None:
        """Leave the file without a footer."""
        self._encoders.shutdown(cancel_futures=True)
        self._writer.is_open = False

    def _encode(self, group: RowGroup) -> VectorChunk:
        return encode_vectors(group.gather(), self._column)

    def _write(self, others: pa.Table, encoded: Future[VectorChunk]) -> None:
        self._writer.write_table(others, row_group_size=len(others))
        chunk = encoded.result()
        self._chunks.append(chunk)
        self._sink.put(chunk.buffers)

    def _complete(self, footer: bytes) -> bytes:
        """Add the vectors to Arrow's footer (FileMetaData of parquet.thrift) of the other columns."""
        chunks = iter(self._chunks)
        before = 0
        total = sum(chunk.stored for chunk in self._chunks)

        def complete(group: Struct) -> bytes:
            nonlocal before
            chunk = next(chunks)
            columns = group[1][1].values
            for column in columns:
                _shift(column[3][1], _PAGES, before)
                _shift(column[3][1], _FILTERS, total)
            _shift(group, _ROW_GROUP, before)
            columns.append(chunk.describe(group[5][1] + group[6][1]))
            for field, size in ((2, chunk.plain), (6, chunk.stored)):
                group[field] = (I64, group[field][1] + size)
            before += chunk.stored
            return write_struct(group)

        others = read_struct(footer, {4: complete})
        # Schema, key-value metadata and column orders are those of a file of all columns without rows.
        return write_struct({**_describe(self._schema), 3: others[3], 4: others[4]})


def read_row_groups(path: Path, file: pq.ParquetFile, groups: Sequence[int]) -> pa.Table:
    """Read row groups of the file at a path, checking its pages; vectors without Arrow if a `VectorFile` wrote them.

    Raises Arrow's own errors.
    """
    *others, column = file.schema_arrow
    pieces = []
    with path.open("rb") as stream:
        for group in groups:
            chunk, shape = _find_vectors(file, group)
            stream.seek(chunk.data_page_offset)
            data = stream.read(chunk.total_compressed_size)
            vectors = decode_vectors(data, shape, half=column.type.value_type == pa.float16())
            if vectors is None:
                # Another release wrote the file, or it is damaged: Arrow reads it, or says where.
                return file.read_row_groups(groups)
            pieces += list_vectors(vectors, column.type).chunks
    table = file.read_row_groups(groups, columns=[field.name for field in others])
    return table.append_column(column, pa.chunked_array(pieces, column.type))


def read_vectors(
    stream: IO[bytes] | io.RawIOBase, file: pq.ParquetFile, group: int, rows: np.ndarray
) -> np.ndarray:
    """Read the vectors of some rows of a row group, int64 [n], from the file and its stream: float16 or float32 [n, d].

    Of float16 vectors that a `VectorFile` wrote only these rows are read, and no checksum is verified; of others the
    whole row group. Raises Arrow's own errors.
    """
    column = file.schema_arrow[-1]
    half = column.type.value_type == pa.float16()
    chunk, shape = _find_vectors(file, group)
    stream.seek(chunk.data_page_offset)
    if not half:
        found = decode_vectors(stream.read(chunk.total_compressed_size), shape, half=False)
    elif (start := find_numbers(stream.read(count_bytes_before(*shape)), shape)) is None:
        found = None
    else:
        size = 2 * shape[1]
        vectors = np.empty((len(rows), shape[1]), np.float16)
        for place, row in enumerate(rows.tolist()):
            stream.seek(chunk.data_page_offset + start + row * size)
            data = stream.read(size)
            if len(data) != size:
                raise OSError(f"it ends before the vector of row {row} of row group {group}")
            vectors[place] = np.frombuffer(data, np.float16)
        return vectors
    if found is None:
        values = file.read_row_group(group, columns=[column.name])[column.name].combine_chunks()
        found = values.flatten().to_numpy(zero_copy_only=False).reshape(shape)
    return found[rows]


def _find_vectors(file: pq.ParquetFile, group: int) -> tuple[pq.ColumnChunkMetaData, tuple[int, int]]:
    """Find the column chunk of a row group's vectors, the last one, and their shape [rows, width]."""
    about = file.metadata.row_group(group)
    chunk = about.column(about.num_columns - 1)
    return chunk, (about.num_rows, chunk.num_values // max(1, about.num_rows))


def _shift(fields: Struct, offsets: Sequence[int], distance: int) -> None:
    """Move offsets in the file by a distance."""
    for field in offsets:
        if field in fields:
            fields[field] = (I64, fields[field][1] + distance)


class _Interleaved(io.RawIOBase):
    """Where Arrow writes: into a file that vectors go to as well, until its last bytes are held back."""

    def __init__(self, place: IO[bytes] | HashingSink) -> None:
        super().__init__()
        self._place = place
        self._held: bytearray | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._held is None:
            self._place.write(data)
        else:
            self._held += data
        return memoryview(data).nbytes

    def put(self, buffers: Sequence[Buffer]) -> None:
        """Write buffers that nobody will change, a large one last, which a `HashingSink` does not copy."""
        *small, large = buffers
        for piece in small:
            self._place.write(piece)
        if isinstance(self._place, HashingSink):
            self._place.give(large)
        else:
            self._place.write(large)

    def hold(self) -> None:
        """Hold back what is written from now on."""
        self._held = bytearray()

    def release(self) -> bytes:
        """Return what was held back, and hold nothing back any more."""
        assert self._held is not None
        held, self._held = bytes(self._held), None
        return held


def _describe(schema: pa.Schema) -> Struct:
    """The footer of a file without rows, as Arrow writes it."""
    file = io.BytesIO()
    pq.write_table(schema.empty_table(), file)
    data = file.getvalue()
    size = int.from_bytes(data[-_TAIL : -len(_MAGIC)], "little")
    return read_struct(data[-_TAIL - size : -_TAIL])

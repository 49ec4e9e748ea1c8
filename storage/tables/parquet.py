"""Write and read Parquet files: row groups, compression, checksums, schema version."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.records.hashing import SCHEMA_VERSION
from storage.tables.arrow import conform, kind_of
from storage.tables.hashing_sink import HashingSink
from storage.tables.nanoseconds import replace_nanoseconds
from storage.tables.schemas import Kind, is_vector

# DuckDB prunes and parallelizes by row group; for vectors one mebibyte was best, both to look up one sample and to
# read a block (docs/decisions/storage.md).
ROW_GROUP = 65_536
ROW_GROUP_BYTES = 1 << 20
# For byte-stream-split float32 vectors (docs/decisions/storage.md has the measurements).
VECTOR_CODEC, VECTOR_LEVEL = "zstd", 1

_VERSION = b"cmrm.schema_version"
_KIND = b"cmrm.kind"


class TableWriter:
    """Writes one Parquet file of a kind chunk by chunk, without its partition columns.

    A chunk's rows are sorted: hidden states by block and position, then data set and sample, and no row group mixes
    blocks or positions.
    Memory is that of a chunk. Without `close` the file is invalid.
    """

    def __init__(self, kind: str, place: Path | IO[bytes] | HashingSink) -> None:
        self._name = kind
        self._kind = kind_of(kind)
        self._place = place
        self._writer: pq.ParquetWriter | None = None
        self._partitions: dict[str, Any] = {}
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, chunk: pa.Table) -> None:
        """Write some rows; raises StoreError as `conform` does, or for rows of several partitions."""
        whole = conform(chunk, self._name)
        self._check_partitions(whole)
        narrow = whole.drop_columns(list(self._kind.partitions))
        if self._writer is None:
            self._writer = _open(self._place, narrow, self._name, self._kind)
        for piece in _by_block(narrow) if self._kind.by_block else [narrow]:
            self._writer.write_table(piece, row_group_size=_group_rows(piece))
        self.rows += narrow.num_rows

    def close(self) -> None:
        """Write the footer; without rows, write an empty file with the kind's columns."""
        if self._writer is None:
            self.write(self._kind.schema.empty_table())
        assert self._writer is not None
        self._writer.close()

    def abandon(self) -> None:
        """Leave the file without a footer: it will not be read, and the disk may be full."""
        if self._writer is not None:
            self._writer.is_open = False

    def _check_partitions(self, whole: pa.Table) -> None:
        for name in self._kind.partitions if whole.num_rows else ():
            values = set(whole[name].unique().to_pylist())
            known = values | {self._partitions.setdefault(name, next(iter(values)))}
            if len(known) != 1:
                raise StoreError(
                    f"one file of {self._name} holds one {name}, this has {len(known)}: write a file for each"
                )


def to_parquet(table: pa.Table, kind: str) -> bytes:
    """Write a table as one Parquet file in memory; raises StoreError as `TableWriter` does."""
    sink = io.BytesIO()
    write_parquet(table, kind, sink)
    return sink.getvalue()


def write_parquet(table: pa.Table, kind: str, place: Path | IO[bytes]) -> None:
    """Write a table as one Parquet file, without holding the file's bytes in memory."""
    with TableWriter(kind, place) as writer:
        writer.write(table)


def read_parquet(source: bytes | Path) -> pa.Table:
    """Read one Parquet file of a store, checking every page.

    Raises StoreError if it is damaged, or has another schema version.
    """
    try:
        with pq.ParquetFile(_source(source), page_checksum_verification=True) as file:
            _check_version(file.schema_arrow.metadata or {}, _named(source))
            return file.read().replace_schema_metadata(None)
    except MemoryError:
        # Arrow's MemoryError is an ArrowException too, and no fault of the file.
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"cannot read {_named(source)}: {error}; remove it and run again") from error


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open one Parquet file of a store to read some row groups, as `read_parquet` does; close it afterwards."""
    file = pq.ParquetFile(path, page_checksum_verification=True)
    _check_version(file.schema_arrow.metadata or {}, str(path))
    return file


def iterate_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read any Parquet file row by row as Python values; memory is a thousand rows. Raises Arrow's own errors.

    Times are Python's, to the microsecond; where a time of a column has nanoseconds, its batch holds them as text.
    """
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1000):
            yield from replace_nanoseconds(batch).to_pylist()


def count_rows(source: bytes | Path) -> int:
    """Count the rows of a Parquet file from its footer; raises StoreError if it has none."""
    try:
        with pq.ParquetFile(_source(source)) as file:
            return int(file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{_named(source)} is no Parquet file: {error}; write it with to_parquet") from error


def _open(place: Path | IO[bytes] | HashingSink, table: pa.Table, name: str, kind: Kind) -> pq.ParquetWriter:
    """Open a Parquet writer for tables like this one; `write` sorts the rows of each row group."""
    schema = table.schema.with_metadata({_VERSION: str(SCHEMA_VERSION).encode(), _KIND: name.encode()})
    narrow = [path for field in schema if not is_vector(field.type) for path in _list_paths(field)]
    # Vectors need no statistics or dictionary. Byte-stream-split float32 compresses well if the model computed in
    # bfloat16, whose low bytes are zero; float16 hardly does, and DuckDB 2.0 cannot read it byte-stream-split.
    vectors = [field for field in schema if is_vector(field.type)]
    single = [f"{field.name}.list.element" for field in vectors if field.type.value_type == pa.float32()]
    compression = dict.fromkeys(narrow, "zstd")
    compression |= {f"{field.name}.list.element": "none" for field in vectors}
    compression |= dict.fromkeys(single, VECTOR_CODEC)
    # Sample ids of a shard are rarely a contiguous range, so a lookup uses a Bloom filter instead of min/max.
    filters = {"sample_id": {"ndv": _group_rows(table), "fpp": 0.01}} if kind.by_block else {}
    return pq.ParquetWriter(
        place,
        schema,
        compression=compression,
        compression_level=dict.fromkeys(single, VECTOR_LEVEL),
        use_byte_stream_split=single,
        use_dictionary=[field.name for field in schema if pa.types.is_string(field.type)],
        write_statistics=narrow,
        write_page_checksum=True,
        bloom_filter_options=filters,
    )


def _list_paths(field: pa.Field) -> list[str]:
    """List the paths of a column in a Parquet file: its name, or those inside a list of structs."""
    if not pa.types.is_list(field.type):
        return [field.name]
    return [f"{field.name}.list.element.{inside.name}" for inside in field.type.value_type]


def _group_rows(table: pa.Table) -> int:
    """The rows of a row group: a mebibyte of vectors, or 65,536 rows."""
    for field in table.schema:
        if is_vector(field.type) and table.num_rows:
            width = max(1, len(table[field.name][0]))
            return max(1, min(ROW_GROUP, ROW_GROUP_BYTES // (width * field.type.value_type.bit_width // 8)))
    return ROW_GROUP


def _by_block(table: pa.Table) -> Iterator[pa.Table]:
    """The rows of each block and position, sorted by data set and sample."""
    # Imported late: a fully cached run sorts nothing.
    import pyarrow.compute as pc

    keys = ("block", "position", "dataset", "sample_id")
    order = pc.sort_indices(table.select(list(keys)), [(key, "ascending") for key in keys])
    place = table.schema.get_field_index("vector")
    vectors = _gather(table["vector"], order.to_numpy())
    whole = table.drop_columns(["vector"]).take(order).add_column(place, table.schema.field(place), vectors)
    blocks, positions = whole["block"].to_numpy(), _number(whole["position"])
    changes = np.flatnonzero(np.diff(blocks, prepend=-1) | np.diff(positions, prepend=-1))
    starts = changes.tolist()
    for start, stop in pairwise([*starts, len(whole)]):
        yield whole.slice(start, stop - start)


def _number(column: pa.ChunkedArray) -> np.ndarray:
    """Number the values of a column of text."""
    indices: np.ndarray = column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return indices


def _gather(column: pa.ChunkedArray, order: np.ndarray) -> pa.Array:
    """Reorder vectors; Arrow's own `take` is many times slower for lists."""
    kind = column.type
    width = max((len(chunk[0]) for chunk in column.chunks if len(chunk)), default=0)
    numbers = np.empty((len(column), width), dtype=kind.value_type.to_pandas_dtype())
    place = np.empty_like(order)
    place[order] = np.arange(len(order), dtype=order.dtype)
    start = 0
    for chunk in column.chunks:
        flat = chunk.flatten().to_numpy(zero_copy_only=False)
        if flat.size != len(chunk) * width:
            raise StoreError("these rows have vectors of several widths: they are of several models")
        numbers[place[start : start + len(chunk)]] = flat.reshape(len(chunk), width)
        start += len(chunk)
    offsets = np.arange(len(numbers) + 1, dtype=np.int64) * width
    if offsets[-1] >= 2**31:
        raise StoreError("more than 2^31 numbers in one chunk: write the rows in several")
    return pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(numbers.reshape(-1)), type=kind
    )


def _check_version(metadata: dict[bytes, bytes], name: str) -> None:
    version = metadata.get(_VERSION, b"none").decode(errors="replace")
    if version != str(SCHEMA_VERSION):
        raise StoreError(
            f"cannot read {name}: it has schema version {version} and this release reads {SCHEMA_VERSION}; "
            "use the release that wrote it, or run again"
        )


def _source(source: bytes | Path) -> Any:
    return pa.BufferReader(source) if isinstance(source, bytes) else str(source)


def _named(source: bytes | Path) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)

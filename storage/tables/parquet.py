"""Write and read Parquet files: row groups, compression, checksums, schema version."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.records.hashing import SCHEMA_VERSION
from storage.tables.arrow import conform, from_rows, kind_of
from storage.tables.hashing_sink import HashingSink
from storage.tables.nanoseconds import replace_nanoseconds
from storage.tables.row_groups import ROW_GROUP, count_rows_of_group, split_into_groups
from storage.tables.schemas import Kind, is_vector
from storage.tables.vector_file import VectorFile

_VERSION = b"cmrm.schema_version"
_KIND = b"cmrm.kind"
# As Python values, rows take many times the memory that they take in a file.
_ROWS_AT_ONCE = 4096


class TableWriter:
    """Writes one Parquet file of a kind chunk by chunk, without its partition columns.

    A chunk's rows are sorted if they have blocks: by block and position, then data set and sample, and no row group
    mixes blocks or positions.
    Memory is that of a chunk. Without `close` the file is invalid.
    """

    def __init__(self, kind: str, place: Path | IO[bytes] | HashingSink) -> None:
        self._name = kind
        self._kind = kind_of(kind)
        self._owned = isinstance(place, Path)
        self._place: IO[bytes] | HashingSink = place.open("wb") if isinstance(place, Path) else place
        self._writer: pq.ParquetWriter | VectorFile | None = None
        self._partitions: dict[str, Any] = {}
        self._types: list[pa.DataType] = []
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def write(self, chunk: pa.Table) -> None:
        """Write some rows; raises StoreError as `conform` does, for other partitions or another type of vectors."""
        whole = conform(chunk, self._name)
        self._check_partitions(whole)
        narrow = whole.drop_columns(list(self._kind.partitions))
        if self._writer is None:
            self._writer = _open(self._place, narrow, self._name, self._kind)
            self._types = narrow.schema.types
        elif narrow.schema.types != self._types:
            raise StoreError(
                f"one file of {self._name} holds {self._types[-1]}, and these rows have {narrow.schema.types[-1]}: "
                "convert them to one type of number, or write a file for each"
            )
        if isinstance(self._writer, VectorFile):
            self._writer.write_row_groups(split_into_groups(narrow))
        else:
            self._writer.write_table(narrow, row_group_size=ROW_GROUP)
        self.rows += narrow.num_rows

    def close(self) -> None:
        """Write the footer; without rows, write an empty file with the kind's columns."""
        if self._writer is None:
            self.write(self._kind.schema.empty_table())
        assert self._writer is not None
        self._writer.close()
        if self._owned:
            self._place.close()

    def abandon(self) -> None:
        """Leave the file without a footer: it will not be read, and the disk may be full."""
        if isinstance(self._writer, VectorFile):
            self._writer.abandon()
        elif self._writer is not None:
            self._writer.is_open = False
        if self._owned:
            self._place.close()

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


def write_rows(rows: Iterable[Mapping[str, Any]], kind: str, place: Path | IO[bytes]) -> int:
    """Write rows as one Parquet file as they come, and count them; some thousand are in memory at a time.

    Raises StoreError as `from_rows` does.
    """
    waiting = iter(rows)
    with TableWriter(kind, place) as writer:
        while chunk := list(islice(waiting, _ROWS_AT_ONCE)):
            writer.write(from_rows(chunk, kind, first=writer.rows))
    return writer.rows


def read_parquet(source: bytes | Path) -> pa.Table:
    """Read one Parquet file of a store, checking every page.

    Raises StoreError if it is damaged, or has another schema version.
    """
    with blaming_file(source), open_parquet(source) as file:
        return file.read().replace_schema_metadata(None)


@contextmanager
def blaming_file(source: bytes | Path | str) -> Iterator[None]:
    """Raise StoreError, which names the file and says what to do, for Arrow's errors and the disk's in the body."""
    try:
        yield
    except MemoryError:
        # Arrow's MemoryError is an ArrowException too, and no fault of the file.
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"cannot read {_named(source)}: {error}; remove it and run again") from error


def open_parquet(source: bytes | Path, *, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Open one Parquet file of a store to read some row groups, as `read_parquet` does; close it afterwards.

    `footer` is the file's own, if it is known.
    """
    file = pq.ParquetFile(_source(source), metadata=footer, page_checksum_verification=True)
    _check_version(file.schema_arrow.metadata or {}, _named(source))
    return file


def iterate_groups(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Read one Parquet file of a store row group by row group, these columns as far as it has them.

    Raises StoreError as `read_parquet` does.
    """
    with blaming_file(path), open_parquet(path) as file:
        names = None if columns is None else [one for one in columns if one in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=names).replace_schema_metadata(None)


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


def _open(
    place: IO[bytes] | HashingSink, table: pa.Table, name: str, kind: Kind
) -> pq.ParquetWriter | VectorFile:
    """Open a Parquet writer for tables like this one."""
    schema = table.schema.with_metadata({_VERSION: str(SCHEMA_VERSION).encode(), _KIND: name.encode()})
    narrow = [path for field in schema if not is_vector(field.type) for path in _list_paths(field)]
    options = {"write_statistics": narrow, "write_page_checksum": True}
    text = [field.name for field in schema if pa.types.is_string(field.type)]
    if not is_vector(schema.types[-1]):
        return pq.ParquetWriter(place, schema, compression="zstd", use_dictionary=text, **options)
    # The other columns are a few kilobytes to a mebibyte of vectors: zstd would take longer than all else.
    options |= {"compression": "none", "use_dictionary": [column for column in text if column != "sample_id"]}
    if kind.by_block:
        # Sample ids of a shard are rarely a contiguous range, so a lookup uses a Bloom filter instead of min/max.
        rows = count_rows_of_group(table.column(table.num_columns - 1))
        options["bloom_filter_options"] = {"sample_id": {"ndv": rows, "fpp": 0.01}}
    return VectorFile(place, schema, **options)


def _list_paths(field: pa.Field) -> list[str]:
    """List the paths of a column in a Parquet file: its name, or those inside a list of structs."""
    if not pa.types.is_list(field.type):
        return [field.name]
    return [f"{field.name}.list.element.{inside.name}" for inside in field.type.value_type]


def _check_version(metadata: dict[bytes, bytes], name: str) -> None:
    version = metadata.get(_VERSION, b"none").decode(errors="replace")
    if version != str(SCHEMA_VERSION):
        raise StoreError(
            f"cannot read {name}: it has schema version {version} and this release reads {SCHEMA_VERSION}; "
            "use the release that wrote it, or run again"
        )


def _source(source: bytes | Path) -> Any:
    return pa.BufferReader(source) if isinstance(source, bytes) else str(source)


def _named(source: bytes | Path | str) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)

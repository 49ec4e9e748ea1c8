"""Write rows as Parquet files of bounded size, in row groups of bounded memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from flows.hub.features import add_features
from flows.hub.tables import IMAGE

# A row group is what a reader, and the hub's viewer, holds at once.
GROUP_ROWS = 1000
GROUP_BYTES = 32 << 20
# The hub advises against files of many gigabytes.
FILE_BYTES = 500 << 20


class ShardWriter:
    """Writes batches to `00000.parquet` and on in a folder, in which a new file is begun where one is full.

    Memory is that of a row group: 1,000 rows or 32 MiB. `rows` counts those given. Left by an exception, it leaves
    files that are no Parquet.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, file_bytes: int = FILE_BYTES) -> None:
        folder.mkdir()
        self._folder, self._schema, self._file_bytes = folder, add_features(schema), file_bytes
        self._waiting: list[pa.RecordBatch] = []
        self._file: IO[bytes] | None = None
        self._writer: pq.ParquetWriter | None = None
        self.rows = self.files = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
            if not self.files:
                self._write(self._schema.empty_table())
            self._close()
            return
        # A footer written now would make unfinished files look whole, and the disk may be full.
        if self._writer is not None:
            self._writer.is_open = False
        if self._file is not None:
            self._file.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Write some rows with the columns of the schema, in its order."""
        self._waiting.append(batch)
        self.rows += batch.num_rows
        rows, size = (sum(getattr(one, name) for one in self._waiting) for name in ("num_rows", "nbytes"))
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting)
            self._waiting.clear()
            self._write(table.replace_schema_metadata(self._schema.metadata))

    def _write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._file = (self._folder / f"{self.files:05}.parquet").open("wb")
            self._writer = _open(self._file, self._schema)
            self.files += 1
        assert self._file is not None
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        if self._file.tell() >= self._file_bytes:
            self._close()

    def _close(self) -> None:
        if self._writer is not None and self._file is not None:
            self._writer.close()
            self._file.close()
            self._writer = self._file = None


def _open(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    # An image stands once in a row group, however many arms answered about it.
    images = [f"{field.name}.bytes" for field in schema if field.type == IMAGE]
    vectors = [f"{field.name}.list.element" for field in schema if _is_vector(field.type)]
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=[*texts, *images],
        dictionary_pagesize_limit=2 * GROUP_BYTES,
        use_byte_stream_split=vectors,
        # Statistics would hold images and long texts once more.
        write_statistics=[field.name for field in schema if pa.types.is_primitive(field.type)],
        write_page_index=True,
        # The hub stores what two versions of a file share once.
        use_content_defined_chunking=True,
    )


def _is_vector(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and pa.types.is_floating(kind.value_type))

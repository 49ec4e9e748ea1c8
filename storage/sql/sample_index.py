"""An index of the samples in a store's files, and the hidden states of one sample, read row by row.

A view looks at the footers and Bloom filters of all files and decodes a whole row group for each row. Here the ids of
the files are read once a connection, and then the rows of the sample alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence, Sized
from contextlib import closing, contextmanager
from threading import Lock
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.backends.base import Files
from storage.sql.sample_lookup import COLUMNS
from storage.sql.shared_reader import SharedReader
from storage.tables.parquet import blaming_file
from storage.tables.schemas import KINDS, SINGLE_VECTOR
from storage.tables.vector_file import read_vectors

# Files whose rows are kept, some hundred kilobytes each.
_MOST_FILES = 64
_STORED = tuple(name for name in COLUMNS if name not in ("key", "vector", *KINDS["hidden_states"].partitions))
_ROW = pa.struct([pa.field(name, kind) for name, kind in COLUMNS.items()])


class _Rows(NamedTuple):
    """A file's footer, the hash of each row's sample id, int64 [rows], and where row groups begin and the last ends."""

    footer: pq.FileMetaData
    samples: np.ndarray
    starts: np.ndarray


class SampleIndex:
    """Finds the states of a sample in these files of a store; safe to use from several threads.

    Reads the ids of all files when it is made. Raises StoreError for a file that cannot be read.
    """

    def __init__(self, files: Files, paths: Sequence[str]) -> None:
        self._files = files
        self._lock = Lock()
        self._last: OrderedDict[str, _Rows] = OrderedDict()
        # By file, the sorted hashes of its samples' ids, int64 [samples].
        self._samples = {path: np.unique(self._locate(path).samples) for path in paths}

    def find(self, sample_id: str) -> pa.StructArray:
        """Find all states of a sample, with the columns and the values of the view `hidden_states`.

        Raises StoreError for a file that cannot be read.
        """
        wanted = hash(sample_id)
        with self._lock:
            found = [
                self._read(path, sample_id)
                for path, samples in self._samples.items()
                if _holds(samples, wanted)
            ]
        return pa.concat_arrays([pa.nulls(0, _ROW), *found])

    def answer(self, samples: pa.ChunkedArray) -> pa.ListArray:
        """Find the states of each sample of a column, a list of rows each."""
        states = [
            pa.nulls(0, _ROW) if sample is None else self.find(sample) for sample in samples.to_pylist()
        ]
        return _make_lists(states, pa.concat_arrays([pa.nulls(0, _ROW), *states]), pa.list_(_ROW))

    def _locate(self, path: str) -> _Rows:
        """Read which rows of a file are of which sample, or take them from the last files that were read."""
        if (rows := self._last.pop(path, None)) is None:
            with self._opened(path) as (file, _):
                ids = file.read(columns=["sample_id"], use_threads=False)["sample_id"].to_pylist()
                counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                samples = np.fromiter(map(hash, ids), np.int64, len(ids))
                rows = _Rows(file.metadata, samples, np.cumsum([0, *counts]))
        self._last[path] = rows
        while len(self._last) > _MOST_FILES:
            self._last.popitem(last=False)
        return rows

    @contextmanager
    def _opened(
        self, path: str, footer: pq.FileMetaData | None = None
    ) -> Iterator[tuple[pq.ParquetFile, SharedReader]]:
        # A store's stream may give fewer bytes than it is asked for; this reads on.
        with (
            blaming_file(f"{self._files.url}/{path}"),
            closing(SharedReader(self._files.open(path))) as stream,
        ):
            yield pq.ParquetFile(stream, metadata=footer), stream

    def _read(self, path: str, sample_id: str) -> pa.StructArray:
        known = self._locate(path)
        chosen = np.flatnonzero(known.samples == hash(sample_id))
        owners = np.searchsorted(known.starts, chosen, side="right") - 1
        rows: list[pa.Table] = []
        vectors: list[np.ndarray] = []
        with self._opened(path, known.footer) as (file, stream):
            groups = np.unique(owners).tolist()
            others = file.read_row_groups(groups, columns=list(_STORED), use_threads=False)
            before = 0
            for group in groups:
                places = chosen[owners == group] - known.starts[group]
                read = [others.slice(before + place, 1) for place in places.tolist()]
                # Two ids may have one hash.
                same = [row for row, one in enumerate(read) if one["sample_id"][0].as_py() == sample_id]
                rows += [read[row] for row in same]
                vectors += [*read_vectors(stream, file, group, places[same])]
                before += known.footer.row_group(group).num_rows
        return _make_rows(path, rows, vectors)


def _holds(samples: np.ndarray, wanted: int) -> bool:
    place = int(np.searchsorted(samples, wanted))
    return place < len(samples) and int(samples[place]) == wanted


# Arrow imports pandas, where it is installed, for values of Python and NumPy, and its functions for casts and
# selections. Both take longer than a look-up, so that arrays are made of buffers and slices here.


def _make_rows(path: str, rows: Sequence[pa.Table], vectors: Sequence[np.ndarray]) -> pa.StructArray:
    if not rows:
        return pa.nulls(0, _ROW)
    _, *folders, name = path.split("/")
    told = {"key": name.split(".")[0]} | {
        column: unquote(value) for column, _, value in (folder.partition("=") for folder in folders)
    }
    table = pa.concat_tables(rows).replace_schema_metadata(None).combine_chunks()
    numbers = np.concatenate(vectors).astype(np.float32)
    columns: dict[str, pa.Array] = {
        **{column: _repeat(value, len(rows)) for column, value in told.items()},
        **{column: table[column].combine_chunks() for column in table.column_names},
        "vector": _make_lists(vectors, _wrap(numbers, pa.float32()), SINGLE_VECTOR),
    }
    return pa.StructArray.from_arrays([columns[column] for column in COLUMNS], fields=list(_ROW))


def _make_lists(pieces: Sequence[Sized], values: pa.Array, kind: pa.DataType) -> pa.ListArray:
    """Make a list of each piece of an array, one behind the other."""
    offsets = np.cumsum([0, *map(len, pieces)]).astype(np.int32)
    return pa.ListArray.from_arrays(_wrap(offsets, pa.int32()), values, type=kind)


def _wrap(numbers: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def _repeat(value: str, count: int) -> pa.StringArray:
    data = value.encode()
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(len(data))
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(data * count))

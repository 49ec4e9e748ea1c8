"""Sort rows with vectors into the row groups of a Parquet file: one block and position each, by data set and sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from storage.errors import StoreError

# DuckDB prunes and parallelizes by row group; for vectors one mebibyte was best, both to look up one sample and to
# read a block (docs/decisions/storage.md).
ROW_GROUP = 65_536
ROW_GROUP_BYTES = 1 << 20


class RowGroup(NamedTuple):
    """The rows of a row group: their other columns, and what copies their vectors [rows, width] together."""

    others: pa.Table
    gather: Callable[[], np.ndarray]


def split_into_groups(table: pa.Table) -> Iterator[RowGroup]:
    """Split a table, whose last column is vectors, into row groups of a mebibyte; sort them if the rows have blocks.

    Raises StoreError for vectors of several widths.
    """
    column = table.column(table.num_columns - 1)
    source = _Vectors(column)
    others = table.remove_column(table.num_columns - 1)
    order: np.ndarray = np.arange(len(others))
    starts = [0]
    if "block" in table.column_names:
        order = _sort(others)
        others = others.take(pa.array(order))
        blocks, positions = others["block"].to_numpy(), _number(others["position"])
        starts = np.flatnonzero(np.diff(blocks, prepend=-1) | np.diff(positions, prepend=-1)).tolist()
    most = count_rows_of_group(column)
    for start, stop in pairwise([*starts, len(others)]):
        for first in range(start, stop, most):
            last = min(first + most, stop)
            yield RowGroup(others.slice(first, last - first), partial(source.gather, order[first:last]))


def count_rows_of_group(column: pa.ChunkedArray) -> int:
    """Count the vectors of a row group: a mebibyte of them, at least one."""
    width = _find_width(column)
    size = max(1, width) * column.type.value_type.bit_width // 8
    return max(1, min(ROW_GROUP, ROW_GROUP_BYTES // size))


class _Vectors:
    """The vectors of a column, to be gathered in any order."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._width = _find_width(column)
        self._chunks: list[np.ndarray] = []
        for chunk in column.chunks:
            flat = chunk.flatten().to_numpy(zero_copy_only=False)
            if flat.size != len(chunk) * self._width:
                raise StoreError("these rows have vectors of several widths: they are of several models")
            self._chunks.append(flat.reshape(len(chunk), self._width))
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])
        self._type = column.type.value_type.to_pandas_dtype()

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Copy some rows, in their order; Arrow's own `take` is many times slower for lists."""
        vectors = np.empty((len(rows), self._width), dtype=self._type)
        owners = np.searchsorted(self._ends, rows, side="right")
        for owner in np.unique(owners).tolist():
            chunk, places = self._chunks[owner], np.flatnonzero(owners == owner)
            vectors[places] = chunk[rows[places] - (self._ends[owner] - len(chunk))]
        return vectors


def _find_width(column: pa.ChunkedArray) -> int:
    return next((len(chunk[0]) for chunk in column.chunks if len(chunk)), 0)


def _sort(others: pa.Table) -> np.ndarray:
    # Imported late: a fully cached run sorts nothing.
    import pyarrow.compute as pc

    keys = ("block", "position", "dataset", "sample_id")
    order: np.ndarray = pc.sort_indices(others.select(keys), [(key, "ascending") for key in keys]).to_numpy()
    return order.astype(np.int64)


def _number(column: pa.ChunkedArray) -> np.ndarray:
    """Number the values of a column of text."""
    indices: np.ndarray = column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return indices

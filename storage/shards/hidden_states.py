"""Convert hidden states between NumPy and Arrow tables, without a Python object per number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.tables.arrow import list_vectors
from storage.tables.parquet import blaming_file, open_parquet
from storage.tables.schemas import HALF_VECTOR, KINDS, SINGLE_VECTOR
from storage.tables.vector_file import read_row_groups

# Footers that are kept, some hundred kilobytes each.
_MOST_FOOTERS = 64
# The position at which Δ is measured: the last prompt token.
LAST: Literal["last"] = "last"


class HiddenStates(NamedTuple):
    """States of some samples at some blocks: ids [n], blocks [b] ascending, vectors [n, b, d]."""

    sample_ids: list[str]
    blocks: list[int]
    vectors: np.ndarray

    def choose(self, sample_ids: Sequence[str]) -> np.ndarray:
        """The vectors of these samples in this order, [samples, blocks, d]; `KeyError` for a missing one."""
        place = {sample: row for row, sample in enumerate(self.sample_ids)}
        return self.vectors[[place[sample] for sample in sample_ids]]


_NOTHING = HiddenStates([], [], np.empty((0, 0, 0), dtype=np.float16))


def hidden_states_table(
    *,
    model: str,
    dataset: str,
    sample_ids: Sequence[str],
    condition: str,
    blocks: Sequence[int],
    vectors: np.ndarray,
    position: str = LAST,
    intervention: str = "",
    alpha: float | None = None,
) -> pa.Table:
    """Make a table of hidden states, one row per sample and block; read after `intervention`, '' for none.

    vectors: [n, blocks, d], float16 or float32, and stored as such; the table shares their memory, so they must not
    change afterwards. Raises StoreError if shapes do not agree, ids or blocks repeat, or the numbers have another type.
    """
    _check(sample_ids, blocks, vectors)
    count, _, width = vectors.shape
    kind = HALF_VECTOR if vectors.dtype == np.float16 else SINGLE_VECTOR
    schema = KINDS["hidden_states"].schema
    schema = schema.set(schema.get_field_index("vector"), schema.field("vector").with_type(kind))
    rows = count * len(blocks)
    columns = [
        pa.repeat(model, rows),
        pa.repeat(dataset, rows),
        pa.array(sample_ids, pa.string()).take(pa.array(np.repeat(np.arange(count), len(blocks)))),
        pa.repeat(condition, rows),
        pa.array(np.tile(np.array(blocks, np.int32), count)),
        pa.repeat(position, rows),
        pa.repeat(intervention, rows),
        pa.repeat(pa.scalar(alpha, pa.float64()), rows),
        list_vectors(np.ascontiguousarray(vectors).reshape(rows, width), kind),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def read_hidden_states(table: pa.Table) -> HiddenStates:
    """Read hidden states from rows in any order; samples come in the order of their first row.

    Raises StoreError unless the rows are one data set, condition and position, each sample with each block once.
    """
    for name in ("model", "dataset", "condition", "position", "intervention", "alpha"):
        if name in table.column_names and len(values := table[name].unique()) > 1:
            raise StoreError(
                f"these hidden states have {len(values)} values of {name}: filter them to one first"
            )
    blocks = sorted(table["block"].unique().to_pylist())
    numbers, ids = _numbered(table["sample_id"])
    places = np.searchsorted(blocks, table["block"].to_numpy())
    if len(np.unique(numbers * max(len(blocks), 1) + places)) != table.num_rows:
        raise StoreError("these hidden states have a sample twice at one block: de-duplicate the rows first")
    if table.num_rows != len(ids) * len(blocks):
        raise StoreError(
            f"these hidden states have {table.num_rows} rows for {len(ids)} samples and {len(blocks)} blocks: "
            "some are missing; make them again"
        )
    return HiddenStates(ids, blocks, _filled(table["vector"], numbers, places, (len(ids), len(blocks))))


def list_blocks(paths: Sequence[Path], *, position: str = LAST) -> list[int]:
    """List the blocks of stored hidden states at a position, ascending; raises StoreError for a damaged file."""
    found: set[int] = set()
    for path in paths:
        with _opened(path) as (_, groups):
            found.update(block for at, block in groups if at == position)
    return sorted(found)


def read_block(paths: Sequence[Path], block: int, *, position: str = LAST) -> HiddenStates:
    """Read the hidden states at one block and position, and only their row groups; empty if there are none.

    Raises StoreError as `read_hidden_states` does, or for a damaged file.
    """
    tables = []
    for path in paths:
        with _opened(path) as (file, groups):
            if chosen := groups.get((position, block)):
                tables.append(read_row_groups(path, file, chosen))
    return read_hidden_states(pa.concat_tables(tables)) if tables else _NOTHING


def read_last_block(paths: Sequence[Path]) -> HiddenStates:
    """Read the hidden states at the last block and prompt token, as `read_block` does; empty for files without rows."""
    blocks = list_blocks(paths)
    return read_block(paths, blocks[-1]) if blocks else _NOTHING


def list_samples(paths: Sequence[Path], *, position: str = LAST) -> list[str]:
    """List the samples with hidden states at a position, file by file; raises StoreError for a damaged file."""
    found: list[str] = []
    for path in paths:
        with _opened(path) as (file, groups):
            if at := [place for place in groups if place[0] == position]:
                table = file.read_row_groups(groups[min(at)], columns=["sample_id"])
                found.extend(table["sample_id"].to_pylist())
    return found


def read_samples(
    paths: Sequence[Path], block: int, sample_ids: Sequence[str], *, position: str = LAST
) -> np.ndarray:
    """Read the hidden states of some samples at one block, in their order: float32 [samples, width].

    One file is in memory at a time. Raises StoreError for a damaged file and for a sample that no file has.
    """
    places = {sample: place for place, sample in enumerate(sample_ids)}
    vectors: np.ndarray | None = None
    for path in paths:
        read = read_block([path], block, position=position)
        rows = [row for row, sample in enumerate(read.sample_ids) if sample in places]
        if not rows:
            continue
        if vectors is None:
            vectors = np.empty((len(sample_ids), read.vectors.shape[2]), dtype=np.float32)
        vectors[[places.pop(read.sample_ids[row]) for row in rows]] = read.vectors[rows, 0]
    if places or vectors is None:
        missing = next(iter(places), "any sample")
        raise StoreError(f"there are no hidden states of {missing} at block {block}: make them again")
    return vectors


class _Footer(NamedTuple):
    """The footer of a file, with its row groups by position and block: no row group mixes them."""

    metadata: pq.FileMetaData
    groups: Mapping[tuple[str, int], list[int]]


@lru_cache(maxsize=_MOST_FOOTERS)
def _read_footer(path: Path, _stamp: tuple[int, ...]) -> _Footer:
    """Read a file's footer, once until the file is replaced, which its stamp shows: all blocks are read in turn."""
    groups: dict[tuple[str, int], list[int]] = {}
    with open_parquet(path) as file:
        block, position = (file.schema_arrow.get_field_index(name) for name in ("block", "position"))
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            place = (group.column(position).statistics.min, group.column(block).statistics.min)
            groups.setdefault(place, []).append(number)
        return _Footer(file.metadata, groups)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pq.ParquetFile, Mapping[tuple[str, int], list[int]]]]:
    with blaming_file(path):
        found = path.stat()
        footer = _read_footer(path, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        with open_parquet(path, footer=footer.metadata) as file:
            yield file, footer.groups


def _check(sample_ids: Sequence[str], blocks: Sequence[int], vectors: np.ndarray) -> None:
    if vectors.ndim != 3 or vectors.shape[:2] != (len(sample_ids), len(blocks)):
        raise StoreError(
            f"vectors of shape {vectors.shape} do not fit {len(sample_ids)} samples and {len(blocks)} blocks: "
            "give them as [samples, blocks, width]"
        )
    if vectors.dtype not in {np.dtype(np.float16), np.dtype(np.float32)}:
        raise StoreError(f"vectors are {vectors.dtype}: convert them to float16 or float32")
    if len(set(sample_ids)) != len(sample_ids) or len(set(blocks)) != len(blocks):
        raise StoreError("a sample id or a block occurs twice: give each once")


def _numbered(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()


def _filled(
    column: pa.ChunkedArray, rows: np.ndarray, places: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    kind = column.type.value_type.to_pandas_dtype()
    first = next((chunk for chunk in column.chunks if len(chunk)), None)
    width = 0 if first is None else len(first[0])
    vectors = np.empty((*shape, width), dtype=kind)
    start = 0
    for chunk in column.chunks:
        numbers = chunk.flatten().to_numpy(zero_copy_only=False)
        if numbers.size != len(chunk) * width:
            raise StoreError("these hidden states have vectors of several widths: they are of several models")
        stop = start + len(chunk)
        vectors[rows[start:stop], places[start:stop]] = numbers.reshape(len(chunk), width)
        start = stop
    return vectors

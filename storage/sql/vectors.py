"""Principal components of vectors, in SQL and in Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import PythonUDFType

from storage.errors import StoreError
from storage.sql.macros import FIT

# Vectors that are converted to double precision together.
_ROWS_AT_ONCE = 2048
# From so many numbers on, principal components are those of the covariance where vectors are at least twice as many as
# their numbers, and the least variance asked for is more than this share of the largest: squares have half the digits.
_LARGE, _SMALLEST_SHARE = 1 << 24, 1e-8
# Sums of squares of larger numbers may exceed double precision; float32 has none.
_LARGEST = 1e140
_FITTED = "STRUCT(mean DOUBLE[], components DOUBLE[][], explained DOUBLE[])"


@dataclass(frozen=True, kw_only=True)
class PrincipalComponents:
    """The principal components of a query's vectors, and each row's coordinates along them.

    `mean` [d], `components` [k, d] with orthonormal rows and `explained_variance_ratio` [k] are float64. `rows` has
    the query's other columns, in its order, and pc1 … pck: null for a row whose vector is null.
    """

    mean: np.ndarray
    components: np.ndarray
    explained_variance_ratio: np.ndarray
    rows: pa.Table


def pca(
    connection: duckdb.DuckDBPyConnection, query: str, *, components: int = 2, vector: str = "vector"
) -> PrincipalComponents:
    """Find the principal components of the vectors that a query returns in the column `vector`.

    A component's sign is arbitrary; here its entry of largest magnitude is positive. Raises StoreError if there is
    no such column, for fewer than two vectors, several widths, values not finite, or too many components.
    """
    table = _select(connection, query, vector).to_arrow_table()
    column = table[vector]
    values = _stack(column, vector)
    mean, directions, explained = fit(values, components)
    missing = column.is_null().to_numpy()
    along = np.zeros((len(column), components))
    along[~missing] = (values - mean) @ directions.T
    rows = table.drop_columns([vector])
    for number in range(components):
        rows = rows.append_column(f"pc{number + 1}", pa.array(along[:, number], mask=missing))
    return PrincipalComponents(
        mean=mean, components=directions, explained_variance_ratio=explained, rows=rows
    )


def centroid(connection: duckdb.DuckDBPyConnection, query: str, *, vector: str = "vector") -> np.ndarray:
    """Average the vectors that a query returns in the column `vector`: float64 [d], added up in double precision.

    Nulls are passed over; memory is some thousand vectors. Raises StoreError if there is no such column or no vector,
    and for several widths.
    """
    total, count = np.zeros(0), 0
    for batch in _select(connection, query, vector).to_arrow_reader(_ROWS_AT_ONCE):
        values = _stack(pa.chunked_array([batch.column(vector)]), vector)
        if not len(values):
            continue
        if count:
            _check_widths({len(total), values.shape[1]})
        else:
            total = np.zeros(values.shape[1])
        total += values.sum(axis=0, dtype=np.float64)
        count += len(values)
    if not count:
        raise StoreError("the query returns no vector, and nothing has no mean: widen it")
    return total / count


def fit(vectors: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find mean [d], components [k, d] and explained variance ratio [k] of vectors [n, d], all float64.

    By a full SVD, or by the eigenvectors of the covariance where that is many times faster and as exact. Signs are as
    in `pca`. Raises StoreError for fewer than two vectors, too many components, or values not finite or whose
    squares are not.
    """
    count, width = vectors.shape
    if count < 2:
        raise StoreError(f"principal components need at least two vectors, not {count}: widen the query")
    if not 1 <= components <= min(count, width):
        raise StoreError(
            f"there are no {components} principal components of {count} vectors of {width} numbers: "
            f"ask for 1 to {min(count, width)}"
        )
    if not np.isfinite(vectors).all():
        raise StoreError(
            "some vectors hold NaN or infinity: leave them out by WHERE isfinite(norm(vector)), "
            "or read states in a wider dtype"
        )
    if vectors.dtype == np.float64 and max(vectors.max(), -vectors.min()) > _LARGEST:
        raise StoreError(
            f"some vectors hold numbers beyond {_LARGEST:g}, whose squares are infinite: scale them down"
        )
    if vectors.size >= _LARGE and count >= 2 * width and (found := _fit_covariance(vectors, components)):
        return found
    # Imported here, since it takes a second and most queries ask for no principal components.
    from sklearn.decomposition import PCA

    # Identical vectors have no variance: 0 / 0. The conversion has already made a copy, which may be overwritten.
    with np.errstate(invalid="ignore"):
        fitted = PCA(n_components=components, svd_solver="full", copy=False).fit(vectors.astype(np.float64))
    return fitted.mean_, fitted.components_, np.nan_to_num(fitted.explained_variance_ratio_)


def _fit_covariance(vectors: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Do as `fit` does by eigenvectors of the covariance; None where some variance is too small beside the largest."""
    from scipy.linalg import eigh

    count, width = vectors.shape
    mean = vectors.mean(axis=0, dtype=np.float64)
    # Of centred vectors: to take the mean off the squares would lose what is small beside it.
    scatter = np.zeros((width, width))
    for start in range(0, count, _ROWS_AT_ONCE):
        centred = vectors[start : start + _ROWS_AT_ONCE] - mean
        scatter += centred.T @ centred
    total = np.trace(scatter)
    squares, columns = eigh(
        scatter, subset_by_index=(width - components, width - 1), overwrite_a=True, check_finite=False
    )
    squares, directions = squares[::-1], columns.T[::-1]
    if squares[-1] <= _SMALLEST_SHARE * squares[0]:
        return None
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(components), largest])[:, None]
    return mean, directions, squares / total


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Register the function behind the macro pca on a connection."""
    connection.create_function(FIT, _fit_groups, ["FLOAT[][]", "INTEGER"], _FITTED, type=PythonUDFType.ARROW)


def _fit_groups(groups: pa.ChunkedArray, components: pa.ChunkedArray) -> pa.Array:
    fitted = [
        fit(_matrix(group.values), number)
        for group, number in zip(_scalars(groups), components.to_pylist(), strict=True)
    ]
    kind = pa.struct(
        {
            "mean": pa.list_(pa.float64()),
            "components": pa.list_(pa.list_(pa.float64())),
            "explained": pa.list_(pa.float64()),
        }
    )
    rows = [
        {"mean": mean, "components": list(directions), "explained": explained}
        for mean, directions, explained in fitted
    ]
    return pa.array(rows, kind)


def _select(connection: duckdb.DuckDBPyConnection, query: str, vector: str) -> duckdb.DuckDBPyRelation:
    """Prepare a query that has a column `vector`; raises StoreError for any other."""
    relation = connection.sql(query)
    if relation is None:
        raise StoreError("the query is empty: write one that selects vectors")
    if vector not in relation.columns:
        raise StoreError(f"the query has no column {vector!r}, only {', '.join(relation.columns)}: select it")
    return relation


def _scalars(column: pa.ChunkedArray) -> Iterator[pa.ListScalar]:
    for chunk in column.chunks:
        yield from (chunk[place] for place in range(len(chunk)))


def _stack(column: pa.ChunkedArray, name: str) -> np.ndarray:
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise StoreError(
            f"the column {name!r} is {kind}, not a list of numbers: select a vector, or cast it to FLOAT[]"
        )
    # Chunk by chunk, since an Arrow list array has 32-bit offsets.
    chunks = [_matrix(chunk.drop_null()) for chunk in column.chunks]
    chunks = [chunk for chunk in chunks if len(chunk)]
    _check_widths({chunk.shape[1] for chunk in chunks})
    return np.concatenate(chunks) if chunks else np.empty((0, 0), np.float32)


def _check_widths(widths: set[int]) -> None:
    if len(widths) > 1:
        raise StoreError(
            f"the vectors have {', '.join(map(str, sorted(widths)))} numbers, so they are of several models: "
            "add WHERE model = … to the query"
        )


def _matrix(column: pa.Array) -> np.ndarray:
    """The vectors of a list column without nulls as [n, d], float64 if they are that, else float32."""
    if not len(column):
        return np.empty((0, 0), np.float32)
    widths = column.value_lengths().unique().to_pylist()
    _check_widths(set(widths))
    numbers = column.flatten()
    if numbers.null_count:
        raise StoreError("some vectors hold nulls: leave those rows out")
    plain = numbers.to_numpy(zero_copy_only=False)
    kind = np.float64 if plain.dtype == np.float64 else np.float32
    return plain.astype(kind, copy=False).reshape(len(column), widths[0])

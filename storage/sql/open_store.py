"""A store for Python: its tables as Arrow, pandas or polars."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import duckdb
import pyarrow as pa

from storage.errors import StoreError
from storage.sql.database import connect, find_missing_keys

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

log = logging.getLogger("cmrm.storage")

ORDER = "dataset, sample_id"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of a store: `table` is a pyarrow.Table, which `to_pandas` and `to_polars` convert.

    What speaks Arrow's C stream interface takes the rows as they are: `polars.DataFrame(rows)`, `pyarrow.table(rows)`.
    """

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"<{len(self)} rows of {', '.join(self.table.column_names)}>"

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas frame, vectors as NumPy arrays; `StoreError` where pandas is not installed."""
        _need("pandas")
        return self.table.to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """The rows as a polars frame, vectors as lists; `StoreError` where polars is not installed."""
        return _need("polars").from_arrow(self.table)


class OpenStore:
    """A store, open to be read; it shows what was committed when it was opened, and changes nothing.

    Each method gives `Rows`, whose columns `cmrm sql` lists. `run` is the run whose rows are shown, None for all.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, url: str, run: str | None) -> None:
        self.connection = connection
        self.url, self.run = url, run

    def samples(self) -> Rows:
        """The questions: one row a sample, anchors and targets, with `split` saying which."""
        return self._select("samples", order=ORDER)

    def answers(self, *, condition: str | None = None) -> Rows:
        """What the models said: one row a sample, condition and intervention (`''` for none) at one α."""
        return self._select(
            "responses", order=f"model, condition, intervention, alpha, {ORDER}", condition=condition
        )

    def verdicts(self, *, judge: str | None = None) -> Rows:
        """What judges say of the answers: one row an answer and judge."""
        order = f"judge, model, condition, intervention, alpha, {ORDER}"
        return self._select("judgements", order=order, judge=judge)

    def hidden_states(
        self,
        *,
        block: int | None = None,
        condition: str | None = None,
        position: str | None = "last",
        sample_id: str | None = None,
    ) -> Rows:
        """States at the last prompt token: `vector` is float32 [hidden], one row a sample, condition and block.

        Where a run kept states at other positions, `position` names one; None gives all, a row for each. Name the
        block or the sample of a large store: all blocks of all samples are held in memory. A sample that is named is
        found by an index, which the first such call makes.
        """
        order = f"model, block, position, condition, intervention, alpha, {ORDER}"
        view = "hidden_states" if sample_id is None else "states_of_sample($sample_id)"
        return self._select(
            view, order=order, block=block, condition=condition, position=position, sample_id=sample_id
        )

    def shifts(self) -> Rows:
        """Δ, image minus text, to be subtracted: `vector` is float32 [hidden], one row a shift and block."""
        return self._select("shifts", order="model, key, block")

    def sql(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> Rows:
        """The rows of a query over the store's views, with `?` or `$name` in it where there are `parameters`.

        Raises `StoreError` for a query that DuckDB refuses, with its reason.
        """
        try:
            relation = self.connection.sql(query, params=parameters)
            if relation is None:
                raise StoreError("the query gives no rows: write a SELECT")
            return Rows(table=relation.to_arrow_table())
        except duckdb.Error as error:
            raise StoreError(f"the query was refused: {error}") from None

    def find_missing_keys(self) -> list[str]:
        """List what the run used and the store has no more, so that rows are missing here; none for all runs."""
        return [] if self.run is None else find_missing_keys(self.url, self.run)

    def close(self) -> None:
        """Close the store; rows that were given stay."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<store {self.url}, {'all runs' if self.run is None else f'run {self.run}'}>"

    def _select(self, view: str, *, order: str, **wanted: object) -> Rows:
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(f'"{column}" = ${column}' for column in given) or "true"
        # View, columns and order are constants of this file; what a caller gives is a parameter.
        return self.sql(f"SELECT * FROM {view} WHERE {where} ORDER BY {order}", given or None)  # noqa: S608


def open_store(url: str | Path, run: str | None = "latest") -> OpenStore:
    """Open a store, a folder or an fsspec URL, to read one run's tables as Arrow, pandas or polars.

    `run` is a run's id, `latest` for the newest finished one, or None for all that the store holds.
    Raises `StoreError` where there is no such store or run. The log says so where the store has lost some of what the
    run used.

    >>> import storage
    >>> with storage.open_store("cmrm-store") as store:
    ...     rows = store.sql("SELECT condition, count(*) AS n FROM responses GROUP BY ALL ORDER BY ALL")
    >>> rows.table.column_names
    ['condition', 'n']
    """
    opened = OpenStore(connect(url, run=run), url=str(url), run=run)
    if missing := opened.find_missing_keys():
        log.warning("rows are missing: of what run %s used, %d keys are gone or not whole", run, len(missing))
    return opened


def _need(package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError:
        raise StoreError(
            f"the package {package} is not installed: pip install {package}, or use the rows' `table`"
        ) from None

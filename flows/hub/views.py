"""What a run's views say of the data set that is made of them: rows, judges, and widths of states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from flows.hub.tables import Harmful, HubTable, JudgeColumns
from storage.errors import StoreError
from tasks.core.stage_name import ANSWERS

BATCH = 500
# What a judge may say beside its verdict.
EXTRA = ("refused", "score", "raw")


@dataclass(frozen=True, kw_only=True)
class RunViews:
    """The views of one run, and what becomes of harmful text in what is read; raises `StoreError` for damaged rows."""

    connection: duckdb.DuckDBPyConnection
    harmful: Harmful

    def read(self, table: HubTable) -> Iterator[pa.RecordBatch]:
        """Read the rows of a table, 500 at once, with the columns in its order."""
        query = table.make_query(harmful=self.harmful)
        try:
            yield from self.connection.sql(query).to_arrow_reader(BATCH)
        except duckdb.Error as error:
            raise _explain(error) from error

    def count(self, view: str) -> int:
        """Count the rows of a view."""
        ((count,),) = self._ask(f"SELECT count(*) FROM {view}")  # noqa: S608 - a constant
        return int(count)

    def list_datasets(self) -> list[str]:
        """List the data sets that samples are of."""
        return [dataset for (dataset,) in self._ask("SELECT DISTINCT dataset FROM samples ORDER BY dataset")]

    def count_unanswered(self) -> int:
        """Count the questions that were put aside in place of an answer."""
        stages = [str(stage) for stage in ANSWERS]
        ((count,),) = self._ask("SELECT count(*) FROM quarantine WHERE list_contains(?, stage)", [stages])
        return int(count)

    def list_judges(self, known: Sequence[str]) -> list[JudgeColumns]:
        """List the judges with verdicts, those of `known` first and in its order, with the columns that they fill."""
        counts = ", ".join(f"count(nullif(CAST({name} AS VARCHAR), ''))" for name in EXTRA)
        # Made of constants.
        rows = self._ask(f"SELECT judge, {counts} FROM judgements GROUP BY judge")  # noqa: S608 - our own names
        found = {
            judge: tuple(name for name, count in zip(EXTRA, counted, strict=True) if count)
            for judge, *counted in rows
        }
        names = [*(name for name in known if name in found), *sorted(set(found) - set(known))]
        return [JudgeColumns(name=name, extra=found[name]) for name in names]

    def list_widths(self) -> set[int]:
        """List the widths of the hidden states, one or none for each model."""
        models = self._ask("SELECT DISTINCT model FROM hidden_states")
        # One row of each model: reading all would take as long as writing them.
        one = "SELECT len(vector) FROM hidden_states WHERE model = ? LIMIT 1"
        return {int(width) for (model,) in models for (width,) in self._ask(one, [model])}

    def count_reasons(self, quarantine: HubTable) -> list[tuple[str, str, str, int]]:
        """Count quarantined rows by stage, data set and reason, most first; reasons are those of the table."""
        names = quarantine.schema.names
        columns = ", ".join(f"c{names.index(name)}" for name in ("stage", "dataset", "reason"))
        rows = quarantine.make_query(harmful=self.harmful)
        # Made of constants and quoted texts.
        query = f"SELECT {columns}, count(*) FROM ({rows}) GROUP BY ALL ORDER BY count(*) DESC, {columns}"  # noqa: S608 - our own names
        return [(stage, dataset, reason, int(count)) for stage, dataset, reason, count in self._ask(query)]

    def _ask(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            return self.connection.execute(query, [*parameters]).fetchall()
        except duckdb.Error as error:
            raise _explain(error) from error


def _explain(error: duckdb.Error) -> StoreError:
    return StoreError(f"the store cannot be read: {error}; cmrm store verify says which file is damaged")

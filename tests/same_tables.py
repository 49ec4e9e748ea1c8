"""What two stores hold of the same run, row by row: what is lost, what is there twice, what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storage.maintenance.inventory import take_inventory
from storage.maintenance.verify import verify
from storage.sql.database import connect
from storage.store import Store

# What tells the rows of each table apart.
TABLES = {
    "samples": ("dataset", "sample_id"),
    "responses": ("dataset", "sample_id", "condition", "intervention", "alpha"),
    "judgements": ("judge", "dataset", "sample_id", "condition", "intervention", "alpha"),
    "quarantine": ("stage", "dataset", "sample_id", "line", "key"),
    "hidden_states": ("dataset", "sample_id", "condition", "intervention", "alpha", "block"),
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Rows that are missing, rows that are there more than once, and whatever else differs, in words."""

    lost: int
    twice: int
    faults: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """Whether the two are the same."""
        return not (self.lost or self.twice or self.faults)

    def __str__(self) -> str:
        return f"{self.lost} lost, {self.twice} twice, {'; '.join(self.faults) or 'tables equal'}"


def compare_stores(killed: Path, calm: Path) -> Difference:
    """Hold a store whose run was disturbed against one whose was not."""
    lost = twice = 0
    faults: list[str] = []
    for table, names in TABLES.items():
        columns = ", ".join(names)
        there, expected = (
            Counter(_read(store, f"SELECT {columns} FROM {table}")) for store in (killed, calm)
        )
        lost += (expected - there).total()
        twice += sum(count - 1 for count in there.values() if count > 1)
        if extra := there.keys() - expected.keys():
            faults.append(f"{table}: rows that should not be there, such as {min(extra, key=str)}")
        if table != "hidden_states":
            rows = [_read(store, f"FROM {table} ORDER BY {columns}") for store in (killed, calm)]
            faults += _first_difference(table, *rows)
    if not (lost or twice or faults):
        faults += _compare_vectors(killed, calm)
    finished = "SELECT summary FROM runs WHERE status = 'finished'"
    if _read(killed, finished) != _read(calm, finished):
        faults.append("the summaries differ")
    store = Store.open(killed)
    faults += [f"{one.path}: {one.fault}" for one in verify(store, take_inventory(store)) if one.fault]
    return Difference(lost=lost, twice=twice, faults=tuple(faults))


def _first_difference(table: str, there: Sequence[Any], expected: Sequence[Any]) -> list[str]:
    pairs = zip(there, expected, strict=False)
    return next(([f"{table}: {one} instead of {other}"] for one, other in pairs if one != other), [])


def _compare_vectors(killed: Path, calm: Path) -> list[str]:
    order = f"FROM hidden_states ORDER BY {', '.join(TABLES['hidden_states'])}"
    there, expected = (np.array(_read(store, f"SELECT vector {order}")) for store in (killed, calm))
    # Another batch is another order of summation, so the last bit of a float16 may differ.
    return [] if np.allclose(there, expected, rtol=2e-3, atol=1e-3) else ["hidden_states: other vectors"]


def _read(store: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(store) as connection:
        return connection.sql(query).fetchall()

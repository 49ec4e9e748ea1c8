"""The function behind the macro states_of_sample: its index is made, and its modules imported, at its first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from duckdb.func import PythonUDFType

from storage.backends.base import Files
from storage.sql.macros import FIND
from storage.sql.views import sql_type
from storage.tables.schemas import KINDS, SINGLE_VECTOR

if TYPE_CHECKING:
    from storage.sql.sample_index import SampleIndex

# The columns of the view `hidden_states`, of which a file's name and folders tell some.
COLUMNS: Mapping[str, pa.DataType] = MappingProxyType(
    {"key": pa.string()}
    | {
        field.name: SINGLE_VECTOR if field.name == "vector" else field.type
        for field in KINDS["hidden_states"].schema
    }
)


class SampleLookup:
    """Finds the states of a sample in these files of a store; safe to use from several threads."""

    def __init__(self, files: Files, paths: Sequence[str]) -> None:
        self._files, self._paths = files, paths
        self._index: SampleIndex | None = None
        self._lock = Lock()

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Register the function behind the macro states_of_sample on a connection."""
        row = ", ".join(f'"{name}" {sql_type(kind)}' for name, kind in COLUMNS.items())
        connection.create_function(
            FIND, self._answer, ["VARCHAR"], f"STRUCT({row})[]", type=PythonUDFType.ARROW
        )

    def _answer(self, samples: pa.ChunkedArray) -> pa.ListArray:
        with self._lock:
            if self._index is None:
                # Imported late: it takes as long as a small query, and most look no sample up.
                from storage.sql.sample_index import SampleIndex

                self._index = SampleIndex(self._files, self._paths)
        return self._index.answer(samples)

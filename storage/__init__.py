"""Store the results of runs: keys, manifests, Parquet tables, and SQL over them. `open_store` reads them in Python."""

from __future__ import annotations

# True to type checkers, by its name; typing itself is as dear to import as all else here.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from storage.errors import StoreError
    from storage.sql.open_store import OpenStore, Rows, open_store

__all__ = ["OpenStore", "Rows", "StoreError", "open_store"]

# The module of each name: DuckDB and Arrow come with the first that needs them.
_MODULES = {
    "OpenStore": "storage.sql.open_store",
    "Rows": "storage.sql.open_store",
    "StoreError": "storage.errors",
    "open_store": "storage.sql.open_store",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

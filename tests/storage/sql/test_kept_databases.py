"""The views are built once for the same contents; any change of these, or of what was kept, builds them anew."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import duckdb
import pytest

from storage.sql import database, kept_databases
from storage.sql.database import connect
from storage.store import Store
from tests.made_up_store import VIEWS

ASKED = (
    *(f"SELECT * FROM {view} ORDER BY ALL" for view in sorted(VIEWS)),
    "SELECT view_name, sql, comment FROM duckdb_views() WHERE NOT internal ORDER BY ALL",
    "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal ORDER BY ALL",
    "SELECT function_name, comment FROM duckdb_functions() WHERE NOT internal ORDER BY ALL",
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache with nothing in it."""
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sql"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The databases that are built."""
    places: list[Path] = []
    build = database._build

    def note(place: Path, *arguments: Any) -> None:
        places.append(place)
        build(place, *arguments)

    monkeypatch.setattr(database, "_build", note)
    return places


def ask(store: Store, run: str | None = None) -> list[Any]:
    with connect(store.url, run=run) as sql:
        return [sql.execute(query).fetchall() for query in ASKED]


@pytest.mark.usefixtures("cache")
def test_the_same_contents_are_built_once_and_look_the_same(filled: Store, built: list[Path]) -> None:
    first = ask(filled)
    assert ask(filled) == first
    assert len(built) == 1


@pytest.mark.usefixtures("cache")
def test_each_run_and_each_new_record_is_a_database_of_its_own(filled: Store, built: list[Path]) -> None:
    ask(filled)
    narrow = ask(filled, "r1")
    assert len(built) == 2
    filled.write_run("r3", {"status": "finished", "keys": []})
    with connect(filled.url) as sql:
        assert ("r3",) in sql.execute("SELECT run_id FROM runs").fetchall()
    assert len(built) == 3
    assert ask(filled, "r1") != narrow


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_what_was_changed_is_not_used_and_is_replaced(
    filled: Store, cache: Path, built: list[Path], damage: bytes | None
) -> None:
    whole = ask(filled)
    (kept,) = cache.iterdir()
    data = kept.read_bytes()
    kept.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage is None else damage)
    assert ask(filled) == whole
    assert len(built) == 2
    assert ask(filled) == whole
    assert len(built) == 2
    assert len(list(cache.iterdir())) == 1


def test_few_are_kept_those_used_last_and_for_the_user_alone(
    filled: Store, cache: Path, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_databases, "MOST_KEPT", 2)
    ask(filled)
    ask(filled, "r1")
    ask(filled)
    ask(filled, "r2")
    assert len(list(cache.iterdir())) == 2
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    ask(filled)
    assert len(built) == 3
    monkeypatch.setattr(kept_databases, "LARGEST_KEPT", 0)
    ask(filled, "r1")
    ask(filled, "r1")
    assert len(built) == 5


def test_without_a_cache_that_can_be_written_queries_are_answered(
    filled: Store, tmp_path: Path, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "file"))
    assert ask(filled) == ask(filled)
    assert len(built) == 2


def test_sql_reaches_no_database_that_is_kept(filled: Store, cache: Path) -> None:
    ask(filled)
    (kept,) = cache.iterdir()
    with connect(filled.url) as sql:
        for query in (f"ATTACH '{kept}'", f"FROM read_blob('{kept}')", f"COPY (SELECT 1) TO '{kept}'"):
            with pytest.raises(duckdb.Error):
                sql.execute(query)
        paths = sql.execute("SELECT path FROM duckdb_databases() WHERE NOT internal").fetchall()
    assert str(kept) not in {path for (path,) in paths}

"""Parts are whole or not there, and give each finished sample once, whoever wrote them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import StoreError
from storage.identity import stage_key
from storage.parts import Parts
from storage.schemas import KINDS
from storage.store import Store
from storage.tables import from_rows

KEY = stage_key("generate", {"shard": 0})
_numbers = itertools.count()


def open_parts(store: Store) -> Parts:
    return Parts(store, "generate", KEY, KINDS["quarantine"], unit="sample_id")


def rows(*ids: int) -> pa.Table:
    return from_rows(
        [{"stage": "generate", "dataset": "d", "sample_id": f"s{i}", "line": i, "reason": "r"} for i in ids],
        "quarantine",
    )


def read(store: Store) -> list[int]:
    return sorted(line for table in open_parts(store).read() for line in table["line"].to_pylist())


def files(store: Store) -> list[str]:
    return store.files.under(f"parts/generate/{KEY}")


def test_parts_come_back_with_each_sample_once(any_store):
    open_parts(any_store).write([rows(0, 1), rows(2)])
    open_parts(any_store).write([rows(1, 2, 3)])
    assert read(any_store) == [0, 1, 2, 3]


def test_no_parts_are_no_rows(any_store):
    assert read(any_store) == []


def test_discarding_removes_the_parts_and_their_folder(store):
    open_parts(store).write([rows(0)])
    open_parts(store).discard()
    assert files(store) == []
    assert not Path(store.url, f"parts/generate/{KEY}").exists()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: bytes(len(data)), lambda data: data[:0]]
)
def test_a_damaged_part_counts_as_not_there_and_the_log_says_so(store, caplog, damage):
    open_parts(store).write([rows(0)])
    open_parts(store).write([rows(1)])
    path = Path(store.url, files(store)[0])
    path.write_bytes(damage(path.read_bytes()))
    assert len(read(store)) == 1
    assert "its rows are made again" in caplog.text


def test_a_part_with_other_columns_counts_as_not_there(store, caplog):
    Parts(store, "generate", KEY, KINDS["responses"], unit="sample_id").write([rows(0)])
    assert read(store) == [0]
    assert list(Parts(store, "generate", KEY, KINDS["responses"], unit="sample_id").read()) == []
    assert "other columns" in caplog.text


def test_half_written_parts_are_never_seen(store):
    place = Path(store.url, f"parts/generate/{KEY}")
    place.mkdir(parents=True)
    (place / ".0af.tmp").write_bytes(b"ARROW1half")
    assert read(store) == []


def test_a_part_that_another_worker_removes_while_it_is_read_is_left_out(store, monkeypatch):
    open_parts(store).write([rows(0)])
    listed = store.files.under

    def list_then_lose(folder: str) -> list[str]:
        found = listed(folder)
        for path in found:
            store.files.remove(path)
        return found

    monkeypatch.setattr(store.files, "under", list_then_lose)
    assert read(store) == []


def test_a_disk_that_refuses_a_part_says_so(store, forbidden):
    with forbidden(Path(store.url)), pytest.raises(StoreError, match="Permission denied"):
        open_parts(store).write([rows(0)])
    assert read(store) == []


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, unique=True), max_size=8))
def test_any_parts_of_any_workers_give_each_sample_once(written):
    store = Store.create(f"memory://parts-{next(_numbers)}")
    for numbers in written:
        open_parts(store).write([rows(*numbers)])
    assert read(store) == sorted(set().union(*written))

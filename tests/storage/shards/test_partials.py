"""Parts are whole or not there, whoever wrote them and whoever removes them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from storage.errors import PartsGoneError, StoreError
from storage.records.hashing import stage_key
from storage.records.manifest import StoredFile
from storage.shards.partials import Parts
from storage.store import Store
from storage.tables.arrow import from_rows
from storage.tables.hashing_sink import HashingSink
from storage.tables.parquet import to_parquet

KEY = stage_key("generate", {"shard": 0})


def open_parts(store: Store) -> Parts:
    return Parts(store, "generate", KEY)


def rows(*ids: int) -> pa.Table:
    return from_rows(
        [{"stage": "generate", "dataset": "d", "sample_id": f"s{i}", "line": i, "reason": "r"} for i in ids],
        "quarantine",
    )


def keep(store: Store, *ids: int) -> StoredFile:
    parts = open_parts(store)
    sink = HashingSink(parts.start())
    sink.write(to_parquet(rows(*ids), "quarantine"))
    sink.close()
    return parts.keep(sink.written(rows=len(ids)))


def read(store: Store) -> list[int]:
    return sorted(line for _, table in open_parts(store).read_all() for line in table["line"].to_pylist())


def files(store: Store) -> list[str]:
    return store.files.under(f"parts/generate/{KEY}")


def test_parts_come_back_with_what_they_are(any_store):
    kept = [keep(any_store, 0, 1), keep(any_store, 2)]
    assert read(any_store) == [0, 1, 2]
    assert sorted(part.path for part, _ in open_parts(any_store).read_all()) == sorted(
        one.path for one in kept
    )
    for part, table in open_parts(any_store).read_all():
        assert part in kept
        assert open_parts(any_store).read(part).equals(table)


def test_no_parts_are_no_rows(any_store):
    assert read(any_store) == []


def test_discarding_removes_the_parts_and_their_folder(store):
    kept = keep(store, 0)
    open_parts(store).discard()
    assert files(store) == []
    assert not Path(store.url, f"parts/generate/{KEY}").exists()
    with pytest.raises(PartsGoneError, match="another worker has committed"):
        open_parts(store).read(kept)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: bytes(len(data)), lambda data: data[:0]]
)
def test_a_damaged_part_counts_as_not_there_and_the_log_says_so(store, caplog, damage):
    keep(store, 0)
    keep(store, 1)
    path = Path(store.url, files(store)[0])
    path.write_bytes(damage(path.read_bytes()))
    assert len(read(store)) == 1
    assert "its rows are made again" in caplog.text


def test_half_written_parts_are_never_seen(store):
    open_parts(store).start().write_bytes(b"PAR1half")
    assert read(store) == []


def test_a_part_that_another_worker_removes_while_it_is_read_is_left_out(store, monkeypatch):
    keep(store, 0)
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
        open_parts(store).start()
    assert read(store) == []

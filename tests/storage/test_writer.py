"""A shard's rows reach the disk beside the work, each once, whatever dies on the way."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import StoreError
from storage.identity import stage_key
from storage.parquet import ROW_GROUP_BYTES, read_parquet
from storage.sink import HashingSink
from storage.states import hidden_states_table, read_block, read_hidden_states
from storage.store import Store
from storage.tables import from_rows, table_path
from storage.writer import ShardWriter

KEY = stage_key("ingest", {"shard": 0})
PLACE = f"quarantine/{KEY}.parquet"


def writer(store: Store, **options) -> ShardWriter:
    return ShardWriter(store, "ingest", KEY, "quarantine", **options)


def rows(*ids: int) -> pa.Table:
    return from_rows(
        [{"stage": "ingest", "dataset": "d", "sample_id": f"s{i:04}", "line": i, "reason": "r"} for i in ids],
        "quarantine",
    )


def parts(store: Store) -> list[str]:
    return store.files.under(f"parts/ingest/{KEY}")


def unfinished(store: Store) -> list[Path]:
    return list(Path(store.url).rglob(".*.tmp"))


def finish(store: Store, work: ShardWriter) -> list[int]:
    """Commit what a writer has, as a stage does; the committed lines."""
    manifest = store.commit("ingest", KEY, {PLACE: work.finish()})
    work.discard()
    assert store.find("ingest", KEY) == manifest
    return read_parquet(store.local_path(manifest.path("quarantine")))["line"].to_pylist()


def test_rows_are_committed_in_the_order_they_came_and_nothing_is_left_over(any_store):
    with writer(any_store) as work:
        for start in range(0, 40, 4):
            work.append(rows(*range(start, start + 4)))
        assert finish(any_store, work) == list(range(40))
    assert parts(any_store) == []
    if "://" not in any_store.url:
        assert unfinished(any_store) == []


def test_a_shard_without_rows_is_a_file_with_its_columns(any_store):
    with writer(any_store) as work:
        assert finish(any_store, work) == []


def test_the_committed_file_is_hashed_as_it_was_written(store):
    with writer(store) as work:
        work.append(rows(*range(1000)))
        written = work.finish()
        manifest = store.commit("ingest", KEY, {PLACE: written})
        data = store.read(manifest.files[0].path)
    assert manifest.files[0].bytes == len(data)
    assert manifest.rows == 1000
    assert store.find("ingest", KEY) == manifest


def test_leaving_early_keeps_what_was_finished_as_a_part_and_removes_the_file(store):
    def work_and_fail() -> None:
        with writer(store) as work:
            work.append(rows(0, 1))
            raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        work_and_fail()
    assert len(parts(store)) == 1
    assert unfinished(store) == []
    with writer(store) as again:
        assert again.resume("line")["line"].to_pylist() == [0, 1]
        again.append(rows(2))
        assert finish(store, again) == [0, 1, 2]


def test_a_commit_that_fails_loses_no_row(store, monkeypatch):
    def refuse(path: str, source: object) -> None:
        raise StoreError("cannot write: No space left on device")

    def work_and_fail() -> None:
        with writer(store) as work:
            work.append(rows(0, 1))
            written = work.finish()
            with monkeypatch.context() as patch:
                patch.setattr(store.files, "adopt", refuse)
                store.commit("ingest", KEY, {PLACE: written})

    with pytest.raises(StoreError, match="No space left"):
        work_and_fail()
    assert store.find("ingest", KEY) is None
    assert unfinished(store) == []
    with writer(store) as again:
        assert again.resume("line")["line"].to_pylist() == [0, 1]


@pytest.mark.parametrize(("seconds", "expected"), [(1, 0), (14, 0), (15, 1), (300, 1)])
def test_parts_are_closed_once_enough_seconds_have_passed_since_the_last(store, seconds, expected):
    now = [0.0]
    with writer(store, clock=lambda: now[0]) as work:
        now[0] = seconds
        work.append(rows(0))
        work._wait(0)
        assert len(parts(store)) == expected
        work.discard()


def test_parts_are_closed_once_enough_bytes_wait(store):
    with writer(store, part_bytes=rows(*range(50)).nbytes) as work:
        for start in range(0, 100, 10):
            work.append(rows(*range(start, start + 10)))
        work._wait(0)
        assert len(parts(store)) == 2
        work.discard()


def test_whoever_makes_rows_faster_than_the_disk_takes_them_waits(store, monkeypatch):
    go_on = threading.Event()
    started = threading.Event()
    add = ShardWriter._add

    def wait_for_disk(self: ShardWriter, table: pa.Table) -> None:
        started.set()
        assert go_on.wait(30)
        add(self, table)

    monkeypatch.setattr(ShardWriter, "_add", wait_for_disk)
    taken = []
    with writer(store) as work:

        def produce() -> None:
            for number in range(10):
                work.append(rows(number))
                taken.append(number)

        producer = threading.Thread(target=produce)
        producer.start()
        assert started.wait(30)
        producer.join(0.2)
        assert len(taken) <= 2
        go_on.set()
        producer.join(30)
        assert finish(store, work) == list(range(10))


def test_an_error_of_the_disk_surfaces_at_the_next_row_or_at_the_end(store, monkeypatch):
    put = HashingSink._put

    def fill(self: HashingSink, data: bytes) -> None:
        if self.path == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, data)

    monkeypatch.setattr(HashingSink, "_put", fill)
    with pytest.raises(StoreError, match=r"No space left.*free some space"), writer(store) as work:
        file = work._place
        work.append(rows(0))
        work.finish()
    monkeypatch.undo()
    assert unfinished(store) == []
    with writer(store) as again:
        assert again.resume("line")["line"].to_pylist() == [0]


def test_rows_of_another_kind_surface_too(store):
    def work_and_fail() -> None:
        with writer(store) as work:
            work.append(pa.table({"sample_id": ["a"]}))
            work.finish()

    with pytest.raises(StoreError, match="lacks the column stage"):
        work_and_fail()


def test_two_workers_on_one_key_end_with_each_row_once(store):
    one, two = writer(store), writer(store)
    with one, two:
        one.append(rows(0, 1))
        two.append(rows(1, 0))
        assert sorted(finish(store, one)) == [0, 1]
        two.append(rows(2))
        assert sorted(finish(store, two)) == [0, 1, 2]
    assert parts(store) == []


@settings(max_examples=40)
@given(st.lists(st.integers(1, 12), max_size=5))
def test_working_on_from_any_failures_gives_what_one_undisturbed_worker_gives(tmp_path_factory, lives):
    store = Store.create(tmp_path_factory.mktemp("store"))
    for life in lives:
        with writer(store) as work:
            done = set(work.resume("line")["line"].to_pylist())
            for number in [one for one in range(20) if one not in done][:life]:
                work.append(rows(number))
    with writer(store) as work:
        done = set(work.resume("line")["line"].to_pylist())
        for number in range(20):
            if number not in done:
                work.append(rows(number))
        assert sorted(finish(store, work)) == list(range(20))


def make_states(start: int, count: int, *, blocks: int, width: int) -> tuple[pa.Table, np.ndarray]:
    vectors = np.random.default_rng(start).standard_normal((count, blocks, width)).astype(np.float16)
    ids = [f"s{number:05}" for number in range(start, start + count)]
    table = hidden_states_table(
        model="m",
        dataset="d",
        sample_ids=ids[::-1],
        condition="image",
        blocks=range(blocks),
        vectors=vectors[::-1],
    )
    return table, vectors


def test_states_are_written_in_row_groups_of_one_block_and_a_mebibyte(store):
    width, blocks = 4096, 3
    expected = []
    with ShardWriter(store, "embed", KEY, "hidden_states") as work:
        for start in range(0, 300, 20):
            table, vectors = make_states(start, 20, blocks=blocks, width=width)
            work.append(table)
            expected.append(vectors)
        path = table_path("hidden_states", KEY, model="m", condition="image")
        manifest = store.commit("embed", KEY, {path: work.finish()})
        work.discard()
    place = store.local_path(manifest.path("hidden_states"))
    file = pq.ParquetFile(place)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    assert all(group.num_rows * width * 2 <= ROW_GROUP_BYTES for group in groups)
    assert all(group.column(2).statistics.min == group.column(2).statistics.max for group in groups)
    assert {group.column(2).statistics.min for group in groups} == set(range(blocks))
    for block in range(blocks):
        read = read_block(place, block)
        assert np.array_equal(read.choose(sorted(read.sample_ids))[:, 0], np.concatenate(expected)[:, block])


def test_states_survive_a_resumption(store):
    table, vectors = make_states(0, 9, blocks=3, width=8)
    for start in range(0, 9, 3):
        chosen = table.filter(
            pa.compute.is_in(table["sample_id"], pa.array([f"s{i:05}" for i in range(start, start + 3)]))
        )
        with ShardWriter(store, "embed", KEY, "hidden_states") as work:
            work.append(chosen)
    with ShardWriter(store, "embed", KEY, "hidden_states") as work:
        assert len(work.resume("sample_id")) == 27
        path = table_path("hidden_states", KEY, model="m", condition="image")
        manifest = store.commit("embed", KEY, {path: work.finish()})
    read = read_hidden_states(read_parquet(store.local_path(manifest.path("hidden_states"))))
    assert np.array_equal(read.choose(sorted(read.sample_ids)), vectors)


WORKER = """
import sys, time
from storage.store import Store
from storage.tables import from_rows
from storage.writer import ShardWriter

url, key = sys.argv[1:]
store = Store.create(url)
if store.find("ingest", key) is None:
    with ShardWriter(store, "ingest", key, "quarantine", part_bytes=1500) as writer:
        done = set(writer.resume("line")["line"].to_pylist())
        print("ready", flush=True)
        for line in range(400):
            if line not in done:
                time.sleep(0.002)
                row = {"stage": "ingest", "dataset": "d", "sample_id": f"s{line}", "line": line, "reason": "r"}
                writer.append(from_rows([row], "quarantine"))
        store.commit("ingest", key, {f"quarantine/{key}.parquet": writer.finish()})
        writer.discard()
print("finished", flush=True)
"""


def test_a_worker_killed_at_random_moments_and_started_again_loses_nothing_on_disk(store, start):
    chance = random.Random(0)
    on_disk = 0
    # Six lives of at most 0.12 s are too short for 400 rows that take 2 ms each.
    for life in range(6):
        process = start(WORKER, store.url, KEY)
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(Exception, match="timed out"):
            process.wait(timeout=chance.uniform(0.0, 0.12))
        deadline = time.monotonic() + 30
        while life == 0 and not parts(store) and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
        process.wait()
        kept = sum(table.num_rows for table in writer(store).parts.read())
        assert kept >= on_disk
        on_disk = kept
    assert on_disk > 0
    process = start(WORKER, store.url, KEY)
    output, errors = process.communicate(timeout=60)
    assert output.endswith("finished\n"), errors
    manifest = store.find("ingest", KEY)
    assert manifest is not None
    assert manifest.rows == 400
    assert parts(store) == []

"""A shard's rows reach the disk beside the work, each once, whatever dies on the way."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import PartsGoneError, StoreError
from storage.records.hashing import stage_key
from storage.records.manifest import Manifest
from storage.shards.hidden_states import (
    hidden_states_table,
    list_blocks,
    read_block,
    read_hidden_states,
    read_last_block,
)
from storage.shards.partials import Parts
from storage.shards.rows import find_files, read_rows
from storage.shards.writer import ShardWriter, make_writer_thread
from storage.store import Store
from storage.tables.arrow import from_rows, table_path, table_paths
from storage.tables.hashing_sink import HashingSink
from storage.tables.parquet import write_parquet
from storage.tables.row_groups import ROW_GROUP_BYTES

KEY = stage_key("ingest", {"shard": 0})


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


def commit(store: Store, work: ShardWriter) -> Manifest:
    """Commit what a writer has, as a stage does."""
    written = work.finish()
    paths = table_paths("quarantine", KEY, len(written))
    manifest = store.commit("ingest", KEY, dict(zip(paths, written, strict=True)))
    work.discard()
    assert store.find("ingest", KEY) == manifest
    return manifest


def finish(store: Store, work: ShardWriter) -> list[int]:
    """Commit what a writer has; the committed lines."""
    return read_rows(store, commit(store, work), "quarantine")["line"].to_pylist()


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


def test_the_committed_file_is_hashed_as_it_was_written(any_store):
    with writer(any_store) as work:
        work.append(rows(*range(1000)))
        manifest = commit(any_store, work)
    data = any_store.read(manifest.files[0].path)
    assert manifest.files[0].bytes == len(data)
    assert manifest.rows == 1000


def test_small_parts_become_one_file_and_large_ones_stay_as_they_are(any_store, monkeypatch):
    for large, files in ((1 << 30, 1), (1, 10)):
        monkeypatch.setattr("storage.shards.writer.SMALLEST_FILE", large)
        with writer(any_store, part_bytes=1) as work:
            for start in range(0, 100, 10):
                work.append(rows(*range(start, start + 10)))
                work._submit(work._close_part)
            manifest = commit(any_store, work)
        assert len(manifest.files) == files
        assert manifest.rows == 100
        lines = read_rows(any_store, manifest, "quarantine")["line"].to_pylist()
        assert sorted(lines) == list(range(100))
    assert parts(any_store) == []


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
        assert sorted(finish(store, again)) == [0, 1, 2]


def test_a_commit_that_fails_loses_no_row(store, monkeypatch):
    def refuse(path: str, source: object) -> None:
        raise StoreError("cannot write: No space left on device")

    def work_and_fail() -> None:
        with writer(store) as work:
            work.append(rows(0, 1))
            written = work.finish()
            with monkeypatch.context() as patch:
                patch.setattr(store.files, "copy", refuse)
                store.commit("ingest", KEY, {table_path("quarantine", KEY): written[0]})

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


def test_parts_are_closed_once_enough_bytes_are_written(store, monkeypatch):
    monkeypatch.setattr("storage.shards.writer.SMALLEST_FILE", 2000)
    with writer(store, part_bytes=4000) as work:
        for start in range(0, 1000, 10):
            work.append(rows(*range(start, start + 10)))
        work._submit(work._collect, 0)
        work._wait(0)
        assert len(parts(store)) > 2
        assert sorted(finish(store, work)) == list(range(1000))


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
    def fill(self: HashingSink, *data: bytearray) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work_and_fail() -> None:
        with writer(store) as work:
            work.append(rows(0))
            work._submit(work._close_part)
            work._wait(0)
            monkeypatch.setattr(HashingSink, "_put", fill)
            work.append(rows(1))
            work.finish()

    with pytest.raises(StoreError, match=r"No space left.*free some space"):
        work_and_fail()
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


def test_two_workers_on_one_key_end_with_each_row_once(any_store):
    one, two = writer(any_store), writer(any_store)
    with one, two:
        one.append(rows(0, 1))
        two.append(rows(1, 0))
        assert sorted(finish(any_store, one)) == [0, 1]
        two.append(rows(2))
        assert sorted(finish(any_store, two)) == [0, 1, 2]
    assert parts(any_store) == []


def test_rows_that_two_workers_kept_are_taken_up_once(any_store):
    for numbers in ((0, 1), (1, 2)):
        with writer(any_store) as work:
            work.append(rows(*numbers))
    with writer(any_store) as again:
        assert sorted(again.resume("line")["line"].to_pylist()) == [0, 1, 2]
        assert sorted(finish(any_store, again)) == [0, 1, 2]


@pytest.mark.parametrize("smallest", [1, 1 << 30])
def test_a_worker_whose_parts_another_discarded_gets_an_error_and_loses_no_rows(
    any_store, monkeypatch, smallest
):
    monkeypatch.setattr("storage.shards.writer.SMALLEST_FILE", smallest)
    one, two = writer(any_store), writer(any_store)

    def commit_two() -> None:
        two.append(rows(3))
        commit(any_store, two)

    with one, two:
        two.append(rows(2))
        two._submit(two._close_part)
        two._wait(0)
        one.append(rows(0, 1))
        assert len(finish(any_store, one)) == 2
        with pytest.raises(PartsGoneError, match="another worker has committed"):
            commit_two()


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
    with states_writer(store) as work:
        for start in range(0, 300, 20):
            table, vectors = make_states(start, 20, blocks=blocks, width=width)
            work.append(table)
            expected.append(vectors)
        manifest = commit_states(store, work)
    (place,) = find_files(store, manifest, "hidden_states")
    file = pq.ParquetFile(place)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    assert all(group.num_rows * width * 2 <= ROW_GROUP_BYTES for group in groups)
    assert all(group.column(2).statistics.min == group.column(2).statistics.max for group in groups)
    assert {group.column(2).statistics.min for group in groups} == set(range(blocks))
    for block in range(blocks):
        read = read_block([place], block)
        assert np.array_equal(read.choose(sorted(read.sample_ids))[:, 0], np.concatenate(expected)[:, block])


def states_writer(store: Store, **options) -> ShardWriter:
    partitions = {"model": "m", "condition": "image"}
    return ShardWriter(store, "embed", KEY, "hidden_states", partitions=partitions, **options)


def commit_states(store: Store, work: ShardWriter) -> Manifest:
    written = work.finish()
    paths = table_paths("hidden_states", KEY, len(written), model="m", condition="image")
    manifest = store.commit("embed", KEY, dict(zip(paths, written, strict=True)))
    work.discard()
    return manifest


@pytest.mark.parametrize("smallest", [1, 1 << 30])
def test_states_survive_a_resumption(any_store, monkeypatch, smallest):
    monkeypatch.setattr("storage.shards.writer.SMALLEST_FILE", smallest)
    table, vectors = make_states(0, 9, blocks=3, width=8)
    for start in range(0, 9, 3):
        wanted = pa.array([f"s{number:05}" for number in range(start, start + 3)])
        with states_writer(any_store) as work:
            work.append(table.filter(pc.is_in(table["sample_id"], wanted)))
    with states_writer(any_store) as work:
        assert len(work.resume("sample_id")) == 27
        manifest = commit_states(any_store, work)
    assert len(manifest.files) == (3 if smallest == 1 else 1)
    read = read_hidden_states(read_rows(any_store, manifest, "hidden_states"))
    assert np.array_equal(read.choose(sorted(read.sample_ids)), vectors)
    files = find_files(any_store, manifest, "hidden_states")
    assert list_blocks(files) == [0, 1, 2]
    last = read_last_block(files)
    assert np.array_equal(last.choose(sorted(last.sample_ids))[:, 0], vectors[:, 2])


def test_a_block_and_a_position_are_read_by_themselves(tmp_path):
    places = ("mean_image", "last", "first_answer")
    made = [make_states(start, 40, blocks=3, width=1024) for start in range(3)]
    tables = [
        table.set_column(
            table.schema.get_field_index("position"), "position", pa.repeat(position, table.num_rows)
        )
        for position, (table, _) in zip(places, made, strict=True)
    ]
    path = tmp_path / "states.parquet"
    write_parquet(pa.concat_tables(tables), "hidden_states", path)
    whole = pq.read_metadata(path)
    assert whole.num_row_groups == 3 * len(places)
    for position, (_, vectors) in zip(places, made, strict=True):
        assert list_blocks([path], position=position) == [0, 1, 2]
        for block in range(3):
            read = read_block([path], block, position=position)
            assert np.array_equal(read.choose(sorted(read.sample_ids))[:, 0], vectors[:, block])
    # Without a position, that of Δ.
    ids = sorted(read_last_block([path]).sample_ids)
    assert np.array_equal(read_last_block([path]).choose(ids)[:, 0], made[1][1][:, 2])
    assert list_blocks([path]) == [0, 1, 2]
    assert list_blocks([path], position="last_image") == []
    assert read_block([path], 0, position="last_image").sample_ids == []


WORKER = """
import itertools, sys, time
from storage.store import Store
from storage.tables.arrow import from_rows, table_paths
from storage.shards.writer import ShardWriter, make_writer_thread

url, key = sys.argv[1:]
store = Store.create(url)
ticks = itertools.count()
if store.find("ingest", key) is None:
    with ShardWriter(store, "ingest", key, "quarantine", clock=lambda: next(ticks)) as writer:
        done = set(writer.resume("line")["line"].to_pylist())
        print("ready", flush=True)
        for line in range(400):
            if line not in done:
                time.sleep(0.002)
                row = {"stage": "ingest", "dataset": "d", "sample_id": f"s{line}", "line": line, "reason": "r"}
                writer.append(from_rows([row], "quarantine"))
        written = writer.finish()
        store.commit("ingest", key, dict(zip(table_paths("quarantine", key, len(written)), written)))
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
        kept = sum(table.num_rows for _, table in Parts(store, "ingest", KEY).read_all())
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


def test_writers_that_share_a_thread_write_each_its_own_rows_with_one_thread(store):
    before = threading.active_count()
    keys = [stage_key("ingest", {"shard": number}) for number in range(8)]
    with make_writer_thread() as thread, ExitStack() as stack:
        writers = [
            stack.enter_context(ShardWriter(store, "ingest", key, "quarantine", thread=thread))
            for key in keys
        ]
        for line in range(20):
            for number, one in enumerate(writers):
                one.append(rows(100 * number + line))
        assert threading.active_count() == before + 1
        for number, (key, one) in enumerate(zip(keys, writers, strict=True)):
            written = one.finish()
            paths = table_paths("quarantine", key, len(written))
            manifest = store.commit("ingest", key, dict(zip(paths, written, strict=True)))
            one.discard()
            lines = read_rows(store, manifest, "quarantine")["line"].to_pylist()
            assert lines == list(range(100 * number, 100 * number + 20))


def test_a_writer_that_fails_costs_the_others_on_its_thread_no_row(store, monkeypatch):
    original, other = ShardWriter._add, stage_key("ingest", {"shard": 1})
    accepted: list[int] = []

    def fail_for_one(self: ShardWriter, table: pa.Table) -> None:
        if table["line"][0].as_py() == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, table)

    def work_and_fail(good: ShardWriter, bad: ShardWriter) -> None:
        with bad:
            for line in range(6):
                good.append(rows(100 + line))
                accepted.append(100 + line)
                bad.append(rows(line))
            bad.finish()

    monkeypatch.setattr(ShardWriter, "_add", fail_for_one)
    with (
        make_writer_thread() as thread,
        ShardWriter(store, "ingest", other, "quarantine", thread=thread) as good,
    ):
        with pytest.raises(StoreError, match="No space left"):
            work_and_fail(good, writer(store, thread=thread))
        good.append(rows(200))
        written = good.finish()
        paths = table_paths("quarantine", other, len(written))
        manifest = store.commit("ingest", other, dict(zip(paths, written, strict=True)))
        good.discard()
    assert read_rows(store, manifest, "quarantine")["line"].to_pylist() == [*accepted, 200]
    assert unfinished(store) == []

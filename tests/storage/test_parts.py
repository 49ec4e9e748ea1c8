"""A killed worker loses the rows that it had not flushed, and nothing else."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import PartsGoneError, StoreError
from storage.identity import stage_key
from storage.parts import PartWriter
from storage.schemas import KINDS
from storage.states import hidden_states_table, read_hidden_states
from storage.store import Store

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64())])
KEY = stage_key("generate", {"shard": 0})
_numbers = itertools.count()


def writer(store: Store, **options) -> PartWriter:
    return PartWriter(store, "generate", KEY, SCHEMA, **({"max_rows": 4} | options))


def rows(*ids: int) -> list[dict[str, object]]:
    return [{"id": f"s{i}", "n": i} for i in ids]


def parts(store: Store, stage: str = "generate") -> list[str]:
    return store.files.under(f"parts/{stage}/{KEY}")


def test_rows_are_flushed_once_enough_of_them_wait(any_store):
    parts_ = writer(any_store)
    parts_.append(rows(0, 1, 2))
    assert parts_.done("id") == set()
    parts_.append(rows(3))
    assert parts_.done("id") == {"s0", "s1", "s2", "s3"}
    assert parts_.done("id", "n") == {("s0", 0), ("s1", 1), ("s2", 2), ("s3", 3)}
    assert parts_.waiting == 0


def test_rows_are_flushed_once_the_oldest_has_waited_long_enough(store):
    now = [0.0]
    parts_ = writer(store, max_rows=1000, max_seconds=20, clock=lambda: now[0])
    for second, expected in ((0, 0), (19, 0), (20, 3), (25, 3), (39, 3), (40, 3), (45, 7)):
        now[0] = second
        parts_.append(rows(second))
        assert len(parts_.done("id")) == expected


def test_leaving_the_block_flushes_even_after_an_error(store):
    def work() -> None:
        with writer(store) as parts_:
            parts_.append(rows(0))
            parts_.append([{"id": "s1", "n": "one"}])

    with pytest.raises(StoreError, match="do not fit"):
        work()
    assert writer(store).done("id") == {"s0"}


def test_a_row_written_by_two_workers_is_read_once(any_store):
    one, two = writer(any_store), writer(any_store)
    one.append(rows(0, 1))
    two.append(rows(1, 2))
    one.flush()
    two.flush()
    assert sorted(one.read("id")["n"].to_pylist()) == sorted(two.read("id")["n"].to_pylist()) == [0, 1, 2]


def test_reading_nothing_gives_an_empty_table_of_the_schema(any_store):
    assert writer(any_store).read("id").equals(SCHEMA.empty_table())


def test_discarding_removes_the_parts_and_their_folder(store):
    with writer(store) as parts_:
        parts_.append(rows(0, 1))
    parts_.discard()
    assert parts(store) == []
    assert not Path(store.url, f"parts/generate/{KEY}").exists()
    assert parts_.read("id").num_rows == 0


def test_a_worker_whose_parts_another_has_discarded_is_told_instead_of_losing_rows(store):
    one, two = writer(store), writer(store)
    one.append(rows(0, 1, 2, 3))
    two.done("id")
    one.discard()
    two.append(rows(4, 5, 6, 7))
    with pytest.raises(PartsGoneError, match="another worker has committed"):
        two.read("id")


def test_a_part_removed_between_listing_and_reading_is_told_the_same_way(store, monkeypatch):
    ours = writer(store)
    ours.append(rows(1))
    ours.flush()
    listed = store.files.under

    def list_then_lose(folder: str) -> list[str]:
        found = listed(folder)
        for path in found:
            store.files.remove(path)
        return found

    monkeypatch.setattr(store.files, "under", list_then_lose)
    with pytest.raises(PartsGoneError, match="another worker has committed"):
        ours.read("sample_id")


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: bytes(len(data)), lambda data: data[:0]]
)
def test_a_damaged_part_counts_as_not_there_and_its_rows_are_made_again(store, caplog, damage):
    with writer(store) as parts_:
        parts_.append(rows(0, 1))
        parts_.flush()
        parts_.append(rows(2))
    path = Path(store.url, parts(store)[0])
    path.write_bytes(damage(path.read_bytes()))
    with writer(store) as again:
        missing = {"s0", "s1", "s2"} - again.done("id")
        assert missing
        again.append([{"id": name, "n": int(name[1:])} for name in missing])
    assert sorted(again.read("id")["n"].to_pylist()) == [0, 1, 2]
    assert "its rows are made again" in caplog.text


def test_half_written_parts_are_never_seen(store):
    Path(store.url, f"parts/generate/{KEY}").mkdir(parents=True)
    Path(store.url, f"parts/generate/{KEY}/.0af.tmp").write_bytes(b"PAR1half")
    assert writer(store).done("id") == set()


def test_rows_that_do_not_fit_the_schema_are_refused(store):
    for wrong in ([{"id": "a", "n": "text"}], [{"id": "\ud800", "n": 1}], pa.table({"id": ["a"]})):
        with pytest.raises(StoreError, match="do not fit the parts"):
            writer(store).append(wrong)


def test_a_part_that_the_disk_refuses_stays_in_memory_for_another_try(store, forbidden):
    parts_ = writer(store)
    Path(store.url).mkdir()
    with forbidden(Path(store.url)), pytest.raises(StoreError, match="Permission denied"):
        parts_.append(rows(0, 1, 2, 3))
    parts_.flush()
    assert parts_.done("id") == {"s0", "s1", "s2", "s3"}


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["append", "append", "append", "flush", "crash"]),
            st.integers(0, 1),
            st.integers(0, 9),
        ),
        max_size=40,
    )
)
def test_any_interleaving_of_two_workers_gives_each_flushed_row_once(steps):
    store = Store.open(f"memory://parts-{next(_numbers)}")
    workers = [writer(store, max_rows=3), writer(store, max_rows=3)]
    waiting: list[list[int]] = [[], []]
    flushed: set[int] = set()
    for step, who, number in steps:
        if step == "crash":
            workers[who], waiting[who] = writer(store, max_rows=3), []
        elif step == "append":
            workers[who].append(rows(number))
            waiting[who].append(number)
        if step == "flush" or len(waiting[who]) == 3:
            workers[who].flush()
            flushed.update(waiting[who])
            waiting[who] = []
        assert workers[1 - who].done("n") == flushed
    assert sorted(writer(store).read("id")["n"].to_pylist()) == sorted(flushed)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.integers(1, 12), max_size=6))
def test_working_on_from_any_kills_gives_what_one_undisturbed_worker_gives(kills):
    store = Store.open(f"memory://parts-{next(_numbers)}")
    for lifetime in [*kills, 1000]:
        worker = writer(store, max_rows=3)
        done = worker.done("n")
        left = [i for i in range(20) if i not in done]
        for i in left[:lifetime]:
            worker.append(rows(i))
    worker.flush()
    assert sorted(worker.read("id")["n"].to_pylist()) == list(range(20))


def test_states_survive_their_way_through_parts(store):
    vectors = np.random.default_rng(0).standard_normal((9, 3, 8)).astype(np.float16)
    with PartWriter(store, "embed", KEY, KINDS["hidden_states"].schema, max_rows=9) as parts_:
        for batch in range(3):
            parts_.append(
                hidden_states_table(
                    model="m",
                    dataset="d",
                    sample_ids=[f"s{i}" for i in range(3 * batch, 3 * batch + 3)],
                    condition="image",
                    blocks=[0, 2, 5],
                    vectors=vectors[3 * batch : 3 * batch + 3],
                )
            )
    read = read_hidden_states(parts_.read("sample_id", "condition", "block"))
    order = [int(name[1:]) for name in read.sample_ids]
    assert np.array_equal(read.vectors, vectors[order])


WORKER = """
import sys, time
import pyarrow as pa
from storage.parts import PartWriter
from storage.store import Store
from storage.tables import from_rows, to_parquet

url, key = sys.argv[1:]
store = Store.open(url)
schema = pa.schema([("sample_id", pa.string()), ("line", pa.int64())])
if store.find("ingest", key) is None:
    with PartWriter(store, "ingest", key, schema, max_rows=20) as parts:
        done = parts.done("line")
        print("ready", flush=True)
        for line in range(400):
            if line not in done:
                time.sleep(0.002)
                parts.append([{"sample_id": f"s{line}", "line": line}])
    rows = parts.read("line").to_pylist()
    rows = [{"stage": "ingest", "dataset": "d", "reason": "r", **row} for row in sorted(rows, key=lambda r: r["line"])]
    path = f"quarantine/{key}.parquet"
    store.commit("ingest", key, {path: to_parquet(from_rows(rows, "quarantine"), "quarantine")})
    parts.discard()
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
        while life == 0 and not parts(store, "ingest") and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
        process.wait()
        kept = PartWriter(store, "ingest", KEY, pa.schema([("line", pa.int64())]), max_rows=1).done("line")
        assert len(kept) >= on_disk
        on_disk = len(kept)
    assert on_disk > 0
    process = start(WORKER, store.url, KEY)
    output, errors = process.communicate(timeout=60)
    assert output.endswith("finished\n"), errors
    manifest = store.find("ingest", KEY)
    assert manifest is not None
    assert manifest.rows == 400
    assert parts(store, "ingest") == []


def test_two_workers_on_one_key_end_with_each_row_once(store, start):
    workers = [start(WORKER, store.url, KEY) for _ in range(2)]
    ends = [worker.communicate(timeout=60) for worker in workers]
    # The slower one may find its parts discarded, and is then told that the key is committed.
    assert all(output.endswith("finished\n") or "PartsGoneError" in errors for output, errors in ends), ends
    assert store.find("ingest", KEY).rows == 400

"""A run renews a heartbeat in the store, by whose age other hosts tell that it has died."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import storage.liveness.heartbeat
from storage.errors import StoreError
from storage.liveness.heartbeat import FIELD, STALE, find_dead_runs, is_going_on, keep_heartbeat
from storage.liveness.processes import describe_process
from storage.maintenance.gc import find_garbage
from storage.maintenance.inventory import take_inventory
from storage.store import Store

PATH = "heartbeats/r1.json"
FAR = {**describe_process(), "host": "elsewhere"}
WEEK = timedelta(days=7)


def record_run(store: Store, run_id: str = "r1", **changes: object) -> dict[str, object]:
    """Record a run of another host that goes on and has a heartbeat."""
    store.write_run(run_id, {"status": "running", "process": FAR, FIELD: 30.0, **changes})
    return store.read_run(run_id)


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_run_of_another_host_is_dead_once_its_heartbeat_is_older_than_the_bound(any_store: Store) -> None:
    with keep_heartbeat(any_store, "r1"):
        run = record_run(any_store)
        beaten = any_store.files.modified(PATH)
        assert beaten is not None
        assert is_going_on(any_store, run)
        second = timedelta(seconds=1)
        assert is_going_on(any_store, run, now=beaten + STALE - second)
        assert not is_going_on(any_store, run, now=beaten + STALE + second)
        with pytest.raises(StoreError, match=r"\(r1\).*counts as dead after 10 minutes without a heartbeat"):
            find_garbage(any_store, take_inventory(any_store), older_than=WEEK)
        later = beaten + timedelta(days=8)
        found = find_garbage(any_store, take_inventory(any_store), older_than=WEEK, now=later)
        assert [one.path for one in found] == [PATH]
    # Removed as the run ends: whoever read its record before that needs to wait for nothing.
    assert any_store.files.under("heartbeats") == []
    assert find_dead_runs(any_store, any_store.runs()) == [run]


def test_it_is_renewed_while_the_run_goes_on(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []
    write = type(any_store.files).write
    monkeypatch.setattr(
        type(any_store.files), "write", lambda *given: (writes.append(given[1]), write(*given))[1]
    )
    with keep_heartbeat(any_store, "r1", seconds=0.01):
        end = time.monotonic() + 60
        while len(writes) < 4:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert set(writes) == {PATH}
    assert any_store.files.under("heartbeats") == []


def test_one_that_could_not_be_renewed_once_is_renewed_at_the_next_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = iter([StoreError("the disk is full")])
    write = type(store.files).write

    def fail_once(*given: object) -> None:
        if Path(store.url, PATH).exists() and (error := next(left, None)):
            raise error
        write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store.files), "write", fail_once)
    with keep_heartbeat(store, "r1", seconds=0.01):
        age(Path(store.url, PATH), 3600)
        end = time.monotonic() + 60
        while time.time() - Path(store.url, PATH).stat().st_mtime > 1800:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert f"the heartbeat {PATH} was not renewed: the disk is full" in caplog.text


def test_its_age_is_taken_by_the_stores_clock_where_this_hosts_runs_ahead(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, _tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + timedelta(hours=1)

    monkeypatch.setattr(storage.liveness.heartbeat, "datetime", Ahead)
    with keep_heartbeat(store, "r1"):
        run = record_run(store)
        assert is_going_on(store, run)
        age(Path(store.url, PATH), STALE.total_seconds() + 60)
        assert not is_going_on(store, run)
        assert store.files.under("heartbeats") == [PATH]


def test_where_nothing_can_be_written_this_hosts_clock_decides(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = record_run(store)
    store.files.write(PATH, b"")
    age(Path(store.url, PATH), STALE.total_seconds() + 60)

    def refuse(*_: object) -> None:
        raise StoreError("read-only")

    monkeypatch.setattr(type(store.files), "write", refuse)
    assert find_dead_runs(store, [run]) == [run]


def test_on_this_host_the_process_counts_and_not_its_heartbeat(store: Store) -> None:
    store.files.write(PATH, b"")
    own = describe_process()
    gone = {**own, "pid": 2**22 + 1}
    assert not is_going_on(store, record_run(store, process=gone))
    age(Path(store.url, PATH), 2 * STALE.total_seconds())
    assert is_going_on(store, record_run(store, process=own))


def test_a_host_of_the_same_name_that_booted_by_itself_counts_as_another_one(store: Store) -> None:
    store.files.write(PATH, b"")
    # A process id that this host does not have, and the other one may.
    namesake = {**describe_process(), "pid": 2**22 + 1, "started": "another-boot 1"}
    run = record_run(store, process=namesake)
    assert is_going_on(store, run)
    age(Path(store.url, PATH), 2 * STALE.total_seconds())
    assert not is_going_on(store, run)


def test_a_record_of_an_older_release_has_none_and_counts_as_going_on(store: Store) -> None:
    store.write_run("r1", {"status": "running", "process": FAR})
    assert is_going_on(store, store.read_run("r1"), now=datetime.now(UTC) + timedelta(days=365))


def test_the_inventory_knows_it_and_the_dead(store: Store) -> None:
    record_run(store)
    store.files.write(PATH, b"")
    inventory = take_inventory(store)
    assert (inventory.heartbeats, inventory.dead, inventory.foreign) == ((PATH,), frozenset(), ())
    age(Path(store.url, PATH), 2 * STALE.total_seconds())
    assert take_inventory(store).dead == {"r1"}
    store.forget_run("r1")
    assert store.files.under("heartbeats") == []


def test_a_heartbeats_name_never_leaves_the_store(store: Store) -> None:
    with pytest.raises(StoreError, match="is no run id"), keep_heartbeat(store, "../r1"):
        pass

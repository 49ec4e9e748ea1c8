"""Disks that fill, go away, or refuse: one clear message, nothing committed is harmed, and the same again goes on."""

from __future__ import annotations

import errno
import itertools
import os
import signal
from pathlib import Path

import pytest

from storage.errors import StoreError
from storage.maintenance.inventory import take_inventory
from storage.maintenance.verify import verify
from storage.records.hashing import stage_key
from storage.records.manifest import Manifest
from storage.shards.writer import ShardWriter
from storage.store import Store
from storage.tables.arrow import from_rows, table_paths


def commit(store: Store, number: int, size: int) -> Manifest:
    key = stage_key("report", {"n": number})
    return store.commit("report", key, {f"reports/{key}.bin": bytes([number]) * size})


def rows(start: int, count: int, *, letters: int = 10):
    return from_rows(
        [
            {
                "stage": "ingest",
                "dataset": "d",
                "sample_id": f"s{number}",
                "reason": os.urandom(letters // 2).hex(),
            }
            for number in range(start, start + count)
        ],
        "quarantine",
    )


def assert_whole(store: Store, *manifests: Manifest) -> None:
    """Nothing is damaged or half written, and these manifests are there."""
    inventory = take_inventory(store)
    assert [one.fault for one in verify(store, inventory) if one.fault] == []
    assert inventory.unfinished == ()
    for manifest in manifests:
        assert store.find(manifest.stage, manifest.key) == manifest


def test_a_full_disk_fails_a_commit_and_freed_space_lets_it_succeed(disk):
    disk.start("1m")
    store = Store.create(disk.place / "store")
    before = commit(store, 1, 1000)
    with pytest.raises(
        StoreError, match=r"cannot write .*No space left on device\. To go on, free some space"
    ):
        commit(store, 2, 2_000_000)
    assert_whole(store, before)
    disk.remount("size=8m")
    assert_whole(store, before, commit(store, 2, 2_000_000))


def test_a_disk_that_fills_under_a_shard_stops_it_and_keeps_what_was_flushed(disk):
    disk.start("400k")
    store = Store.create(disk.place / "store")
    before = commit(store, 1, 1000)
    key = stage_key("ingest", {})

    def work(writer: ShardWriter) -> Manifest:
        done = set(writer.resume("sample_id")["sample_id"].to_pylist())
        for start in range(0, 400, 20):
            if f"s{start}" not in done:
                writer.append(rows(start, 20, letters=2000))
        written = writer.finish()
        paths = table_paths("quarantine", key, len(written))
        manifest = store.commit("ingest", key, dict(zip(paths, written, strict=True)))
        writer.discard()
        return manifest

    ticks = itertools.count(step=4)

    def go() -> Manifest:
        with ShardWriter(store, "ingest", key, "quarantine", clock=lambda: next(ticks)) as writer:
            return work(writer)

    with pytest.raises(StoreError, match=r"No space left on device.*free some space"):
        go()
    assert_whole(store, before)
    kept = store.files.under(f"parts/ingest/{key}")
    assert kept
    disk.remount("size=16m")
    manifest = go()
    assert manifest.rows == 400
    assert_whole(store, before, manifest)


def test_a_disk_that_turns_read_only_stops_a_commit(disk):
    disk.start("4m")
    store = Store.create(disk.place / "store")
    before = commit(store, 1, 1000)
    disk.protect()
    with pytest.raises(
        StoreError, match=r"Read-only file system\. To go on, remount the file system for writing"
    ):
        commit(store, 2, 1000)
    assert_whole(store, before)
    disk.allow()
    assert_whole(store, before, commit(store, 2, 1000))


@pytest.mark.parametrize("name", ["", "store"])
def test_an_unmounted_disk_is_not_mistaken_for_an_empty_store(disk, name):
    disk.start("4m")
    store = Store.create(disk.place / name)
    before = commit(store, 1, 1000)
    disk.detach()
    for write in (
        lambda: commit(store, 2, 1000),
        lambda: commit(Store.open(disk.place / name), 2, 1000),
        lambda: store.write_run("r1", {}),
        lambda: store.files.scratch("parts/ingest"),
    ):
        with pytest.raises(StoreError, match=r"the store is gone.*check that the disk is still mounted"):
            write()
    assert list(disk.place.iterdir()) == []
    disk.attach()
    assert_whole(store, before, commit(store, 2, 1000))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_rename_that_fails_leaves_the_old_file_and_nothing_half_written(store, monkeypatch, number):
    before = commit(store, 1, 1000)

    def fail(self: Path, target: Path) -> Path:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StoreError, match=os.strerror(number)):
        commit(store, 2, 1000)
    with pytest.raises(StoreError, match=os.strerror(number)):
        store.write_bytes("reports/r1/report.md", b"new")
    monkeypatch.undo()
    assert_whole(store, before)


KILLED = """
import os, signal, sys
from pathlib import Path
from storage.records.hashing import stage_key
from storage.store import Store

url, moment, number = sys.argv[1:]
store = Store.create(url)
key = stage_key("report", {"n": 2})
seen = 0
real = {"replace": Path.replace, "fsync": os.fsync}

def trap(name):
    def call(*arguments):
        global seen
        seen += 1
        after = moment == f"after {name}"
        if after:
            real[name](*arguments)
        if moment.endswith(name) and seen == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return None if after else real[name](*arguments)
    return call

name = moment.split()[1]
setattr(*{"replace": (Path, "replace"), "fsync": (os, "fsync")}[name], trap(name))
store.commit("report", key, {f"reports/{key}.{i}": bytes([i]) * 1000 for i in range(3)})
"""


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("before replace", 1),
        ("after replace", 1),
        ("before replace", 4),
        ("after replace", 4),
        ("before fsync", 3),
    ],
)
def test_a_process_killed_around_a_rename_commits_all_or_nothing(store, start, moment, number):
    before = commit(store, 1, 1000)
    process = start(KILLED, store.url, moment, str(number))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    key = stage_key("report", {"n": 2})
    assert (store.find("report", key) is not None) == (moment == "after replace" and number == 4)
    assert store.find("report", before.key) == before
    assert [one.fault for one in verify(store, take_inventory(store)) if one.fault] == []
    store.commit("report", key, {f"reports/{key}.{i}": bytes([i]) * 1000 for i in range(3)})
    assert store.find("report", key) is not None

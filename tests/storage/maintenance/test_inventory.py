"""What a store holds is told by its records; what nothing refers to is found, and goes when it is old enough."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.errors import StoreError
from storage.maintenance.diff import compare_runs
from storage.maintenance.gc import find_garbage, remove_garbage, tidy
from storage.maintenance.inventory import take_inventory
from storage.maintenance.verify import verify
from storage.records.checksummed_json import seal, unseal
from storage.records.hashing import stage_key
from storage.records.manifest import Manifest
from storage.store import Store

LATER = datetime.now(UTC) + timedelta(days=30)
WEEK = timedelta(days=7)
# The files of a made-up report: storage is told the names.
REPORT_FILE = re.compile(r"reports/(?P<run>r[0-9])/(?:page\.txt|pictures/[^/]+\.png)")


def commit(store: Store, stage: str, number: int, **content: object) -> Manifest:
    key = stage_key(stage, {"number": number, **content})
    data = f"{stage} {number}".encode()
    return store.commit(stage, key, {f"reports/{key}.md": data}, content={"number": number, **content})


def record_run(store: Store, name: str, *manifests: Manifest, **more: object) -> None:
    keys = [manifest.key for manifest in manifests]
    store.write_run(name, {"status": "finished", "keys": keys, "spec": {"name": "x"}, **more})


def faults(store: Store) -> dict[str, str]:
    return {one.path: one.fault for one in verify(store, take_inventory(store)) if one.fault}


def unused(store: Store, *, now: datetime = LATER) -> set[str]:
    inventory = take_inventory(store, report_file=REPORT_FILE)
    return {one.path for one in find_garbage(store, inventory, older_than=WEEK, now=now)}


def paths(manifest: Manifest) -> set[str]:
    return {
        f"manifests/{manifest.stage}/{manifest.key}.json",
        *(file.path for file in manifest.files),
    }


def test_a_whole_store_has_no_fault_and_nothing_unused(any_store):
    record_run(any_store, "r1", commit(any_store, "embed", 1), commit(any_store, "judge", 2))
    inventory = take_inventory(any_store)
    assert len(inventory.manifests) == 2
    assert [run["run_id"] for run in inventory.runs] == ["r1"]
    assert faults(any_store) == {}
    assert unused(any_store) == set()


def test_a_place_without_a_store_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="there is no store at"):
        take_inventory(Store.open(tmp_path / "none"))


def test_a_run_whose_manifest_is_gone_is_not_whole(store):
    manifest = commit(store, "embed", 1)
    record_run(store, "r1", manifest)
    store.files.remove(f"manifests/embed/{manifest.key}.json")
    assert list(faults(store)) == ["runs/r1.json"]
    assert manifest.key[:12] in faults(store)["runs/r1.json"]


def test_records_in_the_place_of_others_are_faults(store):
    one, two = commit(store, "embed", 1), commit(store, "embed", 2)
    record_run(store, "r1", one)
    store.write_bytes(f"manifests/embed/{two.key}.json", one.to_json())
    store.write_bytes("runs/r2.json", store.read("runs/r1.json"))
    assert set(faults(store)) == {f"manifests/embed/{two.key}.json", "runs/r2.json"}


def test_what_no_run_refers_to_is_unused_once_it_is_old(any_store):
    kept, dropped = commit(any_store, "embed", 1), commit(any_store, "embed", 2)
    record_run(any_store, "r1", kept)
    assert unused(any_store, now=datetime.now(UTC)) == set()
    assert unused(any_store) == paths(dropped)
    garbage = find_garbage(any_store, take_inventory(any_store), older_than=WEEK, now=LATER)
    removed = list(remove_garbage(any_store, garbage))
    assert removed == garbage
    assert removed[0].path.startswith("manifests/")
    assert any_store.find("embed", kept.key) == kept
    assert any_store.find("embed", dropped.key) is None
    assert unused(any_store) == set()


def test_finding_garbage_changes_nothing(store):
    dropped = commit(store, "embed", 2)
    unused(store)
    assert store.find("embed", dropped.key) == dropped


def test_the_files_of_a_replaced_commit_and_of_a_killed_one_are_unused(store):
    key = stage_key("embed", {})
    first = store.commit("embed", key, {f"reports/{key}.md": b"one"})
    second = store.commit("embed", key, {f"reports/{key}.md": b"two"})
    record_run(store, "r1", second)
    killed = f"hidden_states/model=m@1/condition=image/{key}.0123456789ab.parquet"
    store.write_bytes(killed, b"never committed")
    assert unused(store) == {first.files[0].path, killed}


def test_parts_and_half_written_files_are_unused_once_they_are_old(store):
    key = stage_key("embed", {})
    part = f"parts/embed/{key}/{'0' * 32}.0123456789ab.parquet"
    store.write_bytes(part, b"part")
    place = store.files.scratch(f"parts/embed/{key}")
    assert unused(store, now=datetime.now(UTC)) == set()
    assert unused(store) == {
        part,
        place.relative_to(store.url).as_posix(),
    }
    long_ago = time.time() - 8 * 86_400
    os.utime(place, (long_ago, long_ago))
    assert unused(store, now=datetime.now(UTC)) == {place.relative_to(store.url).as_posix()}
    list(remove_garbage(store, find_garbage(store, take_inventory(store), older_than=WEEK, now=LATER)))
    assert not Path(store.url, "parts").exists()


def test_a_persons_own_file_is_never_unused_and_never_a_fault(store):
    names = (
        "notes.txt",
        "parts/notes.txt",
        "responses/notes.txt",
        "reports/mine.md",
        "reports/mine/page.txt",
        "reports/r1/pictures/mine.txt",
        "reports/r1/pictures/more/mine.png",
    )
    for name in names:
        store.write_bytes(name, b"mine")
    Path(store.url, "lost+found").mkdir()
    Path(store.url, "lost+found", "x").write_bytes(b"")
    assert set(take_inventory(store, report_file=REPORT_FILE).foreign) == set(names)
    assert unused(store) == set()
    assert faults(store) == {}


def test_nothing_is_called_unused_while_a_run_is_going_on(store):
    dropped = commit(store, "embed", 2)
    store.write_run("r1", {"status": "running", "created_at": "2020-01-01T00:00:00+00:00"})
    with pytest.raises(StoreError, match=r"a run is going on \(r1\).*cmrm store forget r1"):
        unused(store)
    store.write_run("r1", {"status": "failed"})
    assert unused(store) == paths(dropped)


def test_a_run_that_begins_while_files_are_removed_stops_that(store, monkeypatch):
    for number in range(3):
        commit(store, "embed", number)
    monkeypatch.setattr("storage.maintenance.gc._AT_ONCE", 1)
    removal = remove_garbage(store, find_garbage(store, take_inventory(store), older_than=WEEK, now=LATER))
    next(removal)
    store.write_run("r1", {"status": "running"})
    with pytest.raises(StoreError, match="a run is going on"):
        next(removal)


def test_what_came_into_use_since_it_was_listed_is_not_removed(store):
    one, two = commit(store, "embed", 1), commit(store, "embed", 2)
    listed = find_garbage(store, take_inventory(store), older_than=timedelta(0))
    record_run(store, "r1", one)
    assert {file.path for file in tidy(store, listed, older_than=timedelta(0))} == paths(two)
    assert store.find("embed", one.key) == one


def test_a_newer_releases_store_is_not_tidied_nor_an_older_runs_work(store):
    manifest = commit(store, "embed", 1)
    path = f"manifests/embed/{manifest.key}.json"
    for version in (2, 99):
        store.write_bytes(path, seal({**unseal(store.read(path)), "schema_version": version}))
        store.write_bytes(
            "runs/old.json", seal({"run_id": "old", "keys": [manifest.key], "schema_version": 2})
        )
        assert unused(store) == set()
        store.files.remove("runs/old.json")
        assert unused(store) == (paths(manifest) if version == 2 else set())
    store.write_bytes("store.json", seal({"schema_version": 99}))
    with pytest.raises(StoreError, match="tidy it with the newer release"):
        unused(store)


@pytest.mark.parametrize(
    "odd", [{"keys": 5}, {"keys": ["x"]}, {"files": ["a.md"]}, {"files": [{"path": "a"}]}]
)
def test_a_record_that_no_store_writes_is_damaged(store, odd):
    record_run(store, "r1", **odd)
    record_run(store, "r2")
    assert list(faults(store)) == ["runs/r1.json"]
    # Whoever lists runs sees the others.
    assert [run["run_id"] for run in store.runs()] == ["r2"]
    with pytest.raises(StoreError, match="not what a store writes"):
        store.read_run("r1")
    with pytest.raises(StoreError, match="is damaged"):
        unused(store)


def test_one_unreadable_file_is_a_fault_and_the_others_are_verified(store, monkeypatch):
    one, two = commit(store, "embed", 1), commit(store, "embed", 2)
    record_run(store, "r1", one, two)
    opened = store.files.open

    def refuse(path: str):
        if path == one.files[0].path:
            raise StoreError(f"cannot read {path}: Input/output error")
        return opened(path)

    monkeypatch.setattr(store.files, "open", refuse)
    Path(store.url, two.files[0].path).write_bytes(b"x")
    assert set(faults(store)) == {one.files[0].path, two.files[0].path}


def test_a_forgotten_runs_report_is_unused(store):
    files = [store.write_bytes(f"reports/r1/{name}", b"r1") for name in ("page.txt", "pictures/one.png")]
    record_run(
        store, "r1", files=[{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in files]
    )
    assert unused(store) == set()
    store.files.remove("runs/r1.json")
    assert unused(store) == {"reports/r1/page.txt", "reports/r1/pictures/one.png"}
    # Without the names, they may be anybody's.
    assert set(take_inventory(store).foreign) == {"reports/r1/page.txt", "reports/r1/pictures/one.png"}


def test_a_page_of_several_runs_is_unused_once_one_of_them_is_forgotten(store):
    pattern = re.compile(r"pages/(?P<run>r[0-9]\+r[0-9])\.html")

    def find() -> set[str]:
        inventory = take_inventory(store, report_file=pattern)
        assert inventory.foreign == ()
        return {one.path for one in find_garbage(store, inventory, older_than=WEEK, now=LATER)}

    store.write_bytes("pages/r1+r2.html", b"page")
    record_run(store, "r1")
    record_run(store, "r2")
    assert find() == set()
    store.files.remove("runs/r2.json")
    assert find() == {"pages/r1+r2.html"}


def test_nothing_is_called_unused_while_a_record_is_damaged(store):
    record_run(store, "r1", commit(store, "embed", 1))
    data = store.read("runs/r1.json")
    store.write_bytes("runs/r1.json", data.replace(b"finished", b"FINISHED"))
    with pytest.raises(StoreError, match=r"runs/r1\.json is damaged.*run its spec again, or remove"):
        unused(store)


def test_what_another_release_wrote_is_left_out_counted_and_unused(store, caplog):
    manifest = commit(store, "embed", 1)
    path = f"manifests/embed/{manifest.key}.json"
    store.write_bytes(path, seal({**unseal(store.read(path)), "schema_version": 2}))
    assert list(store.manifests()) == []
    assert "1 manifests count as not there: another release wrote them" in caplog.text
    assert faults(store) == {}
    assert unused(store) == paths(manifest)


def test_a_store_of_a_newer_release_is_not_written_to(store):
    store.write_bytes("store.json", seal({"schema_version": 99}))
    with pytest.raises(StoreError, match=r"schema version 99.*use the newer release"):
        Store.create(store.url)


def test_a_store_without_its_mark_takes_no_more_but_can_be_read(store):
    manifest = commit(store, "embed", 1)
    Path(store.url, "store.json").unlink()
    assert store.find("embed", manifest.key) == manifest
    with pytest.raises(StoreError, match=r"the store is gone.*still mounted"):
        commit(store, "embed", 2)
    assert faults(store) == {"store.json": "it is missing"}
    commit(Store.create(store.url), "embed", 2)


def test_a_damaged_mark_is_written_again(store, caplog):
    Path(store.url, "store.json").write_text("{")
    commit(Store.create(store.url), "embed", 1)
    assert "store.json is written again" in caplog.text
    assert faults(store) == {}


def test_two_runs_differ_in_their_specs_and_in_what_their_stages_used(store):
    same = commit(store, "embed", 1)
    first, second = commit(store, "generate", 1, alpha=0.5), commit(store, "generate", 1, alpha=1.0)
    record_run(store, "r1", same, first, spec={"interventions": [{"alpha": 0.5}]})
    record_run(store, "r2", same, second, spec={"interventions": [{"alpha": 1.0}]})
    difference = compare_runs(take_inventory(store), store.read_run("r1"), store.read_run("r2"))
    assert not difference.same
    assert [(one.path, one.values) for one in difference.spec] == [
        ("interventions.0.alpha", (("0.5",), ("1",)))
    ]
    assert [(one.stage, one.both, one.first, one.second) for one in difference.stages] == [
        ("embed", 1, 0, 0),
        ("generate", 0, 1, 1),
    ]
    assert [change.path for change in difference.stages[1].changes] == ["alpha"]
    assert compare_runs(take_inventory(store), store.read_run("r1"), store.read_run("r1")).same


def test_what_a_compared_run_used_and_is_gone_is_counted(store):
    manifest = commit(store, "embed", 1)
    record_run(store, "r1", manifest)
    store.files.remove(f"manifests/embed/{manifest.key}.json")
    run = store.read_run("r1")
    assert compare_runs(take_inventory(store), run, run).missing == 1
    other = {**run, "keys": ["0" * 64]}
    difference = compare_runs(take_inventory(store), run, other)
    assert (difference.same, difference.missing) == (False, 2)


def test_an_older_parquet_file_is_refused_with_the_fix(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from storage.tables.parquet import read_parquet

    pq.write_table(
        pa.table({"a": [1]}).replace_schema_metadata({"cmrm.schema_version": "2"}), tmp_path / "x.parquet"
    )
    with pytest.raises(StoreError, match=r"schema version 2 and this release reads 3.*run again"):
        read_parquet(tmp_path / "x.parquet")


def test_a_run_of_an_older_release_is_refused_with_the_fix(store, caplog):
    store.write_bytes("runs/r1.json", seal({"run_id": "r1", "keys": []}))
    assert store.runs() == []
    assert "schema version None" in caplog.text
    with pytest.raises(StoreError, match="use the release that wrote it, or run again"):
        store.read_run("r1")
    assert json.loads(store.read("runs/r1.json"))["run_id"] == "r1"

"""`cmrm store`: what it prints, what it changes, and its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from flows.cli import main
from storage.errors import StoreError
from storage.liveness.heartbeat import FIELD as HEARTBEAT
from storage.liveness.heartbeat import keep_heartbeat
from storage.liveness.processes import describe_process
from storage.maintenance.gc import find_garbage
from storage.maintenance.inventory import take_inventory
from storage.records.hashing import stage_key
from storage.records.manifest import Manifest
from storage.store import Store

ROOT = Path(__file__).parents[3]

EVIL = "m\x1b[31m@1"


def commit(store: Store, stage: str, number: int, **content: object) -> Manifest:
    key = stage_key(stage, {"number": number, **content})
    files = {f"reports/{key}.md": f"{stage} {number}".encode() * 100}
    return store.commit(stage, key, files, content={"number": number, **content})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with two runs, a manifest that neither uses, and a person's own file."""
    monkeypatch.setenv("COLUMNS", "80")
    store = Store.create(tmp_path / "store")
    shared = commit(store, "embed", 1)
    for name, alpha in (("r1", 0.5), ("r2", 1.0)):
        own = commit(store, "generate", 1, alpha=alpha, label=EVIL)
        spec = {"interventions": [{"alpha": alpha}]}
        keys = [shared.key, own.key]
        store.write_run(name, {"status": "finished", "model": EVIL, "keys": keys, "spec": spec})
    commit(store, "judge", 7)
    store.write_bytes("notes.txt", b"mine")
    return store


def give(*arguments: str, store: Store, capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    """Give a command; what it prints."""
    try:
        main(["store", *arguments, "--store", store.url])
        left = 0
    except SystemExit as exit_:
        left = int(exit_.code or 0)
    shown = capsys.readouterr()
    assert left == status, shown.err
    assert "\x1b" not in shown.out + shown.err
    assert "Traceback" not in shown.err
    return shown.out + shown.err


def test_ls_lists_runs_and_what_each_stage_made(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    shown = give("ls", store=store, capsys=capsys)
    assert "r1" in shown
    assert "\\x1b[31m" in shown
    assert "generate          2      2" in shown
    assert "1 files that are not the store's own" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_ls_of_a_run_lists_what_it_used(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    shown = give("ls", "r1", store=store, capsys=capsys)
    assert shown.count("generate") == shown.count("embed") == 1
    assert "judge" not in shown
    assert "its latest runs: r1, r2" in give("ls", "none", store=store, capsys=capsys, status=2)


def test_verify_ends_with_status_1_when_something_is_damaged(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "All files verified" in give("verify", store=store, capsys=capsys)
    (manifest,) = store.manifests("judge")
    Path(store.url, manifest.files[0].path).write_bytes(b"x")
    shown = give("verify", store=store, capsys=capsys, status=1)
    assert "has 1 bytes instead of 700" in shown
    assert "run the spec again" in " ".join(shown.split())


def test_gc_deletes_only_with_delete_and_only_old_files(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    before = store.files.under("")
    assert "No unused files" in give("gc", store=store, capsys=capsys)
    shown = give("gc", "--older-than", "0", store=store, capsys=capsys)
    assert "manifests/judge/" in shown
    assert "Nothing was removed. Give --delete to remove them." in shown
    assert store.files.under("") == before
    shown = give("gc", "--older-than", "0", "--delete", store=store, capsys=capsys)
    assert "Removed 2 files" in shown
    assert not list(store.manifests("judge"))
    assert len(list(store.manifests())) == 3
    assert "notes.txt" in store.files.under("")
    for days in ("-1", "inf", "1000000"):
        give("gc", "--older-than", days, store=store, capsys=capsys, status=2)


def begin_a_run(store: Store, name: str, *, end: str) -> None:
    """Record a run as one that goes on, in a process that was killed or that waits still."""
    code = (
        "import sys, time; from storage.liveness.processes import describe_process; from storage.store import Store; "
        f"Store.open({store.url!r}).write_run({name!r}, {{'status': 'running', 'process': describe_process()}}); "
        "print('begun', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        if end == "killed":
            process.kill()
            return
        try:
            with pytest.raises(StoreError, match=rf"a run is going on \({name}\)"):
                find_garbage(store, take_inventory(store), older_than=timedelta(0))
        finally:
            process.kill()


def test_a_run_that_was_killed_blocks_nothing_and_its_record_can_be_forgotten(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_a_run(store, "r3", end="later")
    begin_a_run(store, "r4", end="killed")
    shown = give("ls", store=store, capsys=capsys)
    assert [line.split()[0] for line in shown.splitlines() if "killed" in line] == ["r3", "r4"]
    give("gc", store=store, capsys=capsys)
    assert "Run r4 is forgotten: 1 files removed." in give("forget", "r4", store=store, capsys=capsys)
    assert "r4" not in give("ls", store=store, capsys=capsys)
    assert "the store" in give("forget", "r4", store=store, capsys=capsys, status=2)


def test_a_run_of_another_machine_counts_until_it_is_forgotten_and_one_here_until_it_ends(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    own = describe_process()
    store.write_run("far", {"status": "running", "process": {**own, "host": "elsewhere"}})
    assert "cmrm store forget far" in give("gc", store=store, capsys=capsys, status=2)
    give("forget", "far", store=store, capsys=capsys)
    store.write_run("here", {"status": "running", "process": own})
    assert "is still running on this machine" in give("forget", "here", store=store, capsys=capsys, status=2)
    # The number was given again since.
    store.write_run("here", {"status": "running", "process": {**own, "started": "another boot 1"}})
    give("gc", store=store, capsys=capsys)


def test_a_run_of_another_machine_is_dead_once_it_has_had_no_heartbeat_for_ten_minutes(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    far = {**describe_process(), "host": "elsewhere"}
    with keep_heartbeat(store, "far"):
        store.write_run("far", {"status": "running", "process": far, HEARTBEAT: 30.0})
        assert "running" in give("ls", store=store, capsys=capsys)
        shown = " ".join(give("gc", store=store, capsys=capsys, status=2).split())
        assert "counts as dead after 10 minutes without a heartbeat" in shown
        shown = give("forget", "far", store=store, capsys=capsys, status=2)
        assert f"process {far['pid']} on elsewhere" in shown
        then = time.time() - 11 * 60
        os.utime(Path(store.url, "heartbeats/far.json"), (then, then))
        shown = give("ls", store=store, capsys=capsys)
        assert [line.split()[0] for line in shown.splitlines() if "killed" in line] == ["far", "1"]
        assert "1 heartbeats of running (or killed) runs" in shown
        give("gc", store=store, capsys=capsys)
        give("forget", "far", store=store, capsys=capsys)
    assert "far" not in give("ls", store=store, capsys=capsys)


def test_diff_says_in_what_two_runs_differ(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    shown = give("diff", "r1", "r2", store=store, capsys=capsys, status=1)
    assert "interventions.0.alpha: 0.5 → 1" in shown
    assert "  alpha: 0.5 → 1" in shown
    assert "label" not in shown
    assert "are the same" in give("diff", "r1", "r1", store=store, capsys=capsys)


def test_a_folder_without_a_store_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = Store.open(tmp_path / "none")
    for command in (["ls"], ["verify"], ["gc"], ["diff", "a", "b"]):
        shown = give(*command, store=nothing, capsys=capsys, status=2)
        assert "no store" in shown or "has no run" in shown
    assert not (tmp_path / "none").exists()

"""`cmrm store`: what it prints, what it changes, and its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import main
from storage.identity import stage_key
from storage.manifest import Manifest
from storage.store import Store

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
    assert "All is whole" in give("verify", store=store, capsys=capsys)
    (manifest,) = store.manifests("judge")
    Path(store.url, manifest.files[0].path).write_bytes(b"x")
    shown = give("verify", store=store, capsys=capsys, status=1)
    assert "has 1 bytes instead of 700" in shown
    assert "run the spec again" in " ".join(shown.split())


def test_gc_removes_only_when_told_to_and_only_what_is_old(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    before = store.files.under("")
    assert "Nothing is unused" in give("gc", store=store, capsys=capsys)
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


def test_diff_says_in_what_two_runs_differ(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    shown = give("diff", "r1", "r2", store=store, capsys=capsys, status=1)
    assert "interventions.0.alpha: 0.5 → 1" in shown
    assert "  alpha: 0.5 → 1" in shown
    assert "label" not in shown
    assert "are the same" in give("diff", "r1", "r1", store=store, capsys=capsys)


def test_a_place_without_a_store_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = Store.open(tmp_path / "none")
    for command in (["ls"], ["verify"], ["gc"], ["diff", "a", "b"]):
        shown = give(*command, store=nothing, capsys=capsys, status=2)
        assert "no store" in shown or "has no run" in shown
    assert not (tmp_path / "none").exists()

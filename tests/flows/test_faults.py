"""A run whose disk fails stops with one clear message and status 2, and the same command goes on from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.cli import main
from storage.maintenance.inventory import take_inventory
from storage.maintenance.verify import verify
from storage.records.manifest import Manifest
from storage.sql.database import connect
from storage.store import Store

if TYPE_CHECKING:
    from tests.conftest import Mount

pytestmark = pytest.mark.usefixtures("prefect_server", "without_heartbeat", "without_figures")


@pytest.fixture
def spec(tmp_path: Path, llava_folder: Path, write_short_spec: Callable[..., Path]) -> Path:
    return write_short_spec(tmp_path / "data", llava_folder, judges=["refusal"])


def give(spec: Path, store: Path) -> None:
    main(["run", str(spec), "--store", str(store)])


def fail(spec: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Give the command; its one message."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        give(spec, store)
    shown = capsys.readouterr().err
    assert exit_.value.code == 2, shown
    assert "Traceback" not in shown
    (message,) = (line for line in shown.splitlines() if line.startswith("cmrm: "))
    return message


def answers(store: Path) -> list[tuple[object, ...]]:
    with connect(store, run="latest") as sql:
        return sql.sql("SELECT * EXCLUDE key FROM responses ORDER BY ALL").fetchall()


def assert_nothing_harmed(store: Path) -> None:
    opened = Store.open(store)
    assert [one.fault for one in verify(opened, take_inventory(opened)) if one.fault] == []


def after_commits(monkeypatch: pytest.MonkeyPatch, stage: str, happen: Callable[[], None]) -> None:
    """Let something happen once, just after a stage's first commit."""
    commit = Store.commit
    waiting = [happen]

    def commit_and_happen(self: Store, name: str, *arguments: object, **more: object) -> Manifest:
        manifest = commit(self, name, *arguments, **more)  # type: ignore[arg-type]
        if name == stage and waiting:
            waiting.pop()()
        return manifest

    monkeypatch.setattr(Store, "commit", commit_and_happen)


def test_a_disk_that_is_full_read_only_or_gone_stops_a_run_and_the_same_command_finishes_it(
    spec: Path,
    tmp_path: Path,
    disk: Mount,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk.start("100k")
    store = disk.place / "store"
    message = fail(spec, store, capsys)
    assert "No space left on device" in message
    assert "free some space" in message
    assert_nothing_harmed(store)
    done = len(list(Store.open(store).manifests()))
    assert done > 0

    disk.remount("size=16m")
    after_commits(monkeypatch, "generate", disk.protect)
    message = fail(spec, store, capsys)
    assert "Read-only file system" in message
    assert "remount" in message
    monkeypatch.undo()
    disk.allow()
    assert_nothing_harmed(store)

    after_commits(monkeypatch, "judge", disk.detach)
    message = fail(spec, store, capsys)
    assert "still mounted" in message
    assert "give the same command again" in message
    assert list(disk.place.iterdir()) == []
    monkeypatch.undo()
    disk.attach()
    assert_nothing_harmed(store)
    assert len(list(Store.open(store).manifests())) > done

    give(spec, store)
    give(spec, tmp_path / "calm")
    assert answers(store) == answers(tmp_path / "calm")
    assert_nothing_harmed(store)


def test_a_folder_that_may_not_be_written_is_named_before_any_work(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], disk: Mount
) -> None:
    disk.start("1m")
    disk.protect()
    message = fail(spec, disk.place / "store", capsys)
    assert str(disk.place) in message
    assert "Read-only file system" in message
    assert list(disk.place.iterdir()) == []

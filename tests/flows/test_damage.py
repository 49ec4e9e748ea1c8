"""One flipped bit anywhere in a store is noticed, and the next run makes just that again."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from flows import run
from flows.cli import main
from flows.run import Result, run_spec
from flows.spec.spec import read_spec
from storage.liveness import lease
from storage.maintenance.inventory import take_inventory
from storage.maintenance.verify import verify
from storage.store import Store
from tasks.report import all_figures
from tasks.report import stage as report
from tasks.report.figure import Figure
from tests.flows.shared_runs import run_plainly

pytestmark = pytest.mark.usefixtures("prefect_server", "without_heartbeat")


@pytest.fixture(scope="module", autouse=True)
def _draw_nothing() -> Iterator[None]:
    """Let a figure's files hold a few bytes, which are as easily damaged as those of one that takes long to draw."""
    drawn = Figure(
        name="states",
        caption="States.",
        rows=1,
        columns=1,
        size=(1, 1),
        draw=lambda _: None,
        data=(),
    )
    files = {"svg": b"<svg/>", "png": b"png", "csv": b"first,second\n"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "save", lambda _: files)
        patch.setattr(report, "find_groups", lambda *_: {})
        patch.setattr(all_figures, "draw_states", lambda _: [drawn])
        yield


@pytest.fixture(scope="module")
def finished(
    llava_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: str,
    write_short_spec: Callable[..., Path],
) -> Path:
    """A folder with a small spec, its data and a store with its finished run and one row in quarantine."""
    folder = tmp_path_factory.mktemp("finished")
    spec = write_short_spec(folder / "data", llava_folder, judges=["refusal"])
    with (folder / "data" / "own.jsonl").open("a") as file:
        file.write('{"id": "empty", "question": ""}\n')
    run_spec(read_spec(spec), store=str(folder / "store"))
    return folder


def list_files(store: Path) -> list[str]:
    return [path.relative_to(store).as_posix() for path in sorted(store.rglob("*")) if path.is_file()]


def flip_a_bit(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def sort_out(name: str) -> tuple[str, str, str]:
    """The kind of a file: folder, stage of a manifest, suffix."""
    parts = Path(name).parts
    return parts[0], parts[1] if parts[0] == "manifests" else "", Path(name).suffix


def find_faults(store: Path) -> set[str]:
    opened = Store.open(store)
    return {one.path for one in verify(opened, take_inventory(opened)) if one.fault}


def test_a_bit_flipped_in_any_file_of_a_store_is_found_and_named(finished: Path) -> None:
    store = finished / "store"
    chance = random.Random(4)
    assert find_faults(store) == set()
    files = list_files(store)
    assert len(files) > 50
    for name in files:
        whole = (store / name).read_bytes()
        flip_a_bit(store / name, chance)
        faults = find_faults(store)
        (store / name).write_bytes(whole)
        # A run whose manifest is damaged is not whole either.
        assert name in faults, name
        assert all(fault == name or fault.startswith("runs/") for fault in faults)
    assert find_faults(store) == set()


def damage_and_run(
    finished: Path,
    kinds: Iterable[tuple[str, str, str]],
    give: Callable[[Path, str], Result],
    commits: Counter[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Flip a bit in a file of each kind and give the spec: the damage is told of, and just that is made again."""
    store = finished / "store"
    chance = random.Random(5)
    for kind in kinds:
        folder, stage, _ = kind
        name = chance.choice([name for name in list_files(store) if sort_out(name) == kind])
        whole = (store / name).read_bytes()
        kept = shutil.copytree(store / "runs", finished / "runs", dirs_exist_ok=True)
        flip_a_bit(store / name, chance)
        commits.clear()
        caplog.clear()
        result = give(finished / "data" / "spec.yaml", str(store))
        key = next((part for part in Path(name).name.split(".") if len(part) == 64), name)
        assert key in caplog.text or name in caplog.text or Path(name).stem in caplog.text, name
        made = sum(commits.values())
        assert made == (
            0 if folder in {"runs", "store.json"} or name.startswith(f"reports/{result.run_id}/") else 1
        )
        assert not stage or set(commits) == {stage}
        if folder == "runs":
            # What a damaged record was of is not known: this run has one of its own.
            assert (store / "runs" / f"{result.run_id}.json").read_bytes() != whole
            (store / name).write_bytes(whole)
            (store / "runs" / f"{result.run_id}.json").unlink()
            shutil.rmtree(store / "reports" / result.run_id)
        assert find_faults(store) == set(), name
        shutil.rmtree(kept)


def test_the_next_run_notices_a_flipped_bit_in_each_kind_of_file_and_makes_just_that_again(
    finished: Path, commits: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    kinds = {sort_out(name) for name in list_files(finished / "store")}
    assert len(kinds) > 15
    damage_and_run(finished, sorted(kinds), run_plainly, commits, caplog)


def test_under_prefect_in_a_process_that_has_verified_the_file_the_next_run_does_the_same(
    finished: Path, commits: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    kinds = {sort_out(name) for name in list_files(finished / "store")}
    # One of each folder: images, manifests, reports, a run's record and the rows of each stage.
    first = {folder: kind for kind in sorted(kinds, reverse=True) for folder in kind[:1]}

    def give(spec: Path, store: str) -> Result:
        return run_spec(read_spec(spec), store=store)

    damage_and_run(finished, sorted(first.values()), give, commits, caplog)


def test_verify_says_what_is_damaged_and_that_a_run_mends_it(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(finished / "store", tmp_path / "store"))
    main(["store", "verify", "--store", str(store)])
    assert "All files verified" in capsys.readouterr().out
    damaged = min((store / "responses").iterdir())
    flip_a_bit(damaged, random.Random(0))
    with pytest.raises(SystemExit) as exit_:
        main(["store", "verify", "--store", str(store)])
    assert exit_.value.code == 1
    shown = capsys.readouterr().out
    assert damaged.name in shown.replace("\n", "")
    assert "1 damaged or missing" in shown


def test_the_same_command_confirms_its_run_and_two_at_once_leave_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, spec = finished / "store", read_spec(finished / "data" / "spec.yaml")
    (before,) = Store.open(store).runs()
    again = run_spec(spec, store=str(store))
    (after,) = Store.open(store).runs()
    assert again.run_id == after["run_id"] == before["run_id"]
    assert after["confirmed_at"] > before["created_at"]
    assert {**after, "confirmed_at": None} == {**before, "confirmed_at": None}

    # While one writes its report, another comes to the same result, and waits.
    Store.open(store).forget_run(before["run_id"])
    write_report, waits, ids = run._write_report, Event(), []
    other = Thread(target=lambda: ids.append(run_spec(spec, store=str(store)).run_id))

    def write(*given: Any) -> Any:
        if other.ident is None:
            other.start()
            assert waits.wait(60)
        return write_report(*given)

    monkeypatch.setattr(run, "_write_report", write)
    monkeypatch.setattr(lease, "sleep", lambda _: waits.set())
    ids.append(run_spec(spec, store=str(store)).run_id)
    other.join()
    (only,) = Store.open(store).runs()
    assert ids == [only["run_id"]] * 2
    # A report's own files bear its key, and any key may begin as a year does.
    folders = [path.name for path in (store / "reports").glob("20*") if path.is_dir()]
    assert folders == [only["run_id"]]
    assert find_faults(store) == set()

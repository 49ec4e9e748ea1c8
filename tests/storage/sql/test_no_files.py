"""What stands where a file of the store belongs and is none, such as a FIFO, is named; nothing waits for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.backends.writable import check_writable
from storage.errors import StoreError
from storage.maintenance.inventory import take_inventory
from storage.maintenance.verify import verify
from storage.store import Store
from tests.conftest import Mount

KEY = "a" * 64


def _make_folder(path: Path) -> None:
    path.mkdir()


def _commit(folder: Path) -> tuple[Store, Path, Path]:
    """A store with one manifest and one file: the store, the file and the manifest."""
    store = Store.create(folder)
    manifest = store.commit("report", KEY, {f"reports/{KEY}.json": b"{}"})
    return store, folder / manifest.files[0].path, folder / "manifests" / "report" / f"{KEY}.json"


def _find_faults(store: Store) -> dict[str, str]:
    found = verify(store, take_inventory(store))
    return {one.path: one.fault for one in found if one.fault is not None}


@pytest.mark.parametrize("place", ["file", "manifest"])
def test_a_fifo_in_place_of_a_committed_file_is_a_fault_that_verify_names(tmp_path: Path, place: str) -> None:
    store, file, manifest = _commit(tmp_path / "store")
    assert _find_faults(store) == {}
    replaced = file if place == "file" else manifest
    replaced.unlink()
    os.mkfifo(replaced)
    (path, fault) = next(iter(_find_faults(store).items()))
    assert path == str(replaced.relative_to(tmp_path / "store"))
    assert "is no file but a FIFO" in fault


@pytest.mark.parametrize("replace", [os.mkfifo, _make_folder])
def test_what_is_no_file_counts_as_not_there_and_is_made_again(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    store, file, _ = _commit(tmp_path / "store")
    file.unlink()
    replace(file)
    if replace is os.mkfifo:
        assert store.find("report", KEY) is None
        _commit(tmp_path / "store")
        assert store.find("report", KEY) is not None
    else:
        with pytest.raises(StoreError, match="move away the folder"):
            store.find("report", KEY)


def test_the_other_records_are_read_where_one_is_no_file(tmp_path: Path) -> None:
    store, _, manifest = _commit(tmp_path / "store")
    for number in range(3):
        store.commit("report", str(number) * 64, {f"reports/{str(number) * 64}.json": b"{}"})
    second = manifest.with_name("1" * 64 + ".json")
    second.unlink()
    os.mkfifo(second)
    inventory = take_inventory(store)
    assert {one.key[0] for one in inventory.manifests} == {"a", "0", "2"}
    assert list(inventory.damaged) == [f"manifests/report/{'1' * 64}.json"]


@pytest.mark.parametrize("name", ["file", "file/below", "link"])
def test_a_folder_that_cannot_be_made_is_an_error_that_names_its_variable(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    with pytest.raises(StoreError) as caught:
        check_writable("CMRM_CACHE", tmp_path / name)
    message = str(caught.value)
    assert message.startswith(f"CMRM_CACHE: the folder {tmp_path / name} cannot be used (")
    assert message.isprintable()


def test_a_folder_on_a_read_only_disk_is_an_error_that_says_so(disk: Mount) -> None:
    disk.start("1m")
    (disk.place / "home").mkdir()
    disk.protect()
    with pytest.raises(StoreError, match=r"^PREFECT_HOME: .* cannot be used \(Read-only file system\)"):
        check_writable("PREFECT_HOME", disk.place / "home")


def test_a_folder_that_can_be_made_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable("PREFECT_HOME", tmp_path / "made" / "now")
    assert list((tmp_path / "made" / "now").iterdir()) == []

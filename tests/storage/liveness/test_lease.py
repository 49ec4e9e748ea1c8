"""A lease says who is at something; it is a courtesy, and ends by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any, ClassVar

import pytest

import storage.liveness.lease
from storage.errors import StoreError
from storage.liveness.lease import STALE, lease, lease_file, wait_for_lease
from storage.maintenance.gc import find_garbage
from storage.maintenance.inventory import take_inventory
from storage.records.checksummed_json import seal, unseal
from storage.store import Store

KEY = "a" * 64
PATH = lease_file(KEY)


def test_a_second_process_gets_the_holder_and_since_when(any_store: Store) -> None:
    with lease(any_store, KEY) as nobody, lease(any_store, KEY) as holder:
        assert nobody is None
        assert holder is not None
        assert holder.pid == os.getpid()
        since = datetime.fromisoformat(holder.since)
        assert timedelta() <= datetime.now(UTC) - since < timedelta(minutes=1)
    with lease(any_store, KEY) as nobody, lease(any_store, "b" * 64) as nobody_either:
        assert nobody is nobody_either is None
    assert any_store.files.under("watches") == []


def test_of_many_at_once_one_gets_it_and_those_that_wait_get_it_one_by_one(any_store: Store) -> None:
    together = Barrier(8)
    inside: list[int] = []

    def work(number: int) -> bool:
        together.wait()
        with lease(any_store, KEY) as holder:
            together.wait()
        with wait_for_lease(any_store, KEY):
            inside.append(number)
            assert inside == [number]
            inside.clear()
        return holder is None

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(work, range(8)))
    assert sum(got) == 1


def test_where_the_service_knows_no_conditional_write_the_last_writer_holds_it(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (system := getattr(any_store.files, "_system", None)) is None:
        return

    class UnknownHeaderError(OSError):
        response: ClassVar[Any] = {"Error": {"Code": "NotImplemented"}}

    pipe = system.pipe_file

    def write(*given: Any, mode: str = "overwrite", **options: Any) -> None:
        if mode == "create":
            raise OSError from UnknownHeaderError()
        pipe(*given, **options)

    monkeypatch.setattr(system, "pipe_file", write)
    with lease(any_store, KEY) as holder:
        assert holder is None
        assert unseal(any_store.read(PATH))["pid"] == os.getpid()
    assert any_store.files.under("watches") == []


def test_one_that_was_not_renewed_is_free_and_its_late_holder_leaves_the_new_one_alone(
    any_store: Store,
) -> None:
    with lease(any_store, KEY):
        held = unseal(any_store.read(PATH))
        for renewed in (datetime.now(UTC) - 2 * STALE, datetime.now(UTC) + 2 * STALE):
            any_store.files.write(PATH, seal({**held, "renewed_at": renewed.isoformat()}))
            with lease(any_store, KEY) as nobody:
                assert nobody is None
        any_store.files.write(PATH, seal({**held, "token": "another's"}))
    assert any_store.files.under("watches") == [PATH]


def test_one_whose_holder_was_killed_on_this_machine_is_free_at_once(any_store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with lease(any_store, KEY):
        held = unseal(any_store.read(PATH))
        for other, is_free in (({"pid": child.pid}, True), ({"pid": child.pid, "host": "elsewhere"}, False)):
            any_store.files.write(PATH, seal({**held, **other}))
            with lease(any_store, KEY) as holder:
                assert (holder is None) is is_free


@pytest.mark.parametrize("content", [b"cut", seal({"host": "only"}), seal({"renewed_at": "yesterday"})])
def test_one_that_cannot_be_read_is_free(any_store: Store, content: bytes) -> None:
    any_store.files.write(PATH, content)
    with lease(any_store, KEY) as nobody:
        assert nobody is None


def test_it_is_renewed_while_it_is_held(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.liveness.lease, "RENEWAL_SECONDS", 0.01)
    store = Store.create(tmp_path / "store")
    with lease(store, KEY):
        first = unseal(store.read(PATH))
        store.files.write(PATH, seal({**first, "renewed_at": "long ago"}))
        while unseal(store.read(PATH))["renewed_at"] == "long ago":
            pass
        assert {**unseal(store.read(PATH)), "renewed_at": None} == {**first, "renewed_at": None}


def test_what_a_killed_watch_left_is_no_fault_and_goes_when_it_is_old(any_store: Store) -> None:
    any_store.files.write(PATH, seal({"token": "of a killed process"}))
    inventory = take_inventory(any_store)
    assert inventory.leases == (PATH,)
    assert not inventory.foreign
    assert not inventory.loose
    later = datetime.now(UTC) + timedelta(days=30)
    for now, expected in ((None, []), (later, [PATH])):
        found = find_garbage(any_store, inventory, older_than=timedelta(days=7), now=now)
        assert [one.path for one in found] == expected


def test_its_name_never_leaves_the_store(any_store: Store) -> None:
    with pytest.raises(StoreError, match="is no key"), lease(any_store, "../../x"):
        pass

"""What a process has found whole is not read again, until somebody has touched it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.backends import checksum as whole
from storage.records.hashing import digest
from storage.shards.rows import count_values, iterate_rows_where, need_manifest
from storage.store import Store
from storage.tables.arrow import from_rows, table_paths
from storage.tables.parquet import to_parquet

KEY = digest("a key")


def test_a_file_is_read_once_and_again_when_it_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "store")
    manifest = store.commit("report", KEY, {f"reports/{KEY}.md": b"all of it"})
    read: list[str] = []
    find = whole.find_fault

    def watch(files, file):
        read.append(file.path)
        return find(files, file)

    monkeypatch.setattr(whole, "find_fault", watch)
    whole.forget_found_whole()
    for _ in range(3):
        assert Store.open(store.url).find("report", KEY) == manifest
    assert len(read) == 1
    place = tmp_path / "store" / manifest.files[0].path
    place.write_bytes(b"none of it")
    assert store.find("report", KEY) is None
    place.write_bytes(b"all of it")
    assert store.find("report", KEY) == manifest
    place.unlink()
    assert store.find("report", KEY) is None


@given(
    splits=st.lists(st.lists(st.sampled_from(["anchor", "target"]), max_size=12), min_size=1, max_size=3),
    start=st.integers(0, 30),
)
def test_rows_of_one_side_come_in_order_from_any_place(
    tmp_path_factory: pytest.TempPathFactory, splits: list[list[str]], start: int
) -> None:
    store = Store.create(tmp_path_factory.mktemp("sides"))
    rows = [
        [
            {
                "dataset": "d",
                "sample_id": f"{file}-{number}",
                "split": split,
                "harmful": True,
                "question": "q",
                "text_digest": "t",
            }
            for number, split in enumerate(names)
        ]
        for file, names in enumerate(splits)
    ]
    paths = table_paths("samples", KEY, len(rows))
    files = {
        path: to_parquet(from_rows(some, "samples"), "samples")
        for path, some in zip(paths, rows, strict=True)
    }
    store.commit("ingest", KEY, files)
    manifest = need_manifest(store, "ingest", KEY)
    # A manifest names its files in the order of their paths.
    in_order = [some for _, some in sorted(zip(paths, rows, strict=True), key=lambda pair: pair[0])]
    expected = [row["sample_id"] for some in in_order for row in some if row["split"] == "target"]
    found = iterate_rows_where(store, manifest, "samples", "split", "target", start=start)
    assert [row["sample_id"] for row in found] == expected[start:]
    assert count_values(store, manifest, "samples", "split")["target"] == len(expected)

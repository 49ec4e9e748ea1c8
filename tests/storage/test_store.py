"""What the store gives back is whole and is what was put in, or nothing."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import pytest

from storage.errors import StoreError
from storage.records.hashing import SCHEMA_VERSION, stage_key
from storage.records.manifest import Manifest
from storage.store import Store
from storage.tables.arrow import from_rows
from storage.tables.parquet import to_parquet

KEY = stage_key("report", {"n": 1})
FILES = {f"reports/{KEY}.md": b"# one\n", f"figures/{KEY}.png": bytes(1000)}


def committed(store: Store) -> Manifest:
    return store.commit("report", KEY, FILES, content={"n": 1}, provenance={"device": "cpu"})


def place(store: Store, path: str) -> Path:
    return Path(store.url, path)


def test_what_was_committed_is_found_and_read_back(any_store):
    manifest = committed(any_store)
    assert any_store.find("report", KEY) == manifest
    assert any_store.read(manifest.path("reports")) == b"# one\n"
    assert list(any_store.manifests()) == list(any_store.manifests("report")) == [manifest]
    assert manifest.content == {"n": 1}
    assert manifest.provenance == {"device": "cpu"}
    assert any_store.local_path(manifest.path("figures")).read_bytes() == bytes(1000)


def test_what_was_never_committed_is_not_there(any_store):
    assert any_store.find("report", KEY) is None
    assert list(any_store.manifests()) == []
    assert any_store.runs() == []


def test_opening_a_store_makes_nothing(tmp_path):
    Store.open(tmp_path / "store").find("report", KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_survives_json(store):
    manifest = committed(store)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_file_can_come_from_the_disk(any_store, tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"x" * 3_000_000)
    manifest = any_store.commit("report", KEY, {f"reports/{KEY}.bin": source})
    assert any_store.read(manifest.files[0].path) == source.read_bytes()
    assert any_store.find("report", KEY) == manifest


def test_rows_of_parquet_files_are_counted_and_wrong_counts_refused(store):
    rows = [{"stage": "ingest", "dataset": "d", "reason": "empty question"}] * 3
    data = {f"quarantine/{KEY}.parquet": to_parquet(from_rows(rows, "quarantine"), "quarantine")}
    assert store.commit("ingest", KEY, data).rows == 3
    with pytest.raises(StoreError, match="holds 3 rows, not the 4"):
        store.commit("ingest", KEY, data, rows={f"quarantine/{KEY}.parquet": 4})
    with pytest.raises(StoreError, match="is no Parquet file"):
        store.commit("ingest", KEY, {f"quarantine/{KEY}.parquet": b"PAR1"})


def test_content_that_json_has_not_is_refused_before_anything_is_written(store):
    with pytest.raises(StoreError, match=r"provenance\.seconds is nan"):
        store.commit("report", KEY, FILES, provenance={"seconds": float("nan")})
    assert [path.name for path in Path(store.url).iterdir()] == ["store.json"]


def test_remote_files_are_fetched_once_and_again_when_the_copy_is_damaged(any_store, tmp_path, monkeypatch):
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "cache"))
    path = committed(any_store).path("figures")
    local = any_store.local_path(path)
    assert any_store.local_path(path) == local
    if "://" in any_store.url:
        local.write_bytes(b"\1" * 1000)
        assert any_store.local_path(path).read_bytes() == bytes(1000)


@pytest.mark.parametrize("seed", range(40))
def test_one_flipped_bit_in_any_file_is_noticed_and_logged(store, caplog, seed):
    chance = random.Random(seed)
    manifest = committed(store)
    path = chance.choice([f"manifests/report/{KEY}.json", *(file.path for file in manifest.files)])
    data = bytearray(store.read(path))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    place(store, path).write_bytes(data)
    assert store.find("report", KEY) is None
    assert path in caplog.text or KEY in caplog.text
    assert committed(store).files == manifest.files
    assert store.find("report", KEY) is not None


def test_a_missing_a_shortened_and_a_replaced_file_are_noticed(store, caplog):
    figure = place(store, committed(store).path("figures"))
    for damage, reason in [
        (figure.unlink, "is missing"),
        (lambda: figure.write_bytes(bytes(999)), "has 999 bytes instead of 1000"),
        (lambda: figure.write_bytes(b"\1" * 1000), "its sha256 is not the committed one"),
    ]:
        committed(store)
        damage()
        assert store.find("report", KEY) is None
        assert reason in caplog.text


def test_a_manifest_cut_at_any_byte_counts_as_not_there(store, caplog):
    data = committed(store).to_json()
    for length in range(0, len(data), 7):
        place(store, f"manifests/report/{KEY}.json").write_bytes(data[:length])
        assert store.find("report", KEY) is None
        assert list(store.manifests()) == []
    assert "cut short" in caplog.text


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"seal": 1}', "[" * 100_000, r'{"seal": "\ud800"}'])
def test_other_json_in_the_place_of_a_manifest_counts_as_not_there(store, text):
    committed(store)
    place(store, f"manifests/report/{KEY}.json").write_text(text)
    assert store.find("report", KEY) is None


def test_a_manifest_under_another_key_or_of_another_schema_counts_as_not_there(store, caplog):
    data = json.loads(committed(store).to_json())
    other = stage_key("report", {"n": 2})
    place(store, f"manifests/report/{other}.json").write_bytes(Manifest.from_json(_sealed(data)).to_json())
    assert store.find("report", other) is None
    assert "another stage or key" in caplog.text
    place(store, f"manifests/report/{KEY}.json").write_bytes(_sealed(data | {"schema_version": 99}))
    assert store.find("report", KEY) is None
    assert "schema version 99" in caplog.text


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "a/../../b", "figures/./x", "a\\b", "a/\0b", "", "a//b"]
)
def test_a_manifest_that_points_out_of_the_store_counts_as_not_there(store, path):
    data = json.loads(committed(store).to_json())
    data["files"][0]["path"] = path
    place(store, f"manifests/report/{KEY}.json").write_bytes(_sealed(data))
    assert store.find("report", KEY) is None
    assert list(store.manifests()) == []


def _sealed(record: dict) -> bytes:
    from storage.records.checksummed_json import seal

    return seal(record)


def test_a_link_out_of_the_store_is_refused(store, tmp_path):
    path = committed(store).path("figures")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1000))
    place(store, path).unlink()
    place(store, path).symlink_to(secret)
    with pytest.raises(StoreError, match="leads out of the store"):
        store.read(path)
    with pytest.raises(StoreError, match="leads out of the store"):
        store.files.sizes("figures")


def test_sizes_are_those_of_files_and_of_what_links_within_the_store_lead_to(store, tmp_path):
    path = committed(store).path("figures")
    whole = place(store, path)
    folder = whole.parent
    (folder / "link.png").symlink_to(whole)
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    (folder / ".unfinished").write_bytes(b"x")
    for name in ("lost+found", ".trash", "below"):
        (folder / name).mkdir()
        (folder / name / "file.png").write_bytes(b"xyz")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file.png").write_bytes(b"x")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    bytes_ = whole.stat().st_size
    found = {path: bytes_, "figures/link.png": bytes_, "figures/below/file.png": 3}
    assert store.files.sizes("figures") == found
    assert store.files.under("figures") == sorted([*found, "figures/gone.png"])


@pytest.mark.parametrize(
    "key", ["", "..", "../../x", "A" * 64, "a" * 63, "a" * 65, "g" * 64, "a" * 63 + "/", "a" * 64 + "\n"]
)
def test_keys_that_are_not_64_hex_digits_are_refused(store, key):
    for use in (lambda: store.find("report", key), lambda: store.commit("report", key, {})):
        with pytest.raises(StoreError, match="is no key"):
            use()


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a\0", "-", ".hidden", "x" * 200])
def test_stages_and_run_ids_that_are_no_plain_names_are_refused(store, name):
    with pytest.raises(StoreError, match="is no stage"):
        store.find(name, KEY)
    with pytest.raises(StoreError, match="is no run id"):
        store.write_run(name, {})


@pytest.mark.parametrize(
    "path",
    [
        f"../{KEY}.md",
        f"/reports/{KEY}.md",
        f"reports/../../{KEY}.md",
        f"manifests/report/{KEY}.json",
        f"{KEY}.md",
        "reports/other.md",
        f"reports/.{KEY}",
    ],
)
def test_files_outside_their_folders_or_without_their_key_are_not_committed(store, path):
    with pytest.raises(StoreError, match=r"no path inside a store|cannot be committed"):
        store.commit("report", KEY, {path: b"x"})
    assert store.find("report", KEY) is None


def test_stray_temporary_files_change_nothing(store):
    manifest = committed(store)
    for folder in ("manifests/report", "figures", "reports", "runs"):
        place(store, folder).mkdir(exist_ok=True)
        place(store, folder).joinpath(".0123.tmp").write_bytes(b"half")
        place(store, folder).joinpath("notes.txt").write_text("a person's own file")
    assert list(store.manifests()) == [manifest]
    assert store.runs() == []
    assert store.find("report", KEY) == manifest


def test_a_failed_write_leaves_no_temporary_file_and_the_old_file(store, monkeypatch):
    store.write_bytes("reports/latest.md", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*latest\.md: No space left.*free some space"):
        store.write_bytes("reports/latest.md", b"new")
    monkeypatch.undo()
    assert [path.name for path in place(store, "reports").iterdir()] == ["latest.md"]
    assert store.read("reports/latest.md") == b"old"


def test_a_disk_that_fills_before_the_manifest_commits_nothing(store, monkeypatch):
    write = store.files.write

    def until_manifest(path: str, source: bytes | Path) -> None:
        if path.startswith("manifests/"):
            raise StoreError("cannot write: No space left on device")
        write(path, source)

    monkeypatch.setattr(store.files, "write", until_manifest)
    with pytest.raises(StoreError):
        committed(store)
    monkeypatch.undo()
    assert store.find("report", KEY) is None
    assert store.find("report", committed(store).key) is not None


def test_no_permission_is_an_error_and_not_an_empty_store(store, forbidden):
    committed(store)
    with forbidden(Path(store.url)):
        with pytest.raises(StoreError, match=r"Permission denied.*give yourself access"):
            store.find("report", KEY)
        with pytest.raises(StoreError, match=r"cannot write .*Permission denied"):
            committed(store)
        with pytest.raises(StoreError, match="Permission denied"):
            list(store.manifests())
    assert store.find("report", KEY) is not None


def test_a_file_where_a_folder_is_needed_is_named(store):
    place(store, "reports").write_text("in the way")
    with pytest.raises(StoreError, match=r"reports.*move away"):
        committed(store)


def test_places_that_cannot_be_stores_are_refused_with_the_fix(tmp_path):
    (tmp_path / "file").write_text("x")
    for url in (tmp_path / "file", "", "nonsense://x", "s3a-unknown://bucket", "~nobody-by-this-name/x"):
        with pytest.raises(StoreError, match=r"[Gg]ive"):
            Store.open(url)


def test_a_file_url_is_a_folder_on_the_disk(tmp_path):
    committed(Store.create(f"file://{tmp_path}/store"))
    assert Store.open(tmp_path / "store").find("report", KEY) is not None


def test_reading_a_file_that_is_not_there_says_so(any_store):
    with pytest.raises(StoreError, match=r"has no file reports/x\.md"):
        any_store.read("reports/x.md")


def test_runs_are_kept_updated_and_listed_oldest_first(any_store):
    any_store.write_run("2-second", {"status": "running", "created_at": "2026-01-02T00:00:00+00:00"})
    any_store.write_run("3-first", {"status": "running", "created_at": "2026-01-01T00:00:00+00:00"})
    any_store.write_run("2-second", {"status": "done", "keys": [KEY]})
    assert [run["run_id"] for run in any_store.runs()] == ["3-first", "2-second"]
    assert any_store.read_run("2-second") == {
        "run_id": "2-second",
        "status": "done",
        "keys": [KEY],
        "created_at": "2026-01-02T00:00:00+00:00",
        "schema_version": SCHEMA_VERSION,
    }


def test_an_unknown_run_is_refused_with_those_that_exist(store):
    store.write_run("known", {})
    with pytest.raises(StoreError, match=r"has no run other; its latest runs: known"):
        store.read_run("other")


def test_a_damaged_run_is_refused_and_left_out_of_the_list(store, caplog):
    store.write_run("known", {"summary": {"unsafe": 0.03}})
    path = place(store, "runs/known.json")
    path.write_text(path.read_text().replace("0.03", "0.02"))
    with pytest.raises(StoreError, match="changed after it was written"):
        store.read_run("known")
    assert store.runs() == []
    assert "known" in caplog.text


def test_two_commits_of_one_key_with_other_bytes_never_mix(store):
    first = committed(store)
    second = store.commit("report", KEY, {f"reports/{KEY}.md": b"# two\n"})
    assert store.find("report", KEY) == second
    assert store.read(first.path("reports")) == b"# one\n"
    assert store.read(second.path("reports")) == b"# two\n"

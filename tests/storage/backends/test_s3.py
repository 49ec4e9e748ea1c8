"""A store on a real S3 server keeps what a store on a disk keeps, between many processes and when one is killed."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import duckdb
import fsspec
import numpy as np
import pytest

from storage.records.hashing import stage_key
from storage.shards.hidden_states import hidden_states_table
from storage.sql.database import connect
from storage.store import Store
from storage.tables.arrow import table_path
from storage.tables.parquet import to_parquet
from tests.s3 import BUCKET, Answer, Asked

KEY = stage_key("report", {"n": 1})
FILES = {f"reports/{KEY}.md": b"# one\n", f"figures/{KEY}.png": bytes(1000)}
ODD = "llava-hf/llava=1.5 +x@main, ü'%2F"

OPEN = """
import sys
from storage.store import Store

url, key, *rest = sys.argv[1:]
store = Store.open(url)
"""
COMMIT = (
    OPEN
    + """
name, times = rest
print("ready", flush=True)
for turn in range(int(times)):
    store.commit("report", key, {f"reports/{key}.{i}": f"{name} {turn} {i}".encode() * 5000 for i in range(3)})
"""
)


@pytest.fixture
def store(s3: str) -> Store:
    return Store.open(s3)


@pytest.fixture
def bucket(s3: str) -> Any:
    """The file system itself, to damage what a store has written."""
    return fsspec.filesystem("s3", use_listings_cache=False)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    return output


def test_each_damage_to_an_object_is_noticed(store, bucket, caplog):
    chance = random.Random(1)
    manifest = store.commit("report", KEY, FILES)
    for path in [f"manifests/report/{KEY}.json", *(file.path for file in manifest.files)]:
        place = f"{store.url.removeprefix('s3://')}/{path}"
        whole = bucket.cat_file(place)
        flipped = bytearray(whole)
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        for damaged in (bytes(flipped), whole[:-1], whole[: len(whole) // 2], b"", None):
            if damaged is None:
                bucket.rm_file(place)
            else:
                bucket.pipe_file(place, damaged)
            assert store.find("report", KEY) is None
            bucket.pipe_file(place, whole)
            assert store.find("report", KEY) == manifest
    assert "its sha256 is not the committed one" in caplog.text
    assert "is missing" in caplog.text


def test_what_another_process_writes_is_seen_at_once(store, start):
    first = store.commit("report", KEY, FILES)
    assert list(store.manifests()) == [first]
    other = stage_key("report", {"n": 2})
    assert store.find("report", other) is None
    code = OPEN + "store.commit('report', key, {f'reports/{key}.md': b'# two, and longer'})"
    for key in (other, KEY):
        finish(start(code, store.url, key))
    found = list(store.manifests())
    assert sorted(one.key for one in found) == sorted([KEY, other])
    assert [store.find("report", one.key) for one in found] == found
    assert {store.read(one.path("reports")) for one in found} == {b"# two, and longer"}
    assert store.files.sizes("reports") == {
        path: store.files.size(path) for path in store.files.under("reports")
    }


def test_a_folder_of_more_files_than_one_listing_holds_is_listed_whole(store, bucket):
    top = store.url.removeprefix("s3://")
    names = [f"parts/embed/{KEY}/part-{number}.parquet" for number in range(1005)]
    bucket.pipe({f"{top}/{name}": name.encode() for name in names})
    # What else is found in buckets: a console's placeholder of a folder, and names that no store gives.
    bucket.pipe({f"{top}/parts/embed/{odd}": b"" for odd in (f"{KEY}/", "a//b", ".hidden", "x/../y")})
    assert store.files.under("parts") == sorted(names)
    assert store.files.sizes("parts") == {name: len(name) for name in sorted(names)}
    wanted = [*names[:60], "parts/none"]
    assert list(store.files.read_many(wanted)) == [
        *((name, name.encode()) for name in names[:60]),
        ("parts/none", None),
    ]
    assert store.files.under(f"parts/embed/{KEY[:-1]}") == []


def test_a_key_that_processes_commit_at_once_is_whole_at_every_moment(store, start):
    processes = [start(COMMIT, store.url, KEY, name, "12") for name in ("one", "two", "three")]
    seen = 0
    while any(process.poll() is None for process in processes):
        manifest = store.find("report", KEY)
        assert manifest is not None or seen == 0
        seen += manifest is not None
    for process in processes:
        finish(process)
    manifest = store.find("report", KEY)
    assert seen > 0
    assert len({store.read(file.path).split()[0] for file in manifest.files}) == 1
    assert list(store.manifests()) == [manifest]


def test_a_process_killed_while_it_commits_leaves_the_last_whole_commit(store, start):
    process = start(COMMIT, store.url, KEY, "one", "100000")
    assert process.stdout.readline() == "ready\n"
    while store.find("report", KEY) is None:
        assert process.poll() is None
    time.sleep(random.Random(2).uniform(0, 0.05))
    process.kill()
    process.wait()
    manifest = store.find("report", KEY)
    assert len({store.read(file.path).split()[1] for file in manifest.files}) == 1
    assert list(store.manifests()) == [manifest]


def test_a_large_upload_that_ends_in_the_middle_is_never_visible(s3, proxy, start, tmp_path):
    source = tmp_path / "large.bin"
    source.write_bytes(random.Random(0).randbytes(1 << 20) * 33)
    store = Store.open(s3)
    stuck: list[Asked] = []

    def hold_second_part(asked: Asked, forward: Callable[[], Answer]) -> Answer | None:
        if "partNumber=" not in asked.query or "partNumber=1&" in asked.query:
            return forward()
        stuck.append(asked)
        time.sleep(60)
        return None

    proxy.trick = hold_second_part
    code = (
        OPEN + "from pathlib import Path; store.commit('report', key, {f'reports/{key}.bin': Path(rest[0])})"
    )
    process = start(code, s3, KEY, str(source))
    while not stuck:
        assert process.poll() is None
        time.sleep(0.01)
    assert store.files.under("reports") == []
    process.kill()
    process.wait()
    assert store.files.under("reports") == []
    assert store.find("report", KEY) is None

    proxy.trick = lambda _, forward: forward()
    manifest = store.commit("report", KEY, {f"reports/{KEY}.bin": source})
    assert max(asked.length for asked in proxy.seen) < 17 << 20
    assert store.find("report", KEY) == manifest
    proxy.seen.clear()
    with store.files.open(manifest.files[0].path) as stream:
        stream.seek(20_000_000)
        assert stream.read(100) == source.read_bytes()[20_000_000:20_000_100]
    assert Counter(asked.method for asked in proxy.seen) == {"HEAD": 1, "GET": 2}


def test_a_remote_file_is_fetched_once_by_processes_that_want_it_together(
    store, start, tmp_path, monkeypatch
):
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "cache"))
    path = store.commit("report", KEY, {f"reports/{KEY}.bin": bytes(range(256)) * 20_000}).path("reports")
    code = OPEN + "print(len(store.local_path(rest[0]).read_bytes()), store.local_path(rest[0]))"
    told = [finish(process) for process in [start(code, store.url, KEY, path) for _ in range(2)]]
    local = store.local_path(path)
    assert told == [f"5120000 {local}\n"] * 2
    local.write_bytes(local.read_bytes()[:-1] + b"\0")
    assert store.local_path(path).read_bytes() == bytes(range(256)) * 20_000
    assert [found.name for found in (tmp_path / "cache").rglob("*") if found.is_file()] == [local.name]


def test_a_forked_process_makes_connections_of_its_own(store, start):
    store.commit("report", KEY, FILES)
    code = (
        OPEN
        + """
import os
assert store.find("report", key)
child = os.fork()
found = store.find("report", key) is not None
if child == 0:
    os._exit(0 if found else 1)
print(os.waitpid(child, 0)[1], found)
"""
    )
    assert finish(start(code, store.url, KEY)) == "0 True\n"


def test_odd_names_go_to_s3_and_back_and_sql_reads_ranges_of_large_files(store, s3_server, tmp_path):
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((1000, 4, 1024)).astype(np.float16)
    ids = [f"s{number:04}" for number in range(1000)]
    for condition in ("image", "query"):
        key = stage_key("embed", {"condition": condition})
        table = hidden_states_table(
            model=ODD, dataset="d", sample_ids=ids, condition=condition, blocks=[0, 1, 2, 3], vectors=vectors
        )
        path = table_path("hidden_states", key, model=ODD, condition=condition)
        store.commit("embed", key, {path: to_parquet(table, "hidden_states")})
        assert store.find("embed", key).rows == 4000
    before = len(s3_server.requests())
    with connect(store.url) as sql:
        query = "SELECT vector FROM hidden_states WHERE condition = 'query' AND block = 2 ORDER BY sample_id"
        assert np.array_equal(np.array(sql.sql(query).fetchnumpy()["vector"].tolist()), vectors[:, 2, :])
        assert sql.sql("SELECT DISTINCT model FROM hidden_states").fetchall() == [(ODD,)]
        sums = (
            "SELECT block, sum(list_sum(vector::DOUBLE[])) FROM hidden_states GROUP BY block ORDER BY block"
        )
        expected = 2 * vectors.astype(np.float64).sum(axis=(0, 2))
        assert np.allclose([total for _, total in sql.sql(sums).fetchall()], expected)
        for hostile in (
            f"COPY samples TO 's3://{BUCKET}/stolen.parquet'",
            f"COPY samples TO '{store.url}/samples/x.parquet'",
            f"FROM read_parquet('{store.url}/**/*.parquet')",
            f"FROM read_text('s3://{BUCKET}/x')",
            "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
            "INSTALL httpfs",
            "FROM getenv('AWS_SECRET_ACCESS_KEY')",
        ):
            with pytest.raises(duckdb.Error):
                sql.sql(hostile).fetchall()
    asked = s3_server.requests()[before:]
    assert not [request for request in asked if request.startswith(("PUT", "POST", "DELETE"))]


def test_a_store_of_many_files_is_asked_about_in_few_requests(store, s3_server):
    def count(act: Callable[[], object]) -> int:
        before = len(s3_server.requests())
        act()
        return len(s3_server.requests()) - before

    manifest = store.commit("report", KEY, FILES)
    path = manifest.path("reports")
    assert count(lambda: store.files.size(path)) == 1
    assert count(lambda: store.files.open(path).read()) == 1
    assert count(lambda: store.files.sizes("manifests")) == 1
    assert count(lambda: store.commit("report", KEY, FILES)) == 3


def test_a_process_that_used_s3_ends_without_a_word(store, start):
    code = (
        OPEN
        + "store.commit('report', key, {f'reports/{key}.md': b'x'}); print(store.find('report', key).rows)"
    )
    assert finish(start(code, store.url, KEY)) == "0\n"

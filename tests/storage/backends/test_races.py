"""Several processes on one store, one of them killed while it writes."""

from __future__ import annotations

import random
import time
from pathlib import Path

from storage.records.hashing import stage_key

KEY = stage_key("report", {"n": 1})

COMMITTER = """
import sys
from storage.store import Store

url, key, name, times = sys.argv[1:]
store = Store.open(url)
print("ready", flush=True)
for turn in range(int(times)):
    store.commit("report", key, {f"reports/{key}.{i}": f"{name} {turn} {i}".encode() * 5000 for i in range(3)})
"""


def test_a_key_that_two_processes_commit_is_whole_at_every_moment(store, start):
    processes = [start(COMMITTER, store.url, KEY, name, "25") for name in ("one", "two")]
    seen = 0
    while any(process.poll() is None for process in processes):
        manifest = store.find("report", KEY)
        assert manifest is not None or seen == 0
        seen += manifest is not None
    assert all(process.returncode == 0 for process in processes)
    manifest = store.find("report", KEY)
    names = {store.read(file.path).split()[0] for file in manifest.files}
    assert seen > 0
    assert len(names) == 1, "one process's manifest names the other's data"


def test_a_process_killed_while_it_commits_leaves_the_last_whole_commit(store, start):
    chance = random.Random(1)
    for _ in range(4):
        process = start(COMMITTER, store.url, KEY, "one", "100000")
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 30
        while store.find("report", KEY) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.wait()
        manifest = store.find("report", KEY)
        assert manifest is not None
        assert len({store.read(file.path)[:6] for file in manifest.files}) == 1
        assert [manifest] == list(store.manifests())
    assert Path(store.url, f"manifests/report/{KEY}.json").is_file()

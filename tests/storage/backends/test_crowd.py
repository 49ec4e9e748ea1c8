"""Eight processes on one store, two of them killed, end with what one process writes."""

from __future__ import annotations

import random
import time
from pathlib import Path

from storage.maintenance.inventory import take_inventory
from storage.maintenance.verify import verify
from storage.sql.database import connect
from storage.store import Store

SHARDS = 6

WORKER = f"""
import itertools, random, sys, time
from contextlib import suppress
import numpy as np
from storage.errors import PartsGoneError
from storage.records.hashing import stage_key
from storage.shards.hidden_states import hidden_states_table
from storage.store import Store
from storage.tables.arrow import table_paths
from storage.shards.writer import ShardWriter

url, seed = sys.argv[1:]
chance = random.Random(int(seed))
store = Store.create(url)
shards = list(range({SHARDS}))
chance.shuffle(shards)
print("ready", flush=True)
for shard in shards:
    key = stage_key("embed", {{"shard": shard}})
    if store.find("embed", key) is not None:
        continue
    ticks = itertools.count(step=3)
    partitions = {{"model": "m", "condition": "image"}}
    with suppress(PartsGoneError), ShardWriter(
        store, "embed", key, "hidden_states", partitions=partitions, clock=lambda: next(ticks)
    ) as writer:
        done = set(writer.resume("sample_id")["sample_id"].to_pylist())
        for number in range(24):
            if f"s{{number}}" in done:
                continue
            time.sleep(chance.uniform(0, 0.01))
            vectors = np.random.default_rng([shard, number]).standard_normal((1, 4, 64)).astype(np.float16)
            writer.append(hidden_states_table(
                model="m", dataset=f"d{{shard}}", sample_ids=[f"s{{number}}"], condition="image",
                blocks=range(4), vectors=vectors,
            ))
        written = writer.finish()
        paths = table_paths("hidden_states", key, len(written), **partitions)
        store.commit("embed", key, dict(zip(paths, written)), content={{"shard": shard}})
        writer.discard()
    # Whoever is told that its parts are gone finds the manifest of the one that was quicker.
    assert store.find("embed", key) is not None
"""


def rows(store: Store) -> list[tuple]:
    with connect(store.url) as sql:
        return sql.sql("FROM hidden_states ORDER BY ALL").fetchall()


def test_eight_processes_end_with_what_one_process_writes(tmp_path, start):
    alone = start(WORKER, str(tmp_path / "alone"), "0")
    assert alone.wait(timeout=120) == 0, alone.communicate()
    crowd = [start(WORKER, str(tmp_path / "crowd"), str(seed)) for seed in range(8)]
    chance = random.Random(0)
    for process in crowd[:2]:
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.05, 0.2))
        process.kill()
    ends = [process.communicate(timeout=120) for process in crowd]
    assert [process.returncode for process in crowd[2:]] == [0] * 6, ends

    one, many = Store.open(tmp_path / "alone"), Store.open(tmp_path / "crowd")
    assert rows(many) == rows(one)
    assert len(rows(one)) == SHARDS * 24 * 4
    inventory = take_inventory(many)
    assert [checked.fault for checked in verify(many, inventory) if checked.fault] == []
    assert [manifest.key for manifest in inventory.manifests] == [
        manifest.key for manifest in one.manifests()
    ]
    assert [manifest.content for manifest in inventory.manifests] == [
        manifest.content for manifest in one.manifests()
    ]
    # What the killed ones left half written has names that nobody reads.
    assert all(Path(name).name.startswith(".") for name in inventory.unfinished)

"""Empty shards, run through the same stages and workers as real ones, to time the overhead per job."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.server.client import find_server, reach_server
from storage.records.manifest import Manifest
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from tasks.core.stage import Job, make_stage


@dataclass(frozen=True, kw_only=True)
class EmptyJob(Job):
    """A job that commits one row."""

    number: int
    turn: int

    @property
    def stage(self) -> str:
        return "generate"

    def content(self) -> dict[str, Any]:
        return {"number": self.number, "turn": self.turn}


def _commit(job: EmptyJob, store: Store) -> Manifest:
    path = table_path("responses", job.key)
    return store.commit(job.stage, job.key, {path: to_parquet(from_rows([], "responses"), "responses")})


commit_nothing = make_stage("generate", _commit, place="devices")


def time_empty_shards(
    place: Path, *, workers: str, counts: Sequence[int], turns: int
) -> Mapping[int, list[float]]:
    """Time runs of new empty shards on warm workers: seconds by number of shards."""
    from prefect import flow

    from flows.stages import run_stages
    from flows.workers.base import choose_workers

    store = Store.create(place / workers.replace(":", "-"))

    def make_jobs(count: int, turn: int) -> list[EmptyJob]:
        return [
            EmptyJob(store=store.url, label=str(number), rows=1, number=number, turn=turn)
            for number in range(count)
        ]

    def measure() -> dict[int, list[float]]:
        times: dict[int, list[float]] = {count: [] for count in counts}
        with run_stages(choose_workers(workers, devices={"cpu"}, server=find_server(None)), store) as stages:
            stages.run(commit_nothing, make_jobs(16, -1))
            for turn in range(turns):
                for size, count in enumerate(counts):
                    since = time.perf_counter()
                    stages.run(commit_nothing, make_jobs(count, turn * len(counts) + size))
                    times[count].append(time.perf_counter() - since)
        return times

    with reach_server(None)():
        return flow(name="empty shards", persist_result=False)(measure)()

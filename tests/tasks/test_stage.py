"""A job whose parts another worker took away is that worker's job, or is done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import PartsGoneError
from storage.manifest import Manifest
from storage.store import Store
from tasks.stage import Job, make_stage


@dataclass(frozen=True, kw_only=True)
class ReportJob(Job):
    """A job of the smallest kind."""

    @property
    def stage(self) -> str:
        return "report"

    def content(self) -> dict[str, Any]:
        return {"n": 1}


def commit(job: ReportJob, store: Store) -> Manifest:
    return store.commit(job.stage, job.key, {f"reports/{job.key}.md": b"done"})


def do(folder: Path, work: Callable[[ReportJob, Store], Manifest]) -> Manifest:
    job = ReportJob(store=Store.create(folder).url, label="x", rows=1)
    done = make_stage("report", work, place="processor").do(job)
    return Manifest.from_json(done["manifests"][0].encode())


def test_what_a_quicker_worker_committed_is_the_jobs_result(tmp_path: Path) -> None:
    tries = []

    def lose(job: ReportJob, store: Store) -> Manifest:
        tries.append(commit(job, store))
        raise PartsGoneError("parts were removed")

    assert [do(tmp_path, lose)] == tries


def test_without_a_quicker_workers_commit_the_job_is_done_again(tmp_path: Path) -> None:
    tries = []

    def fail_once(job: ReportJob, store: Store) -> Manifest:
        tries.append(job)
        if len(tries) == 1:
            raise PartsGoneError("parts were removed")
        return commit(job, store)

    assert do(tmp_path, fail_once).stage == "report"
    assert len(tries) == 2

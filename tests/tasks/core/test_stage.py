"""A job whose partial files another worker removed is that worker's job, or is run again."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from storage.errors import PartsGoneError, StoreError
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.stage import Job, make_stage


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


def test_what_another_worker_committed_first_is_the_jobs_result(tmp_path: Path) -> None:
    tries = []

    def lose(job: ReportJob, store: Store) -> Manifest:
        tries.append(commit(job, store))
        raise PartsGoneError("parts were removed")

    assert [do(tmp_path, lose)] == tries


def test_without_another_workers_commit_the_job_is_run_again(tmp_path: Path) -> None:
    tries = []

    def fail_once(job: ReportJob, store: Store) -> Manifest:
        tries.append(job)
        if len(tries) == 1:
            raise PartsGoneError("parts were removed")
        return commit(job, store)

    assert do(tmp_path, fail_once).stage == "report"
    assert len(tries) == 2


def test_what_a_job_raises_holds_no_secret_that_a_server_said_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "session/token+canary=="
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)

    def fail(_job: ReportJob, _store: Store) -> Manifest:
        raise StoreError(f"cannot write: refused {quote(token, safe='')}") from ConnectionError(token)

    with pytest.raises(StoreError, match=r"^cannot write: refused \[secret\]$") as caught:
        do(tmp_path, fail)
    # As Prefect writes it into its log.
    assert token not in "".join(traceback.format_exception(caught.value))

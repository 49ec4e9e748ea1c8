"""Who does the jobs changes nothing of what comes out, whatever becomes of them meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cmrm.errors import UserError
from flows.cli import main
from flows.run import run_spec
from flows.spec.spec import read_spec
from flows.workers import task_runner as runner_workers
from flows.workers.base import InProcessWorkers, choose_workers
from flows.workers.process import ProcessWorkers, list_devices
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.stage import Job, make_stage
from tasks.job_codec import pack_jobs, unpack_jobs
from tests.attempt import Attempt, list_workers, start
from tests.forked import Forker
from tests.same_tables import compare_stores

pytestmark = pytest.mark.usefixtures("prefect_server")

# Long enough on the tiny model for a worker to be found at work.
ROWS = 60


@pytest.fixture(scope="module")
def spec(
    tmp_path_factory: pytest.TempPathFactory, llava_folder: Path, write_spec: Callable[..., Path]
) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    few: dict[str, Any] = {"conditions": ["query", "image"], "judges": ["refusal"]}
    path = write_spec(folder, llava_folder, shard_size=32, batch_size=1, **few)
    with (folder / "own.jsonl").open("a") as file:
        for number in range(ROWS):
            file.write(f'{{"id": "more-{number}", "question": "count {number} squares", "image": "1.png"}}\n')
    return path


@pytest.fixture(scope="module")
def calm(spec: Path, prefect_server: str) -> Path:
    """The store of an undisturbed run in this process."""
    store = spec.parent / "calm"
    run_spec(read_spec(spec), store=str(store))
    return store


@pytest.fixture
def begin(spec: Path, forker: Forker, tmp_path: Path) -> Callable[[], Attempt]:
    """The start of a run on a store of its own, by two workers."""
    workers = ("--workers", "2")
    return lambda: start(
        spec,
        tmp_path / "store",
        log=tmp_path / "log",
        environment=os.environ,
        arguments=workers,
        forker=forker,
    )


def wait_for(attempt: Attempt, what: Callable[[], Any]) -> Any:
    """Wait until something is there, while the run goes on."""
    end = time.monotonic() + 240
    while not (found := what()):
        assert attempt.process.poll() is None, attempt.log.read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def count(store: Path, stage: str) -> int:
    return len(list((store / "manifests" / stage).glob("[!.]*.json")))


def test_a_killed_worker_process_loses_its_job_to_another(begin: Callable[[], Attempt], calm: Path) -> None:
    attempt = begin()
    wait_for(attempt, lambda: count(attempt.store, "generate") >= 2)
    workers = list_workers(attempt.process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert attempt.end() == 0, attempt.log.read_text()
    assert "Traceback" not in attempt.log.read_text()
    assert compare_stores(attempt.store, calm).nothing


def test_sigterm_flushes_ends_every_process_and_the_same_command_goes_on(
    spec: Path, begin: Callable[[], Attempt], calm: Path
) -> None:
    attempt = begin()
    wait_for(attempt, lambda: count(attempt.store, "generate"))
    workers = list_workers(attempt.process.pid)
    attempt.process.terminate()
    assert attempt.process.wait(timeout=60) == 128 + signal.SIGTERM
    assert "cmrm: terminated" in attempt.log.read_text()
    assert "Traceback" not in attempt.log.read_text()
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    assert Store.open(attempt.store).runs()[-1]["status"] == "failed"
    # In the middle of a shard: what was finished of it is there as a part.
    assert list((attempt.store / "parts" / "generate").rglob("[!.]*.parquet"))
    run_spec(read_spec(spec), store=str(attempt.store))
    assert compare_stores(attempt.store, calm).nothing


def test_workers_end_with_a_run_that_was_killed(begin: Callable[[], Attempt]) -> None:
    attempt = begin()
    wait_for(attempt, lambda: count(attempt.store, "generate"))
    workers = list_workers(attempt.process.pid)
    assert attempt.kill()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class DeadlyJob(Job):
    """A job that takes its process down."""

    @property
    def stage(self) -> str:
        return "generate"

    def content(self) -> dict[str, Any]:
        return {"deadly": True}


def _die(_job: DeadlyJob, _store: Store) -> Manifest:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_job_that_crashes_its_workers_again_and_again_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_workers, "MOST_CRASHES", 1)
    job = DeadlyJob(store=Store.create(tmp_path).url, label="the deadly one", rows=1)
    with (
        ProcessWorkers(lambda: ["cpu", "cpu"]) as workers,
        pytest.raises(UserError, match="the deadly one: 2 consecutive worker crashes"),
    ):
        list(workers.do(make_stage("generate", _die, place="devices"), [job], advance=lambda _: None))


def test_what_a_job_raises_in_a_worker_is_raised_in_the_run(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for path in spec.parent.iterdir():
        if path.suffix == ".jsonl":
            (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "data" / "images").symlink_to(spec.parent / "images")
    text = spec.read_text() + "interventions: [{name: far, alpha: 1.0, blocks: [9]}]\n"
    (tmp_path / "data" / "spec.yaml").write_text(text)
    with pytest.raises(SystemExit) as exit_:
        main(["run", str(tmp_path / "data" / "spec.yaml"), "--store", str(tmp_path / "s"), "--workers", "2"])
    assert exit_.value.code == 2
    assert "interventions.blocks: no block 9 in this model" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "many", "deployment:", "deployment:noslash", "2 "])
def test_workers_that_make_no_sense_are_refused_before_anything_starts(text: str) -> None:
    with pytest.raises(UserError, match="--workers"):
        choose_workers(text, devices={"auto"}, server="http://127.0.0.1:1/api")


def test_a_deployment_needs_a_server_that_its_workers_share() -> None:
    with pytest.raises(UserError, match="needs a Prefect server"):
        choose_workers("deployment:cmrm-jobs/gpu", devices={"auto"}, server=None)


def test_devices_are_shared_out_over_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert list_devices("auto", None) == ["cuda:0", "cuda:1", "cuda:2"]
    assert list_devices("cuda", 2) == ["cuda:0", "cuda:1"]
    assert list_devices("auto", 4) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert list_devices("cuda:1", None) == ["cuda:1"]
    assert list_devices("cpu", 2) == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert list_devices("auto", None) == ["cpu"]


def test_jobs_travel_as_json_and_keep_their_keys(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    sent: list[tuple[str, Job]] = []
    do = InProcessWorkers.do

    def watch(self: InProcessWorkers, stage: Any, jobs: Any, *, advance: Any) -> Iterator[Job]:
        for job in do(self, stage, jobs, advance=advance):
            sent.append((stage.name, job))
            yield job

    monkeypatch.setattr(InProcessWorkers, "do", watch)
    run_spec(read_spec(spec).limit(12), store=str(tmp_path / "store"))
    travelled = [(stage, job) for stage, job in sent if stage in {"embed", "generate"}]
    assert {stage for stage, _ in travelled} == {"embed", "generate"}
    for stage, job in travelled:
        parcels = json.loads(json.dumps(pack_jobs([job])))
        found, (arrived,) = unpack_jobs(stage, parcels)
        assert (found.name, arrived.key, arrived) == (stage, job.key, job)

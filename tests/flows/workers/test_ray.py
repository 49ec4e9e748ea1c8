"""A real Ray cluster on this machine does a run's jobs; one of its workers is killed at work."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cmrm.errors import UserError
from flows.run import run_spec
from flows.spec.spec import read_spec
from flows.workers.base import choose_workers
from tests.attempt import start
from tests.forked import Forker
from tests.same_tables import compare_stores

pytest.importorskip("prefect_ray")
pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.skipif(
        not Path("/proc").is_dir(), reason="looks for Ray's workers among the processes of /proc"
    ),
]


def find_workers(stage: str, cluster: Path) -> list[int]:
    """Processes of Ray that are at a job of the stage; Ray writes what they do over their command line."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if line.read_bytes().startswith(f"ray::{stage}".encode()):
                environment = line.with_name("environ").read_bytes()
                if str(cluster).encode() in environment:
                    found.append(int(line.parent.name))
        except OSError:
            continue
    return found


def test_a_run_on_ray_whose_worker_was_killed_comes_to_the_same_as_a_local_one(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path], forker: Forker
) -> None:
    spec = write_spec(
        tmp_path / "data",
        llava_folder,
        conditions=["query", "image"],
        judges=["refusal"],
        target_states=["image"],
        shard_size=32,
        batch_size=1,
        # Long enough for a worker to be seen at its answers.
        generation={"max_new_tokens": 12},
    )
    with (spec.parent / "own.jsonl").open("a") as file:
        for number in range(60):
            file.write(f'{{"id": "more-{number}", "question": "count {number} squares", "image": "1.png"}}\n')
    run_spec(read_spec(spec), store=str(tmp_path / "calm"))

    # Ray's workers inherit this; nothing else on the machine has it.
    environment = {**os.environ, "CMRM_TEST": str(tmp_path)}
    environment.pop("RAY_ADDRESS", None)
    attempt = start(
        spec,
        tmp_path / "store",
        log=tmp_path / "log",
        environment=environment,
        arguments=["--workers", "ray:auto"],
        forker=forker,
    )
    # To look through all processes is dear, so it begins with the stage.
    attempt.wait_for("generate")
    end = time.monotonic() + 240
    while not (workers := find_workers("generate", tmp_path)):
        assert attempt.process.poll() is None, attempt.log.read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(workers[0], signal.SIGKILL)
    assert attempt.end() == 0, attempt.log.read_text()
    assert "Traceback" not in attempt.log.read_text()
    assert compare_stores(attempt.store, tmp_path / "calm").nothing


def test_a_cluster_that_does_not_answer_is_an_error_of_one_line() -> None:
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999", "head:port", "[::1"):
        with pytest.raises(
            UserError, match=re.escape(f"--workers ray:{address}: no Ray cluster answers there")
        ):
            choose_workers(f"ray:{address}", devices={"cpu"}, server=None)

"""The soak in short: real runs killed at random moments in every stage end in the tables of an undisturbed one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.attempt import STAGES, list_workers
from tests.forked import Forker
from tests.soak import Failure, Soak, check_kept, write_soak_spec

# Each job is shown to Prefect in each of the runs; another condition or judge is but more of the same jobs.
FEW: dict[str, Any] = {"conditions": ["query", "image"], "judges": ["refusal"]}


@pytest.fixture
def soak(llava_folder: Path, tmp_path: Path, prefect_server: str, forker: Forker) -> Soak:
    return Soak(
        spec=write_soak_spec(tmp_path / "data", llava_folder, samples=8, **FEW),
        folder=tmp_path,
        environments=[{**os.environ, "PREFECT_API_URL": prefect_server, "OMP_NUM_THREADS": "1"}],
        arguments=(),
        # Its third moment comes early in the report, before a run could end by itself.
        chance=random.Random(2),
        forker=forker,
    )


def test_runs_killed_at_random_moments_lose_nothing_and_do_nothing_twice(soak: Soak) -> None:
    soak.run_calmly()
    # Every other stage: `test_kill` goes through all of them, and `make soak` for longer.
    hits, _, difference = soak.run_round(1, STAGES[2::2])
    assert difference.nothing, str(difference)
    assert hits.total() == 3


def test_a_manifest_that_goes_or_is_made_again_is_noticed(tmp_path: Path) -> None:
    manifest = tmp_path / "manifests" / "embed" / "0.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    before = check_kept(tmp_path, {})
    assert check_kept(tmp_path, before) == before == {"embed/0.json": b"{}"}
    manifest.write_text("{ }")
    with pytest.raises(Failure, match="made twice"):
        check_kept(tmp_path, before)
    manifest.unlink()
    with pytest.raises(Failure, match="is gone"):
        check_kept(tmp_path, before)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the workers among the processes of /proc")
def test_a_runs_workers_are_its_children_other_than_the_server() -> None:
    wait = "import sys; sys.stdin.read()"
    commands = ([sys.executable, "-c", wait], [sys.executable, "-c", f"{wait} # create_app"])
    worker, server = (subprocess.Popen(command, stdin=subprocess.PIPE) for command in commands)
    try:
        found = list_workers(os.getpid())
        assert worker.pid in found
        assert server.pid not in found
    finally:
        for process in (worker, server):
            process.communicate()
    assert worker.pid not in list_workers(os.getpid())

"""A run killed in each stage with SIGKILL, then given again, ends in the same tables as an undisturbed run."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.sql.database import connect
from tests.forked import NO_SERVER, Forker
from tests.made_once import copy_prefect_home
from tests.same_tables import compare_stores
from tests.soak import check_kept

# The run itself, with a hand on the trigger: before a stage commits its second job, or in the middle of a shard; or
# where several arms are decoded at once, between two of them.
KILLED_RUN = """
import os, signal, sys
import storage.store, storage.shards.writer

when, spec, store = sys.argv[1:]
seen = {"commits": 0, "batches": 0}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

commit = storage.store.Store.commit
def commit_or_die(self, stage, *arguments, **more):
    if stage == when:
        seen["commits"] += 1
        if seen["commits"] == 2 or stage in ("shift", "direction", "report"):
            die()
    if when == "between commits of arms" and stage == "generate" and more["content"]["intervention"]:
        die()
    return commit(self, stage, *arguments, **more)
storage.store.Store.commit = commit_or_die

append = storage.shards.writer.ShardWriter.append
def append_or_die(self, rows):
    append(self, rows)
    if when == "between rows of arms" and rows["intervention"][0].as_py():
        self._submit(self._close_part)
        self._wait(0)
        die()
    if when == "within " + self.parts.folder.split("/")[1]:
        seen["batches"] += 1
        self._submit(self._close_part)
        self._wait(0)
        if seen["batches"] == 2:
            die()
storage.shards.writer.ShardWriter.append = append_or_die

from flows.cli import main
main(["run", spec, "--store", store])
"""
# Random moments of all stages are test_soak's; within a shard of so short a run only a hand on the trigger kills.
MOMENTS = ("embed", "within embed", "within generate", "report", "never")
TABLES = {
    "samples": "dataset, sample_id",
    "responses": "dataset, sample_id, condition, intervention",
    "judgements": "judge, dataset, sample_id, condition, intervention",
    "quarantine": "stage, dataset, sample_id",
}


def run_forked_until(forker: Forker, moment: str, spec: Path, store: Path) -> int:
    """Run in a process of its own, to the moment in which it kills itself; its exit status."""
    log = store.with_name(f"{store.name}.log")
    status = forker.start(KILLED_RUN, [moment, str(spec), str(store)], log=log).wait()
    assert "Traceback" not in log.read_text()
    return status


def read(store: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(store) as connection:
        return connection.sql(query).fetchall()


def test_a_run_killed_once_in_each_stage_ends_as_an_undisturbed_one(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path], forker: Forker
) -> None:
    # Two shards of targets for either data set, and two batches or more in each shard.
    spec = write_spec(tmp_path / "data", llava_folder, conditions=["query", "image"], judges=["refusal"])
    with (spec.parent / "own.jsonl").open("a") as file:
        file.write('{"id": "cut\\n{"id": "token", "question": "say </s> now", "image": "0.png"}\\n')
    for moment in MOMENTS:
        status = run_forked_until(forker, moment, spec, tmp_path / "killed")
        assert status == (0 if moment == "never" else -signal.SIGKILL), moment
    assert run_forked_until(forker, "never", spec, tmp_path / "calm") == 0

    for table, order in TABLES.items():
        rows = [read(tmp_path / store, f"FROM {table} ORDER BY {order}") for store in ("killed", "calm")]
        assert rows[0] == rows[1]
        assert rows[0]
    finished = "SELECT summary FROM runs WHERE status = 'finished'"
    assert read(tmp_path / "killed", finished) == read(tmp_path / "calm", finished)
    order = "FROM hidden_states ORDER BY dataset, sample_id, condition, block"
    names = [read(tmp_path / store, f"SELECT * EXCLUDE vector {order}") for store in ("killed", "calm")]
    assert names[0] == names[1]
    vectors = [np.array(read(tmp_path / store, f"SELECT vector {order}")) for store in ("killed", "calm")]
    # Another batch is another order of summation, so the last bit of a float16 may differ.
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=2e-3, atol=1e-3)
    # What was half written stays under a name that nobody reads, until `cmrm store gc` takes it away.
    left = [path.name for path in (tmp_path / "killed" / "parts").rglob("*") if path.is_file()]
    assert all(name.startswith(".") for name in left)


def test_a_run_killed_between_arms_of_a_job_group_loses_nothing_and_repeats_nothing(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path], forker: Forker
) -> None:
    strengths = [
        {"name": "CMRM", "alpha": [0.5, 1.0]},
        {"name": "own", "level": "sample", "alpha": [0.5, 1.0]},
    ]
    few = {"conditions": ["image"], "target_states": [], "shard_size": 64, "judges": ["refusal"]}
    spec = write_spec(tmp_path / "data", llava_folder, **few, interventions=strengths)
    assert run_forked_until(forker, "never", spec, tmp_path / "calm") == 0
    kept: dict[str, bytes] = {}
    for moment in ("between rows of arms", "between commits of arms", "never"):
        status = run_forked_until(forker, moment, spec, tmp_path / "killed")
        assert status == (0 if moment == "never" else -signal.SIGKILL), moment
        kept = check_kept(tmp_path / "killed", kept)
        parts = tmp_path / "killed" / "parts" / "generate"
        # One arm's rows are written and another's are not; then one arm is committed and the others are not.
        if moment == "between rows of arms":
            assert not any(name.startswith("generate/") for name in kept)
            assert len(list(parts.glob("*/[!.]*.parquet"))) == 1
        if moment == "between commits of arms":
            assert sum(name.startswith("generate/") for name in kept) == 1
    difference = compare_stores(tmp_path / "killed", tmp_path / "calm")
    assert difference.nothing, str(difference)


def test_a_run_of_several_kinds_of_defences_loses_nothing_and_repeats_nothing_when_killed(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path], forker: Forker
) -> None:
    defences = [
        {"name": "ablate", "kind": "project"},
        {"name": "ask", "kind": "prompt", "template": "be careful. {question}"},
        {"name": "mix", "kind": "coca", "principle": "be careful. {question}", "alpha": 0.5},
        {"name": "turn", "kind": "random", "seed": 1},
        {"name": "own", "level": "sample", "alpha": 0.5},
        {"name": "both", "kind": "stack", "of": ["own", "ask"]},
    ]
    few = {"conditions": ["image"], "target_states": [], "shard_size": 64, "judges": ["refusal"]}
    spec = write_spec(tmp_path / "data", llava_folder, **few, batch_size=1, interventions=defences)
    assert run_forked_until(forker, "never", spec, tmp_path / "calm") == 0
    kept: dict[str, bytes] = {}
    for moment in ("direction", "between rows of arms", "never"):
        status = run_forked_until(forker, moment, spec, tmp_path / "killed")
        assert status == (0 if moment == "never" else -signal.SIGKILL), moment
        # What is committed is never made again.
        kept = check_kept(tmp_path / "killed", kept)
        made = Counter(name.split("/")[0] for name in kept)
        assert (made["direction"] == 0) == (moment == "direction")
        assert (made["generate"] == 0) == (moment != "never")
    difference = compare_stores(tmp_path / "killed", tmp_path / "calm")
    assert difference.nothing, str(difference)
    arms = "SELECT DISTINCT intervention FROM responses ORDER BY ALL"
    assert [name for (name,) in read(tmp_path / "killed", arms)] == [
        "",
        "ablate",
        "ask",
        "both",
        "mix",
        "own",
        "turn",
    ]


def mentions(path: Path, text: str) -> bool:
    try:
        return text.encode() in path.read_bytes()
    except OSError:
        return False  # another user's process, or one that has just ended


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the server among the processes of /proc")
def test_a_killed_run_leaves_no_server_behind(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path], forker: Forker
) -> None:
    home, log = copy_prefect_home(tmp_path / "home"), tmp_path / "log"
    arguments = ["ingest", str(write_spec(tmp_path / "data", llava_folder)), str(tmp_path / "store")]
    run = forker.start(NO_SERVER + KILLED_RUN, arguments, log=log, environment={"PREFECT_HOME": str(home)})
    assert run.wait() == -signal.SIGKILL, log.read_text()
    assert "Traceback" not in log.read_text()

    def still_there() -> list[str]:
        return [
            path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if mentions(path, str(tmp_path))
        ]

    end = time.monotonic() + 60
    while still_there() and time.monotonic() < end:
        time.sleep(0.2)
    assert not still_there()

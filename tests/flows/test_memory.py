"""Real shortage of memory: what does not fit at once is done in smaller batches, with the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tasks.overhead
from cmrm.errors import UserError
from storage.sql.database import connect
from tests.flows.shared_runs import run_plainly

ROOT = Path(__file__).parents[2]
# Enough for a few of the long questions at once, and not for eight or nine.
HEADROOM_MIB = 60

# Extracts states and answers twice: with all memory, then with so many MiB of headroom for a forward pass.
# Only the model is short of memory, as on a GPU; the threads of the store and of Python are not.
SHORT_OF_MEMORY = """
import json, logging, re, resource, sys
from pathlib import Path
import torch
import tasks.core.models
from flows.plan.plan import make_plan
from flows.spec.spec import read_spec
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.states.extract import extract_states
from tasks.generate.stage import generate_answers
from tasks.data.ingest import ingest

spec, headroom = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)

said = []
log = logging.getLogger("cmrm.tasks")
log.setLevel(logging.WARNING)
log.addFilter(lambda record: said.append(record.getMessage()) or True)

def limit(*_):
    used = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + (headroom << 20), -1))

def lift(*_):
    resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))

def do(stage, job):
    return [Manifest.from_json(made.encode()) for made in stage.do(job)["manifests"]]

def run(store):
    Store.create(store)
    plan = make_plan(read_spec(spec), store=Store.open(store))
    samples = {job.dataset: do(ingest, job)[0] for job in plan.ingest_jobs({})}
    (model,) = plan.by_model()
    made = [one for job in model.embed_jobs(samples) for one in do(extract_states, job)]
    (ways,) = generate_answers.join(model.generate_jobs(samples, model.steer({}, {})))
    made += do(generate_answers, ways)
    print(json.dumps([one.provenance["smallest_batch_size"] for one in made]))
    return plan

def compare(folder):
    # The run short of memory goes first: free heap left by the other would give it more.
    plan = make_plan(read_spec(spec), store=Store.open(folder / "short"))
    vlm = tasks.core.models.load_model_once(plan.models[0])
    handles = [
        vlm.decoder.register_forward_pre_hook(limit),
        vlm.decoder.register_forward_hook(lift, always_call=True),
    ]
    run(folder / "short")
    for handle in handles:
        handle.remove()
    run(folder / "calm")

compare(spec.parent.parent)
print(json.dumps(said))
"""


def read(store: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(store) as connection:
        return connection.sql(query).fetchall()


@pytest.mark.skipif(sys.platform != "linux", reason="reads how much memory is in use from /proc")
def test_under_a_hard_limit_large_batches_fail_and_smaller_ones_give_the_same_rows(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    spec = write_spec(
        tmp_path / "data",
        llava_folder,
        datasets={"own": {"format": "jsonl", "path": "own.jsonl", "images": "images"}},
        anchors={"from": {}},
        conditions=["image"],
        target_states=["image"],
        interventions=[{"name": "own", "level": "sample", "alpha": 0.5}],
        # Answers are begun by quarters of it.
        batch_size=32,
        shard_size=64,
    )
    # Attention written out, each of 800 tokens to each, takes the memory: 4 heads, 10 MB a sample and copy.
    spec.write_text(
        spec.read_text().replace("dtype: float32", "dtype: float32\n  attn_implementation: eager")
    )
    rows = [
        {"id": n, "question": f"{n} " + "what colour is it? " * 40, "image": f"{n % 4}.png"} for n in range(9)
    ]
    (spec.parent / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(spec), str(HEADROOM_MIB)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    short, calm, said = map(json.loads, done.stdout.splitlines())
    assert calm == [32, 32, 32]
    assert all(size in (1, 2, 4) for size in short)
    # The states, and the answers in both arms at once.
    assert sum("out of memory on a batch of 9; going on with batches of 4" in line for line in said) == 2
    order = "FROM responses ORDER BY sample_id, intervention"
    assert read(tmp_path / "short", order) == read(tmp_path / "calm", order)
    order = "FROM hidden_states ORDER BY sample_id, block"
    names = [read(tmp_path / store, f"SELECT * EXCLUDE vector {order}") for store in ("short", "calm")]
    assert names[0] == names[1]
    vectors = [np.array(read(tmp_path / store, f"SELECT vector {order}")) for store in ("short", "calm")]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=2e-3, atol=1e-3)


def raise_error(error: Exception) -> Any:
    raise error


def test_a_timing_that_runs_out_of_memory_is_repeated_on_smaller_batches_for_all_arms(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    time_answers = tasks.overhead._answer

    def lack_memory(job: Any, vlm: Any, shown: Any, arm: Any, prefixes: Any) -> Any:
        # Steered answers need more; the plain ones of the same batch were timed before.
        if len(shown.prompts) > 1 and arm is not None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return time_answers(job, vlm, shown, arm, prefixes)

    monkeypatch.setattr(tasks.overhead, "_answer", lack_memory)
    timed = {"samples": 4, "repeats": 1, "batch_size": 4}
    data = {"own": {"format": "jsonl", "path": "own.jsonl", "images": "images"}}
    spec = write_spec(
        tmp_path / "data",
        llava_folder,
        datasets=data,
        anchors={"from": {"own": 0.4}},
        conditions=["query", "image"],
        target_states=[],
        interventions=[{"name": "CMRM", "alpha": 1.0}],
        overhead=timed,
    )
    run_plainly(spec, tmp_path / "store")
    counts = read(
        tmp_path / "store",
        "SELECT intervention, count(*), count(DISTINCT batch), max(samples) FROM timings GROUP BY ALL ORDER BY ALL",
    )
    assert counts == [("", 4, 4, 1), ("CMRM", 4, 4, 1)]
    monkeypatch.setattr(
        tasks.overhead, "_answer", lambda *_: raise_error(torch.OutOfMemoryError("CUDA out of memory."))
    )
    with pytest.raises(UserError, match=r"overhead .*out of memory on a single sample"):
        run_plainly(spec, tmp_path / "other")

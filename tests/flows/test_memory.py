"""Real shortage of memory: what does not fit at once is done in smaller batches, with the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cmrm.generation
from cmrm.errors import UserError
from storage.catalog import connect
from tests.flows.shared_runs import run_plainly

ROOT = Path(__file__).parents[2]
# Enough for a few of the long questions at once, and not for eight or nine.
ROOM_MIB = 60

# Embeds and answers twice: with all memory, then with so many MiB for a forward pass beyond what is in use before it.
# Only the model is short of memory, as on a GPU; the threads of the store and of Python are not.
SHORT_OF_MEMORY = """
import json, logging, re, resource, sys
from pathlib import Path
import torch
import tasks.models
from flows.plan import make_plan
from flows.spec import read_spec
from storage.manifest import Manifest
from storage.store import Store
from tasks.embed import embed_anchors
from tasks.generate import generate_answers
from tasks.ingest import ingest

spec, room = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)

said = []
log = logging.getLogger("cmrm.tasks")
log.setLevel(logging.WARNING)
log.addFilter(lambda record: said.append(record.getMessage()) or True)

def limit(*_):
    used = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + (room << 20), -1))

def lift(*_):
    resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))

def do(stage, job):
    return [Manifest.from_json(made.encode()) for made in stage.do(job)["manifests"]]

def run(store):
    Store.create(store)
    plan = make_plan(read_spec(spec), store=str(store))
    samples = {job.dataset: do(ingest, job)[0] for job in plan.ingest_jobs({})}
    (model,) = plan.by_model()
    made = [one for job in model.embed_jobs(samples) for one in do(embed_anchors, job)]
    (ways,) = generate_answers.join(model.generate_jobs(samples, model.steer({})))
    made += do(generate_answers, ways)
    print(json.dumps([one.provenance["smallest_batch_size"] for one in made]))
    return plan

def compare(folder):
    # What the calm run left free in the heap would be room for the short one, so the short one goes first.
    plan = make_plan(read_spec(spec), store=str(folder / "short"))
    vlm = tasks.models.load_model_once(plan.models[0])
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
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(spec), str(ROOM_MIB)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    short, calm, said = map(json.loads, done.stdout.splitlines())
    assert calm == [32, 32, 32]
    assert all(size in (1, 2, 4) for size in short)
    # The states, and the answers in both ways at once.
    assert sum("out of memory on a batch of 9; going on with batches of 4" in line for line in said) == 2
    order = "FROM responses ORDER BY sample_id, intervention"
    assert read(tmp_path / "short", order) == read(tmp_path / "calm", order)
    order = "FROM hidden_states ORDER BY sample_id, block"
    names = [read(tmp_path / store, f"SELECT * EXCLUDE vector {order}") for store in ("short", "calm")]
    assert names[0] == names[1]
    vectors = [np.array(read(tmp_path / store, f"SELECT vector {order}")) for store in ("short", "calm")]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=2e-3, atol=1e-3)


def test_a_timing_that_does_not_fit_is_made_anew_on_smaller_batches_for_all_ways(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = cmrm.generation.generate

    def lack_memory(vlm: Any, prompts: Sequence[Any], **more: Any) -> Any:
        # Steered answers need more; the plain ones of the same batch were timed before.
        if len(prompts) > 1 and more["intervention"] is not None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(vlm, prompts, **more)

    monkeypatch.setattr(cmrm.generation, "generate", lack_memory)
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
        cmrm.generation, "generate", lambda *_, **__: lack_memory(None, "ab", intervention="")
    )
    with pytest.raises(UserError, match=r"overhead .*out of memory on a single sample"):
        run_plainly(spec, tmp_path / "other")

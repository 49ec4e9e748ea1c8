"""What the manifest of a job's answers says of its steering."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmrm.answers import Answer
from cmrm.conditions import make_meaningless
from cmrm.faults import Fault
from cmrm.revision import ModelIdentity
from cmrm.samples import Sample
from storage.store import Store
from tasks.generate_job import GenerateJob
from tasks.models import ModelUse
from tasks.prompts import Showing
from tasks.samples import Shard, Slice, StoredSample
from tasks.steering import Steering
from tasks.way import Way


def make_job(store: Store, rows: int) -> GenerateJob:
    identity = ModelIdentity(id="m", revision="1" * 40, folder=Path("m"), model_type="llava")
    shard = Shard(dataset="own", ingest="0" * 64, split="target", start=0, stop=rows)
    return GenerateJob(
        store=store.url,
        label="own",
        rows=rows,
        slice=Slice(shard=shard, condition="image", rows=rows, digest="d"),
        model=ModelUse(
            identity=identity,
            label=None,
            dtype="bfloat16",
            device="cpu",
            attn_implementation="sdpa",
            system=None,
        ),
        showing=Showing(
            images=None, meaningless=make_meaningless(size=8, color=(255, 255, 255), seed=0), system=None
        ),
        steering=Steering(
            name="CMRM",
            level="sample",
            image="blank",
            method="mean",
            alpha=1e-4,
            blocks="all",
            scope="every_step",
            composition="incremental",
            shift=None,
        ),
        max_new_tokens=4,
        batch_size=None,
    )


def test_the_manifest_says_how_far_states_were_to_be_moved_and_were(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    samples = [
        StoredSample(
            sample=Sample(id=str(number), dataset="own", question="why?", harmful=True),
            split="target",
            image_digest=None,
        )
        for number in range(4)
    ]
    fine = Answer(text="so", tokens=2, finish_reason="stop")
    broken = Answer(text="", tokens=0, finish_reason="length", fault=Fault(step=0, block=1))
    with Way(make_job(store, len(samples)), store) as way:
        way.take(samples[0], fine, acted={1: 2}, asked={1: 0.5}, moved={1: 0.25})
        way.take(samples[1], fine, acted={1: 2}, asked={1: 0.25}, moved={1: 0.0})
        way.take(samples[2], fine, acted={1: 2}, asked={1: 0.0}, moved={1: 0.0})
        # What is not finite is no distance, and no manifest could hold it.
        way.take(samples[3], broken, acted={1: 1}, asked={1: float("inf")}, moved={1: float("nan")})
        manifest = way.commit(samples, {})
    assert manifest.provenance["steered_states_since_resumed"] == {"1": 7}
    assert manifest.provenance["steered_distances_since_resumed"] == {
        "1": {
            "asked": pytest.approx(0.25),
            "moved": pytest.approx(0.25 / 3),
            "prompts": 3,
            "without_effect": 1,
        }
    }

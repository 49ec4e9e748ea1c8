"""The manifest of a job's answers records how far its steering moved states."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmrm.decoding.nonfinite import Fault
from cmrm.decoding.requests import Answer
from cmrm.models.revision import ModelIdentity
from cmrm.prompts.conditions import make_meaningless
from cmrm.prompts.sample import Sample
from cmrm.steering.proof import SteeringProof
from storage.store import Store
from tasks.core.models import ModelUse
from tasks.generate.answer_writer import AnswerWriter
from tasks.generate.job import GenerateJob
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import Shard, Slice, StoredSample
from tasks.states.steering import Steering


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
            image_backend="pillow 13.0.0",
        ),
        showing=PromptBuilder(
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


def test_the_manifest_records_requested_and_actual_distances(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    samples = [
        StoredSample(
            sample=Sample(id=str(number), dataset="own", question="why?", harmful=True),
            split="target",
            image_digest=None,
        )
        for number in range(4)
    ]
    fine = Answer(text="so", tokens=2, finish_reason="stop", prompt_tokens=5)
    broken = Answer(text="", tokens=0, finish_reason="length", prompt_tokens=5, fault=Fault(step=0, block=1))
    with AnswerWriter(make_job(store, len(samples)), store) as arm:
        arm.take(samples[0], fine, proof=SteeringProof(acted={1: 2}, asked={1: 0.5}, distance={1: 0.25}))
        arm.take(samples[1], fine, proof=SteeringProof(acted={1: 2}, asked={1: 0.25}, distance={1: 0.0}))
        arm.take(samples[2], fine, proof=SteeringProof(acted={1: 2}, asked={1: 0.0}, distance={1: 0.0}))
        # What is not finite is no distance, and no manifest could hold it.
        arm.take(
            samples[3],
            broken,
            proof=SteeringProof(acted={1: 1}, asked={1: float("inf")}, distance={1: float("nan")}),
        )
        manifest = arm.commit(samples, {})
    assert manifest.provenance["steered_states_since_resumed"] == {"1": 7}
    assert manifest.provenance["steered_distances_since_resumed"] == {
        "1": {
            "asked": pytest.approx(0.25),
            "moved": pytest.approx(0.25 / 3),
            "prompts": 3,
            "without_effect": 1,
        }
    }

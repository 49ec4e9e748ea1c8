"""States still in transfer from the device while it computes the next batch: none is lost or read twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmrm.decoding import positions, scheduler
from cmrm.decoding.scheduler import Arriving
from flows.plan.plan import make_plan
from flows.spec.spec import read_spec
from storage.records.manifest import Manifest
from storage.shards.hidden_states import read_hidden_states
from storage.shards.rows import read_rows
from storage.store import Store
from tasks.core.stage import Job, Stage
from tasks.data.ingest import ingest
from tasks.states.extract import EmbedJob, extract_states


@dataclass(kw_only=True)
class Event:
    """A copy that is there once it was waited for."""

    seen: list[str]
    done: bool = field(default=False)

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.done = True
        self.seen.append("waited")


@pytest.fixture
def job(llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path]) -> EmbedJob:
    """Ten samples with their images, in batches of three."""
    spec = write_spec(
        tmp_path / "data",
        llava_folder,
        datasets={"own": {"format": "jsonl", "path": "own.jsonl", "images": "images"}},
        anchors={"from": {}},
        conditions=["image"],
        target_states=["image"],
        interventions=[],
        batch_size=3,
        shard_size=64,
    )
    plan = make_plan(read_spec(spec), store=Store.create(tmp_path / "store"))
    samples = {one.dataset: do(ingest, one) for one in plan.ingest_jobs({})}
    (model,) = plan.by_model()
    (found,) = model.embed_jobs(samples)
    return found


def do(stage: Stage[Any], job: Job) -> Manifest:
    (made,) = stage.do(job)["manifests"]
    return Manifest.from_json(made.encode())


def embed_all(job: EmbedJob) -> tuple[list[str], np.ndarray]:
    store = Store.open(job.store)
    states = read_hidden_states(read_rows(store, do(extract_states, job), "hidden_states"))
    order = np.argsort(states.sample_ids)
    return sorted(states.sample_ids), states.vectors[order]


def let_states_be_late(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let no copy be there before it was waited for; what happens, in order."""
    seen: list[str] = []
    embed = positions.embed

    def read(*arguments: Any, **more: Any) -> torch.Tensor:
        seen.append("read")
        return embed(*arguments, **more)

    def send(tensor: torch.Tensor) -> Arriving:
        return Arriving(host=tensor, event=Event(seen=seen))  # type: ignore[arg-type] # stands for a device's

    monkeypatch.setattr(positions, "embed", read)
    monkeypatch.setattr(scheduler, "send_to_host", send)
    return seen


def test_the_device_has_the_next_batch_before_the_last_ones_states_are_waited_for(
    job: EmbedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = embed_all(job)
    (Path(job.store) / "manifests" / "embed" / f"{job.key}.json").unlink()
    seen = let_states_be_late(monkeypatch)
    late = embed_all(job)
    assert seen == ["read", "read", "waited", "read", "waited", "read", "waited", "waited"]
    assert late[0] == at_once[0]
    assert len(late[0]) == 10
    np.testing.assert_array_equal(late[1], at_once[1])


def test_states_in_transfer_when_the_next_batch_runs_out_of_memory_are_kept(
    job: EmbedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_states_be_late(monkeypatch)
    embed, asked = positions.embed, []

    def lack_memory(vlm: Any, prompts: list[Any], **more: Any) -> torch.Tensor:
        asked.append(len(prompts))
        if len(asked) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return embed(vlm, prompts, **more)

    monkeypatch.setattr(positions, "embed", lack_memory)
    assert len(embed_all(job)[0]) == 10
    # The third batch is halved; the two before it are not read again.
    assert asked == [3, 3, 3, 1, 1, 1, 1]

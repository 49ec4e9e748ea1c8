"""Measure labelled directions per block from the anchors' hidden states: harmful − harmless, into safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.errors import UserError
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.shards.hidden_states import list_blocks, read_block
from storage.shards.rows import find_files, need_manifest
from storage.store import Store
from tasks.core.commit import NO_ROWS, commit_files
from tasks.core.models import ModelUse
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import StageName
from tasks.shards.samples import Shard


@dataclass(frozen=True, kw_only=True)
class LabelledStates:
    """The key of a shard's hidden states, the shard, and the digest of its samples' labels."""

    states: str
    shard: Shard
    labels: str


@dataclass(frozen=True, kw_only=True)
class DirectionJob(Job):
    """The labelled direction of one model under one condition."""

    model: ModelUse
    condition: str
    shards: tuple[LabelledStates, ...]

    @property
    def stage(self) -> StageName:
        return StageName.DIRECTION

    def content(self) -> dict[str, Any]:
        return {
            "shards": [[one.states, one.labels] for one in self.shards],
            "direction": "harmful_minus_harmless",
            "condition": self.condition,
        }


def digest_labels(store: Store, shard: Shard) -> str:
    """The digest of the labels of a shard's samples."""
    return digest({stored.sample.id: stored.sample.harmful for stored in shard.read_all(store)})


def _measure(job: DirectionJob, store: Store) -> Manifest:
    from cmrm.steering.direction import join_directions, serialize_direction

    labels = {
        one.states: {stored.sample.id: stored.sample.harmful for stored in one.shard.read_all(store)}
        for one in job.shards
    }
    paths = {
        key: tuple(find_files(store, need_manifest(store, StageName.EXTRACT_STATES, key), "hidden_states"))
        for key in labels
    }
    blocks = sorted({block for files in paths.values() for block in list_blocks(files)})
    if not blocks:
        raise UserError(
            f"anchors: no anchor has hidden states under {job.condition}, so there is no labelled direction. "
            f'Reasons: cmrm sql --store {store.url} "FROM quarantine"'
        )
    # One block at a time: the principal directions need a matrix as wide as the model for each block.
    found = join_directions([_measure_block(job, block, paths, labels) for block in blocks])
    path = f"directions/{job.key}.safetensors"
    return commit_files(
        job,
        store,
        {path: serialize_direction(found)},
        rows=NO_ROWS,
        counts={path: len(found.blocks)},
        provenance={"model": job.model.name, "condition": job.condition},
    )


def _measure_block(
    job: DirectionJob,
    block: int,
    paths: Mapping[str, Sequence[Any]],
    labels: Mapping[str, Mapping[str, bool]],
) -> Any:
    import torch

    from cmrm.steering.direction import DirectionEstimator

    estimator: DirectionEstimator | None = None
    for key, files in paths.items():
        states = read_block(files, block)
        if not states.sample_ids:
            continue
        if estimator is None:
            estimator = DirectionEstimator(blocks=[block], hidden_size=states.vectors.shape[2])
        estimator.add(
            torch.from_numpy(states.vectors),
            harmful=[labels[key][sample] for sample in states.sample_ids],
        )
    assert estimator is not None  # the block was found in one of the files
    return estimator.finish(
        model=job.model.name,
        fingerprint=job.model.identity.fingerprint,
        condition=job.condition,
        anchors=job.key,
    )


measure_direction = make_stage(StageName.DIRECTION, _measure, place="processor")

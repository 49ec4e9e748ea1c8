"""Shift: Δ per block from the anchors' states, streamed from Parquet, into a safetensors file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cmrm.errors import UserError
from storage.manifest import Manifest
from storage.rows import find_files, need_manifest
from storage.states import HiddenStates, list_blocks, read_block
from storage.store import Store
from tasks.commit import NO_ROWS, commit_files
from tasks.models import ModelUse
from tasks.quarantine import explain_quarantine
from tasks.stage import Job, make_stage

if TYPE_CHECKING:
    from cmrm.shift import Shift


@dataclass(frozen=True, kw_only=True)
class ShiftJob(Job):
    """Δ for one meaningless image: pairs of embed keys, each the same slice with the image and without."""

    model: ModelUse
    image: str
    method: str
    pairs: tuple[tuple[str, str], ...]

    @property
    def stage(self) -> str:
        return "shift"

    def content(self) -> dict[str, Any]:
        return {
            "pairs": [list(pair) for pair in self.pairs],
            "direction": "image_minus_text",
            "method": self.method,
        }


def _measure(job: ShiftJob, store: Store) -> Manifest:
    from cmrm.shift import join_blocks, serialize_shift

    # A block at a time: the principal direction keeps a matrix as wide as the model for each block it works on.
    shifts = [_measure_block(job, pairs) for pairs in _read_blocks(job, store)]
    if not shifts:
        embedded = [need_manifest(store, "embed", key) for key in dict.fromkeys(chain(*job.pairs))]
        reason = explain_quarantine(store, embedded) or "no anchor was given"
        raise UserError(
            f"anchors: no anchor was embedded both with {job.image} and without, so there is no Δ. "
            f'{reason.rstrip(".")}. All reasons: cmrm sql --store {store.url} "FROM quarantine"'
        )
    shift = join_blocks(shifts)
    return commit_files(
        job,
        store,
        {f"shifts/{job.key}.safetensors": serialize_shift(shift)},
        rows=NO_ROWS,
        counts={f"shifts/{job.key}.safetensors": len(shift.blocks)},
        provenance={
            "count": shift.count,
            "model": job.model.name,
            "image": job.image,
            "method": job.method,
        },
    )


def _measure_block(job: ShiftJob, pairs: Sequence[Pair]) -> Shift:
    import torch

    from cmrm.shift import make_estimator

    first = pairs[0].with_image
    estimator = make_estimator(
        job.method,  # type: ignore[arg-type] # the spec has checked the word
        blocks=first.blocks,
        hidden_size=first.vectors.shape[2],
    )
    for pair in pairs:
        estimator.add(*(torch.from_numpy(one) for one in pair.match()))
    return estimator.finish(
        model=job.model.name,
        fingerprint=job.model.identity.fingerprint,
        image=job.image,
        method=job.method,
        anchors=job.key,
    )


class Pair(NamedTuple):
    """One shard's states at one block, with a meaningless image and without."""

    with_image: HiddenStates
    text_only: HiddenStates

    def match(self) -> tuple[np.ndarray, np.ndarray]:
        """The states of the samples that both arms have, in one order: two arrays [n, 1, hidden]."""
        # A row that one arm set aside has no pair.
        common = sorted(set(self.with_image.sample_ids) & set(self.text_only.sample_ids))
        return self.with_image.choose(common), self.text_only.choose(common)


def _read_blocks(job: ShiftJob, store: Store) -> Iterator[list[Pair]]:
    """Block by block, the pairs of all shards that have any; the same shards at each."""
    files = [tuple(_find_states(store, key) for key in keys) for keys in job.pairs]
    # A shard whose every row was set aside has no block at all.
    blocks = {arms: set.intersection(*(set(list_blocks(arm)) for arm in arms)) for arms in files}
    for block in sorted(set().union(*blocks.values())):
        whole = [arms for arms in files if block in blocks[arms]]
        pairs = [Pair(*(read_block(arm, block) for arm in arms)) for arms in whole]
        if matched := [pair for pair in pairs if set(pair[0].sample_ids) & set(pair[1].sample_ids)]:
            yield matched


def _find_states(store: Store, key: str) -> tuple[Path, ...]:
    return tuple(find_files(store, need_manifest(store, "embed", key), "hidden_states"))


measure_shift = make_stage("shift", _measure, place="processor")

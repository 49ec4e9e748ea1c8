"""Measure Δ, or a part of it, per block from the anchors' hidden states, streamed from Parquet, into safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cmrm.errors import UserError
from storage.records.manifest import Manifest
from storage.shards.hidden_states import HiddenStates, list_blocks, read_block
from storage.shards.rows import find_files, need_manifest
from storage.store import Store
from tasks.core.commit import NO_ROWS, commit_files
from tasks.core.models import ModelUse
from tasks.core.quarantine import explain_quarantine
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import StageName
from tasks.shards.stimuli import STIMULI, VIEW

if TYPE_CHECKING:
    from cmrm.steering.shift import Shift


class ShiftName(NamedTuple):
    """Which Δ of a model: its meaningless image, its method, and whether all of it or a part."""

    image: str
    method: str
    part: str = "all"


@dataclass(frozen=True, kw_only=True)
class ShiftJob(Job):
    """Δ for one meaningless image: pairs of keys of hidden states, of the image prompts and of the text prompts.

    For a `part` of Δ they are those of its two conditions, and two more follow: an anchor counts if it has the states
    of all four, so that the parts add up.
    """

    model: ModelUse
    image: str
    method: str
    part: str = "all"
    pairs: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> ShiftName:
        """Which Δ it is."""
        return ShiftName(self.image, self.method, self.part)

    @property
    def stage(self) -> StageName:
        return StageName.SHIFT

    def content(self) -> dict[str, Any]:
        return {
            "pairs": [list(pair) for pair in self.pairs],
            "direction": "image_minus_text",
            "method": self.method,
            # Those of all of Δ keep the keys that they had before there were parts.
            **({} if self.part == "all" else {"part": self.part}),
        }


def _measure(job: ShiftJob, store: Store) -> Manifest:
    from cmrm.steering.shift import join_blocks, serialize_shift

    shown = _find_stimulus(job, store)
    # One block at a time: the principal direction needs a matrix as wide as the model for each block.
    shifts = [_measure_block(job, pairs, shown) for pairs in _read_blocks(job, store)]
    if not shifts:
        extracted = [
            need_manifest(store, StageName.EXTRACT_STATES, key) for key in dict.fromkeys(chain(*job.pairs))
        ]
        reason = explain_quarantine(store, extracted) or "no anchor was given"
        raise UserError(
            f"anchors: no anchor has hidden states both with {job.image} and without, so there is no Δ. "
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
            **({STIMULI: {job.image: shown}} if shown else {}),
            **_describe_part(job),
        },
    )


def _find_stimulus(job: ShiftJob, store: Store) -> Mapping[str, Any]:
    """Find what the vision tower saw of the image, in figures; empty if an earlier release extracted the states."""
    manifests = (need_manifest(store, StageName.EXTRACT_STATES, with_image) for with_image, *_ in job.pairs)
    found = (one.provenance.get(STIMULI, {}).get(job.image) for one in manifests)
    seen: Mapping[str, Any] = next((one for one in found if one), {})
    return {name: value for name, value in seen.items() if name != VIEW}


def _describe_part(job: ShiftJob) -> dict[str, str]:
    return {} if job.part == "all" else {"part": job.part}


def _measure_block(job: ShiftJob, pairs: Sequence[Pair], shown: Mapping[str, Any]) -> Shift:
    import torch

    from cmrm.steering.shift import make_estimator, write_stimulus

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
        **write_stimulus(shown),
        **_describe_part(job),
    )


class Pair(NamedTuple):
    """One shard's states at one block, of the image prompt and of the text prompt, and those that others need."""

    with_image: HiddenStates
    text_only: HiddenStates
    others: tuple[HiddenStates, ...] = ()

    @property
    def common(self) -> list[str]:
        """The samples that all prompts have; one that is quarantined under any has no pair."""
        ids = (set(one.sample_ids) for one in (self.with_image, self.text_only, *self.others))
        return sorted(set.intersection(*ids))

    def match(self) -> tuple[np.ndarray, np.ndarray]:
        """The states of the samples that all prompts have, in one order: two arrays [n, 1, hidden]."""
        return self.with_image.choose(self.common), self.text_only.choose(self.common)


def _read_blocks(job: ShiftJob, store: Store) -> Iterator[list[Pair]]:
    """The pairs of all shards that have any, block by block; the same shards at each."""
    files = [tuple(find_states(store, key) for key in keys) for keys in job.pairs]
    # A shard whose every row was quarantined has no block at all.
    blocks = {pair: set.intersection(*(set(list_blocks(paths)) for paths in pair)) for pair in files}
    for block in sorted(set().union(*blocks.values())):
        complete = [pair for pair in files if block in blocks[pair]]
        pairs = [_pair([read_block(paths, block) for paths in pair]) for pair in complete]
        if matched := [pair for pair in pairs if pair.common]:
            yield matched


def _pair(states: Sequence[HiddenStates]) -> Pair:
    with_image, text_only, *others = states
    return Pair(with_image, text_only, tuple(others))


def find_states(store: Store, key: str) -> tuple[Path, ...]:
    """Find the files of hidden states that an extract job has committed."""
    return tuple(find_files(store, need_manifest(store, StageName.EXTRACT_STATES, key), "hidden_states"))


measure_shift = make_stage(StageName.SHIFT, _measure, place="processor")

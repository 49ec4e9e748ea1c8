"""Plan of directions and probes: which states of one model each job compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cmrm.prompts.conditions import CONTROLS, MEANINGLESS
from flows.spec.spec import Spec
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.models import ModelUse
from tasks.shards.samples import Shard
from tasks.states.direction import LabelledStates
from tasks.states.extract import EmbedJob
from tasks.states.labelled_samples import digest_splits
from tasks.states.probe import AnchorStates, ArmStates, ProbeJob, list_needed

States = Sequence[tuple[EmbedJob, Manifest]]


def make_probe_jobs(spec: Spec, model: ModelUse, store: Store, states: States) -> list[ProbeJob]:
    """Make one job for each condition of `directions`, from the states that a run has extracted from the model.

    The direction is compared with the Δ of each meaningless image whose states of anchors there are for a Δ, its parts,
    or a direction.
    """
    asked = [*(one.image for one in spec.shifts()), *spec.taken_apart(), *spec.directions]
    images = [image for image in dict.fromkeys(asked) if image in MEANINGLESS and image not in CONTROLS]
    apart = spec.taken_apart()
    jobs = []
    for condition in spec.directions:
        needed = list_needed(condition, images, apart=apart)
        anchors = _list_anchors(store, states, needed)
        jobs.append(
            ProbeJob(
                store=store.url,
                label=f"harmful − harmless under {condition}",
                rows=len(anchors),
                model=model,
                condition=condition,
                # Sorted, so that the order of the data sets in the spec does not change the key.
                anchors=tuple(sorted(anchors, key=lambda one: sorted(one.states.items()))),
                arms=tuple(_list_arms(store, states, condition)),
                images=tuple(images),
                apart=tuple(apart),
            )
        )
    return jobs


def _list_anchors(store: Store, states: States, needed: Sequence[str]) -> list[AnchorStates]:
    keys: dict[Shard, dict[str, str]] = {}
    for job, made in states:
        if job.slice.shard.split == "anchor" and job.slice.condition in needed:
            # The same samples, whether or not captions were generated for them.
            shard = replace(job.slice.shard, captions=None)
            keys.setdefault(shard, {})[job.slice.condition] = made.key
    return [
        AnchorStates(states=found, shard=shard, labels=digest_splits(store, shard))
        for shard, found in keys.items()
    ]


def _list_arms(store: Store, states: States, condition: str) -> list[ArmStates]:
    """The targets' states under a condition by arm, plain ones first."""
    found: dict[tuple[str, float | None], list[LabelledStates]] = {}
    for job, made in states:
        if job.slice.shard.split == "target" and job.slice.condition == condition:
            use = job.steering
            arm = ("", None) if use is None else (use.name, use.alpha)
            labelled = LabelledStates(
                states=made.key, shard=job.slice.shard, labels=digest_splits(store, job.slice.shard)
            )
            found.setdefault(arm, []).append(labelled)
    return [
        ArmStates(intervention=name, alpha=alpha, shards=tuple(sorted(shards, key=lambda one: one.states)))
        for (name, alpha), shards in found.items()
    ]

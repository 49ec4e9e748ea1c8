"""Measure labelled directions and probes under one condition at every block, plain and steered, into Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from cmrm.errors import UserError
from cmrm.statistics.auroc import Auroc, measure_auroc
from cmrm.statistics.labelled_directions import (
    Axis,
    Draws,
    Floats,
    find_axis,
    measure_cosine,
    measure_length,
    measure_places,
)
from cmrm.statistics.probe import FOLDS, cross_validate, draw_rows, fit_probe
from cmrm.statistics.rates import Mean
from cmrm.steering.parts import COMPARED, PARTS, pair_conditions
from storage.records.manifest import Manifest
from storage.shards.hidden_states import list_blocks
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from storage.tables.schemas import KINDS
from tasks.core.commit import NO_ROWS, commit_files
from tasks.core.models import ModelUse
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import StageName
from tasks.shards.samples import Shard
from tasks.states.direction import LabelledStates
from tasks.states.labelled_samples import Label, ShardStates, Side, gather_states, group_by_text
from tasks.states.shift_parts import list_conditions

DIRECTIONS, COSINES, PROJECTIONS = "directions", "direction_cosines", "projections"
TEXT = "query"
# Raise it when the same states yield other numbers.
VERSION = 2
# Anchors and targets are resampled apart.
SEEDS = {"anchor": 0, "target": 1}


@dataclass(frozen=True, kw_only=True)
class AnchorStates:
    """The keys of a shard of anchors' hidden states by condition, the shard, and the digest of its labels."""

    states: Mapping[str, str]
    shard: Shard
    labels: str


@dataclass(frozen=True, kw_only=True)
class ArmStates:
    """The targets' states in one arm, by shard; the intervention is '' for plain ones."""

    intervention: str = ""
    alpha: float | None = None
    shards: tuple[LabelledStates, ...]


@dataclass(frozen=True, kw_only=True)
class ProbeJob(Job):
    """Labelled directions and probes of one model under one condition.

    Of `images` the Δ is compared with the direction, of `apart` its parts too.
    """

    model: ModelUse
    condition: str
    anchors: tuple[AnchorStates, ...]
    arms: tuple[ArmStates, ...]
    images: tuple[str, ...]
    apart: tuple[str, ...]

    @property
    def stage(self) -> StageName:
        return StageName.PROBE

    def content(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "condition": self.condition,
            # The names stand in the rows.
            "name": self.model.name,
            "anchors": [[dict(one.states), one.labels] for one in self.anchors],
            "arms": [
                [arm.intervention, arm.alpha, [[one.states, one.labels] for one in arm.shards]]
                for arm in self.arms
            ],
            "images": list(self.images),
            "apart": list(self.apart),
        }


def list_deltas(image: str, *, apart: Sequence[str]) -> dict[str, tuple[str, str]]:
    """List the differences of conditions that the direction is compared with: Δ of an image, and its parts."""
    deltas = {"all": pair_conditions("all", image)}
    if image in apart:
        deltas |= {part: pair_conditions(part, image) for part in PARTS} | {COMPARED: (COMPARED, TEXT)}
    return deltas


def list_needed(condition: str, images: Sequence[str], *, apart: Sequence[str]) -> tuple[str, ...]:
    """List the conditions whose anchors' states a job reads."""
    deltas = (name for image in images for name in (list_conditions(image) if image in apart else (image,)))
    return tuple(dict.fromkeys((TEXT, condition, *deltas)))


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Rows of the three tables, as they are found block by block."""

    directions: list[dict[str, Any]] = field(default_factory=list)
    cosines: list[dict[str, Any]] = field(default_factory=list)
    projections: list[pa.Table] = field(default_factory=list)


def _probe(job: ProbeJob, store: Store) -> Manifest:
    anchors = [ShardStates.of(store, one.shard, one.states) for one in job.anchors]
    arms = [
        [ShardStates.of(store, one.shard, {job.condition: one.states}) for one in arm.shards]
        for arm in job.arms
    ]
    blocks = sorted({block for one in anchors for block in list_blocks(one.paths.get(job.condition, ()))})
    if not blocks:
        raise UserError(
            f"directions: no anchor has hidden states under {job.condition}, so there is no direction and no probe. "
            f'Reasons: cmrm sql --store {store.url} "FROM quarantine"'
        )
    found = _Found()
    for block in blocks:
        _measure_block(job, block, gather_states("anchor", anchors, block), arms, found)
    projected = KINDS[PROJECTIONS].schema.empty_table()
    tables = {
        DIRECTIONS: from_rows(found.directions, DIRECTIONS),
        COSINES: from_rows(found.cosines, COSINES),
        PROJECTIONS: pa.concat_tables([projected, *found.projections]),
    }
    return commit_files(
        job,
        store,
        {table_path(kind, job.key): to_parquet(table, kind) for kind, table in tables.items()},
        rows=NO_ROWS,
        provenance={"model": job.model.name, "condition": job.condition},
    )


def _measure_block(
    job: ProbeJob, block: int, anchors: Side, arms: Sequence[Sequence[ShardStates]], found: _Found
) -> None:
    draws = Draws(harmful=anchors.harmful, seed=SEEDS["anchor"])
    text_rows, text_states = anchors.states.get(TEXT, (np.empty(0, dtype=int), np.empty((0, 1))))
    axis = find_axis(text_states, anchors.harmful[text_rows])
    text = None if axis is None else draws.subtract(text_states, text_rows)
    rows, states = anchors.states[job.condition]
    sides = [(arm, gather_states("target", files, block)) for arm, files in zip(job.arms, arms, strict=True)]
    sides = [(arm, side) for arm, side in sides if job.condition in side.states]
    unasked = _find_unasked(
        anchors.list_labels(job.condition), [side.list_labels(job.condition) for _, side in sides]
    )
    rows, states = rows[unasked], states[unasked]
    labels = anchors.harmful[rows]
    missing = _explain_untrained(labels, dropped=not unasked.all())
    held_out = any(not arm.intervention for arm, _ in sides)

    tested = (
        _Tested(missing=missing or "the probe is tested on targets")
        if held_out
        else _cross_validate(anchors, job)
    )
    found.directions.append(
        {
            **_describe(job, ArmStates(shards=()), anchors, block),
            **_measure(anchors, job.condition, draws, axis, text),
            **tested.flatten(),
        }
    )
    found.cosines.extend(_compare(job, block, anchors, draws))
    if axis is not None:
        found.projections.append(_project(job, ArmStates(shards=()), anchors, block, axis))
    probe = None if missing or not sides else fit_probe(states.astype(np.float64), labels)
    for arm, side in sides:
        tested = _Tested(missing=missing)
        if probe is not None:
            own_rows, own = side.states[job.condition]
            scores = probe.decision_function(own.astype(np.float64))
            tested = _Tested.of(
                measure_auroc(scores, side.harmful[own_rows]), how="held out", trained=len(draw_rows(labels))
            )
        drawn = Draws(harmful=side.harmful, seed=SEEDS["target"])
        found.directions.append(
            {
                **_describe(job, arm, side, block),
                **_measure(side, job.condition, drawn, axis, text),
                **tested.flatten(),
            }
        )
        if axis is not None:
            found.projections.append(_project(job, arm, side, block, axis))


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """What a probe's test gave, or why there was none."""

    auroc: Auroc | None = None
    how: str | None = None
    trained: int | None = None
    missing: str | None = None

    @classmethod
    def of(cls, auroc: Auroc | None, *, how: str, trained: int) -> _Tested:
        if auroc is None:
            return cls(missing="the samples have one label alone, or few texts")
        return cls(auroc=auroc, how=how, trained=trained)

    def flatten(self) -> dict[str, Any]:
        found = self.auroc
        return {
            "auroc": None if found is None else found.value,
            "auroc_low": None if found is None else found.low,
            "auroc_high": None if found is None else found.high,
            "tested": self.how,
            "trained": self.trained,
            "missing": self.missing,
        }


def _cross_validate(anchors: Side, job: ProbeJob) -> _Tested:
    rows, states = anchors.states[job.condition]
    labels = anchors.harmful[rows]
    if missing := _explain_untrained(labels, dropped=False):
        return _Tested(missing=missing)
    groups = group_by_text(anchors.list_labels(job.condition))
    found = cross_validate(states.astype(np.float64), labels, groups)
    return _Tested.of(found, how="folds", trained=len(draw_rows(labels)))


def _find_unasked(anchors: Sequence[Label], targets: Sequence[Sequence[Label]]) -> np.ndarray:
    """Find the anchors none of whose texts is one of a target's, bool [anchors]: a probe is trained on them alone.

    Targets are those of all arms, which one probe is tested on. Where rows are grouped, by image for example, the split
    can put one question on both sides.
    """
    asked = {text for side in targets for label in side for text in label.texts}
    return np.array([asked.isdisjoint(label.texts) for label in anchors], dtype=bool)


def _explain_untrained(harmful: np.ndarray, *, dropped: bool) -> str | None:
    for label, word in ((True, "harmful"), (False, "harmless")):
        count = int((harmful == label).sum())
        if count < FOLDS:
            which = f"{word} anchors whose question no target asks" if dropped else f"{word} anchors"
            return f"{count} {which}; a probe needs {FOLDS}"
    return None


def _describe(job: ProbeJob, arm: ArmStates, side: Side, block: int) -> dict[str, Any]:
    return {
        "model": job.model.name,
        "condition": job.condition,
        "intervention": arm.intervention,
        "alpha": arm.alpha,
        "split": side.split,
        "block": block,
    }


def _measure(
    side: Side, condition: str, draws: Draws, axis: Axis | None, text: list[Floats] | None
) -> dict[str, Any]:
    """The direction of one side's states, and where they lie along that of the anchors as text."""
    rows, states = side.states[condition]
    labels = side.harmful[rows]
    direction = draws.subtract(states, rows)
    length = measure_length(direction, len(rows))
    nothing = Mean(value=None, low=None, high=None, n=len(rows))
    cosine = nothing if text is None else measure_cosine(direction, text, len(rows))
    places = (nothing, nothing)
    if axis is not None:
        places = measure_places(draws, axis.project(states) / axis.length, rows)
    return {
        "harmful": int(labels.sum()),
        "harmless": int((~labels).sum()),
        "state": float(np.linalg.norm(states.astype(np.float64), axis=1).mean()),
        **_flatten(norm=length, text_cosine=cosine, harmful_along=places[0], harmless_along=places[1]),
    }


def _compare(job: ProbeJob, block: int, anchors: Side, draws: Draws) -> Iterator[dict[str, Any]]:
    """The cosines of the direction with each Δ and its parts, over the same resamples of anchors."""
    rows, states = anchors.states[job.condition]
    direction = draws.subtract(states, rows)
    for image in job.images:
        needed = list_conditions(image) if image in job.apart else (TEXT, image)
        if any(name not in anchors.states for name in needed):
            continue
        # The parts add up over the anchors that have the states of all of them.
        common = np.array(sorted(set.intersection(*(set(anchors.states[name][0]) for name in needed))))
        if not len(common):
            continue
        chosen = {name: _choose(anchors.states[name], common) for name in needed}
        for part, (later, earlier) in list_deltas(image, apart=job.apart).items():
            delta = draws.average(chosen[later] - chosen[earlier], common)
            yield {
                "model": job.model.name,
                "condition": job.condition,
                "block": block,
                "image": image,
                "part": part,
                "anchors": len(common),
                **_flatten(cosine=measure_cosine(direction, delta, len(common))),
            }


def _choose(found: tuple[np.ndarray, np.ndarray], wanted: np.ndarray) -> Floats:
    """The states of some rows, in their order, float64."""
    rows, states = found
    chosen: Floats = states[np.searchsorted(rows, wanted)].astype(np.float64)
    return chosen


def _project(job: ProbeJob, arm: ArmStates, side: Side, block: int, axis: Axis) -> pa.Table:
    rows, states = side.states[job.condition]
    distance = axis.project(states)
    columns = {
        **{
            name: pa.repeat(pa.scalar(value, KINDS[PROJECTIONS].schema.field(name).type), len(rows))
            for name, value in _describe(job, arm, side, block).items()
            if name != "split"
        },
        "dataset": [side.samples[row][0] for row in rows],
        "sample_id": [side.samples[row][1] for row in rows],
        "distance": distance,
        "along": distance / axis.length,
    }
    schema = KINDS[PROJECTIONS].schema
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _flatten(**measures: Mean) -> dict[str, float | None]:
    return {
        f"{name}{suffix}": getattr(one, end)
        for name, one in measures.items()
        for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


probe_states = make_stage(StageName.PROBE, _probe, place="processor")

"""Take Δ apart: the length, share and cosine of its parts per block, from the anchors' hidden states, into Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmrm.errors import UserError
from cmrm.statistics.shift_parts import PartMeasure, measure_parts
from cmrm.steering.parts import COMPARED, PARTS, list_chain, pair_conditions
from storage.records.manifest import Manifest
from storage.shards.hidden_states import HiddenStates, list_blocks, read_block
from storage.store import Store
from storage.tables.arrow import from_rows
from tasks.core.commit import Rows, commit_rows
from tasks.core.models import ModelUse
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import StageName
from tasks.states.shift import find_states

KIND = "shift_parts"
# Raise it when the same states yield other numbers.
VERSION = 3


@dataclass(frozen=True, kw_only=True)
class PartsJob(Job):
    """The parts of Δ for one meaningless image: for each shard, the keys of its states by condition."""

    model: ModelUse
    image: str
    shards: tuple[Mapping[str, str], ...]

    @property
    def stage(self) -> StageName:
        return StageName.SHIFT_PARTS

    def content(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "image": self.image,
            # The name stands in the rows.
            "name": self.model.name,
            "states": [dict(shard) for shard in self.shards],
        }


def list_conditions(image: str) -> tuple[str, ...]:
    """List the conditions whose states a job compares: the steps from text to the image, and filler."""
    return (*list_chain(image), COMPARED)


def _take_apart(job: PartsJob, store: Store) -> Manifest:
    files = [{name: find_states(store, key) for name, key in shard.items()} for shard in job.shards]
    # A shard whose every row was quarantined has no block at all.
    blocks = sorted({block for shard in files for paths in shard.values() for block in list_blocks(paths)})
    rows = [row for block in blocks for row in _measure_block(job, block, files)]
    if not rows:
        raise UserError(
            f"parts: no anchor has hidden states under all of {', '.join(list_conditions(job.image))}, so Δ cannot be "
            f'taken apart. Reasons: cmrm sql --store {store.url} "FROM quarantine"'
        )
    names = [f"{row['block']} {row['part']}" for row in rows]
    return commit_rows(
        job,
        store,
        kind=KIND,
        table=from_rows(rows, KIND),
        rows=Rows(asked=names, written=names),
        quarantined=(),
        provenance={"model": job.model.name, "image": job.image},
    )


def _measure_block(
    job: PartsJob, block: int, files: Sequence[Mapping[str, tuple[Path, ...]]]
) -> Iterator[dict[str, Any]]:
    states = _gather([{name: read_block(paths, block) for name, paths in shard.items()} for shard in files])
    if not states:
        return
    text, image = states["query"], job.image
    pairs: dict[str, tuple[str, str]] = {part: pair_conditions(part, image) for part in (*PARTS, "all")}
    differences: dict[str, np.ndarray] = {
        part: states[later] - states[earlier] for part, (later, earlier) in pairs.items()
    }
    differences[COMPARED] = states[COMPARED] - text
    for part, found in measure_parts(differences["all"], differences).items():
        yield {
            "model": job.model.name,
            "image": image,
            "block": block,
            "part": part,
            "anchors": len(text),
            "state": float(np.linalg.norm(text, axis=1).mean()),
            **_flatten(found),
        }


def _gather(shards: Sequence[Mapping[str, HiddenStates]]) -> dict[str, np.ndarray]:
    """The states of the anchors that all conditions have, in one order: float64 [anchors, hidden] by condition."""
    found: dict[str, list[np.ndarray]] = {}
    for shard in shards:
        common = sorted(set.intersection(*(set(one.sample_ids) for one in shard.values())))
        for name, one in shard.items() if common else ():
            # The differences of float32 numbers are exact in double precision, up to its own rounding.
            found.setdefault(name, []).append(one.choose(common)[:, 0].astype(np.float64))
    return {name: np.concatenate(some) for name, some in found.items()}


def _flatten(found: PartMeasure) -> dict[str, float | None]:
    return {
        f"{name}{suffix}": getattr(one, end)
        for name, one in (("norm", found.norm), ("share", found.share), ("cosine", found.cosine))
        for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


take_apart = make_stage(StageName.SHIFT_PARTS, _take_apart, place="processor")

"""Report: the main table as numbers and the figure of the final states, from what the other stages kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from storage.manifest import Manifest
from storage.states import HiddenStates, read_hidden_states
from storage.store import Store
from storage.tables import read_parquet
from tasks.models import ModelUse
from tasks.progress import report_rows
from tasks.stage import Job, make_stage
from tasks.summary import make_headline, make_table

# Part of the key: raise it when the same verdicts come to other numbers or another picture.
VERSION = 1

Harmful = dict[tuple[str, str], bool]


@dataclass(frozen=True, kw_only=True)
class ReportJob(Job):
    """One run: the keys of all that it made."""

    model: ModelUse
    ingests: tuple[str, ...]
    anchor_states: tuple[str, ...]
    target_states: tuple[str, ...]
    shifts: tuple[str, ...]
    responses: tuple[str, ...]
    judgements: tuple[str, ...]

    @property
    def stage(self) -> str:
        return "report"

    def content(self) -> dict[str, Any]:
        names = ("ingests", "anchor_states", "target_states", "shifts", "responses", "judgements")
        return {"version": VERSION, **{name: list(getattr(self, name)) for name in names}}


def _report(job: ReportJob, store: Store) -> Manifest:
    harmful = {
        (row["dataset"], row["sample_id"]): row["harmful"]
        for row in _rows(store, "ingest", job.ingests, "samples", ["dataset", "sample_id", "harmful"])
    }
    columns = ["judge", "dataset", "sample_id", "condition", "intervention", "alpha", "verdict", "refused"]
    table = make_table(_rows(store, "judge", job.judgements, "judgements", columns), harmful=harmful)
    figure, separations = _picture(job, store, harmful)
    summary = {
        "model": job.model.name,
        "revision": job.model.identity.revision,
        "headline": make_headline(table),
        "table": table.to_json(),
        "quarantined": _count_quarantined(job, store),
        "shifts": [_describe_shift(store, key) for key in job.shifts],
        "separation": separations,
    }
    files = {f"reports/{job.key}.json": json.dumps(summary, ensure_ascii=False, indent=1).encode()}
    if figure is not None:
        files[f"reports/{job.key}.png"] = figure
    manifest = store.commit(job.stage, job.key, files, content=job.content())
    report_rows(1)
    return manifest


def _rows(
    store: Store, stage: str, keys: tuple[str, ...], folder: str, columns: list[str]
) -> Iterator[dict[str, Any]]:
    for key in keys:
        table = read_parquet(store.local_path(_manifest(store, stage, key).path(folder)))
        yield from table.select(columns).to_pylist()


def _picture(job: ReportJob, store: Store, harmful: Harmful) -> tuple[bytes | None, dict[str, float]]:
    """The PNG, and how far each image moves the final states from the text's, in units of their spread."""
    import torch

    from cmrm.geometry import pca, separation
    from tasks.figure import draw_states

    states = _read_final_states(job, store)
    common = sorted(set.intersection(*(set(one) for one in states.values()))) if states else []
    if len(common) < 2 or "query" not in states:
        return None, {}
    stacked = {
        name: torch.from_numpy(np.stack([one[sample] for sample in common])) for name, one in states.items()
    }
    projection = pca(torch.cat(list(stacked.values())).float(), components=2)
    figure = draw_states(
        {name: projection.project(one.float()).numpy() for name, one in stacked.items()},
        harmful=[harmful[sample] for sample in common],
        explained=projection.explained_variance_ratio.tolist(),
        title=f"Final states of {len(common)} anchors, {job.model.name}",
    )
    text = stacked["query"].float()
    return figure, {name: separation(text, one.float()) for name, one in stacked.items() if name != "query"}


def _read_final_states(job: ReportJob, store: Store) -> dict[str, dict[tuple[str, str], np.ndarray]]:
    """The last block's state of each anchor: condition → (dataset, sample id) → vector [hidden]."""
    found: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    for key in job.anchor_states:
        manifest = _manifest(store, "embed", key)
        dataset, states = str(manifest.provenance["dataset"]), _read_last_block(store, manifest)
        by_sample = found.setdefault(str(manifest.content["condition"]), {})
        for row, sample in enumerate(states.sample_ids):
            by_sample[dataset, sample] = states.vectors[row, 0]
    return found


def _read_last_block(store: Store, manifest: Manifest) -> HiddenStates:
    # Rows are sorted by block, one row group each, so that only the last block's bytes are read.
    with pq.ParquetFile(store.local_path(manifest.path("hidden_states"))) as file:
        if not file.metadata.num_rows:
            return HiddenStates([], [], np.empty((0, 0, 0), dtype=np.float16))
        return read_hidden_states(file.read_row_group(file.num_row_groups - 1))


def _count_quarantined(job: ReportJob, store: Store) -> list[dict[str, Any]]:
    """Rows set aside: each once, however many conditions and interventions it would have been asked under."""
    stages = (
        ("ingest", job.ingests),
        ("embed", job.anchor_states + job.target_states),
        ("generate", job.responses),
    )
    reasons: dict[tuple[str, str | None, int | None], tuple[str, str]] = {}
    for stage, keys in stages:
        for key in keys:
            for path in _manifest(store, stage, key).paths("quarantine"):
                for row in read_parquet(store.local_path(path)).to_pylist():
                    reasons.setdefault(
                        (row["dataset"], row["sample_id"], row["line"]), (stage, row["reason"])
                    )
    counts = Counter((stage, name, reason) for (name, _, _), (stage, reason) in reasons.items())
    return [
        {"stage": stage, "dataset": dataset, "reason": reason, "rows": rows}
        for (stage, dataset, reason), rows in sorted(counts.items())
    ]


def _describe_shift(store: Store, key: str) -> dict[str, Any]:
    manifest = _manifest(store, "shift", key)
    return {"key": key, "image": manifest.provenance["image"], "anchors": manifest.provenance["count"]}


def _manifest(store: Store, stage: str, key: str) -> Manifest:
    manifest = store.find(stage, key)
    if manifest is None:
        raise RuntimeError(f"{stage} {key[:12]} vanished from {store.url} while the run was using it")
    return manifest


write_report = make_stage("report", _report)

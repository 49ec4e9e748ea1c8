"""Report: all that the verdicts, states and timings of a run come to, as numbers and figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.manifest import Manifest
from storage.parquet import read_parquet
from storage.rows import iterate_all, need_manifest
from storage.store import Store
from tasks.agreement import describe_agreement
from tasks.commit import NO_ROWS, commit_files
from tasks.costs import describe_costs
from tasks.curves import make_curves
from tasks.figure import Figure
from tasks.figures import draw_curves, draw_overhead, draw_states
from tasks.headline import Bound, make_headline
from tasks.judge_costs import describe_judges
from tasks.outcomes import JUDGED, Outcomes, SampleInfo, Way
from tasks.progress import report_rows
from tasks.quarantine import read_quarantine
from tasks.software import gather_software
from tasks.stage import Job, make_stage
from tasks.states import describe_panel, make_panels
from tasks.table import make_table

# Part of the key: raise it when the same verdicts come to other numbers or another picture.
VERSION = 10
# The stages whose numbers hang on the software that a model runs in.
MADE_BY_MODELS = ("embed", "shift", "generate", "overhead")


Made = Mapping[str, Sequence[Manifest]]


@dataclass(frozen=True, kw_only=True)
class ReportJob(Job):
    """One run: the keys of all that it made, its interventions' settings by name, and the bound that picks α.

    `models` and `judges` are as their uses describe them: a report needs none of them.
    """

    models: tuple[Mapping[str, str], ...] = field(hash=False)
    judges: tuple[Mapping[str, Any], ...] = field(hash=False)
    title: str | None
    used: Mapping[str, tuple[str, ...]] = field(hash=False)
    settings: Mapping[str, Mapping[str, str]] = field(hash=False)
    utility_loss: float
    over_refusal: float | None

    @property
    def stage(self) -> str:
        return "report"

    def content(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "title": self.title,
            "models": [dict(model) for model in self.models],
            "judges": [dict(judge) for judge in self.judges],
            "used": {stage: list(keys) for stage, keys in self.used.items()},
            "settings": {name: dict(settings) for name, settings in self.settings.items()},
            "bound": {"utility_loss": self.utility_loss, "over_refusal": self.over_refusal},
        }


def _report(job: ReportJob, store: Store) -> Manifest:
    # Finding verifies every byte, so each is found once.
    made = {stage: [need_manifest(store, stage, key) for key in keys] for stage, keys in job.used.items()}
    outcomes = _read_outcomes(store, made)
    harmful = {(one.dataset, one.sample_id): one.harmful for one in outcomes.samples}
    table = make_table(
        outcomes, settings=job.settings, quarantined=_count_unanswered(store, made["generate"])
    )
    curves = make_curves(
        outcomes,
        interventions=list(job.settings),
        utility_loss=job.utility_loss,
        over_refusal=job.over_refusal,
    )
    panels = make_panels(store, made["embed"], harmful=harmful)
    bound = Bound(utility_loss=job.utility_loss, over_refusal=job.over_refusal)
    states = [record for panel in panels for record in describe_panel(panel)]
    costs = describe_costs(iterate_all(store, made["overhead"], "timings"))
    figures = [*draw_curves(curves), *draw_states(panels), *draw_overhead(costs)]
    summary = {
        "version": VERSION,
        "title": job.title,
        "headline": make_headline(table, bound=bound, curves=curves, states=states, costs=costs),
        "models": [dict(model) for model in job.models],
        "judges": describe_judges(store, made["judge"], job.judges),
        "table": table.to_json(),
        "curves": curves,
        "states": states,
        "overhead": costs,
        "agreement": describe_agreement(outcomes),
        "quarantined": _count_quarantined(store, made),
        "without_effect": _find_without_effect(made["generate"]),
        "software": gather_software(one for stage in MADE_BY_MODELS for one in made[stage]),
        "shifts": [_describe_shift(one) for one in made["shift"]],
        "figures": [{"name": one.name, "caption": one.caption} for one in figures],
    }
    manifest = commit_files(job, store, _name_files(job.key, summary, figures), rows=NO_ROWS)
    report_rows(1)
    return manifest


def _name_files(key: str, summary: Mapping[str, Any], figures: Sequence[Figure]) -> dict[str, bytes]:
    files = {f"reports/{key}.json": json.dumps(summary, ensure_ascii=False, indent=1).encode()}
    for figure in figures:
        for suffix, data in (("svg", figure.svg), ("png", figure.png), ("csv", figure.data)):
            files[f"reports/{figure.name}/{key}.{suffix}"] = data
    return files


def _read_outcomes(store: Store, made: Made) -> Outcomes:
    samples = [
        SampleInfo(
            dataset=row["dataset"],
            sample_id=row["sample_id"],
            harmful=row["harmful"],
            split_by=row["split_by"] or row["question"],
        )
        for row in iterate_all(
            store,
            made["ingest"],
            "samples",
            ("dataset", "sample_id", "harmful", "question", "split_by"),
        )
    ]
    outcomes = Outcomes(samples=samples)
    outcomes.add(iterate_all(store, made["judge"], "judgements", JUDGED))
    return outcomes


def _count_unanswered(store: Store, manifests: Sequence[Manifest]) -> dict[Way, int]:
    """Rows that were to be answered in a way and were set aside instead."""
    counts: Counter[Way] = Counter()
    for manifest in manifests:
        content = manifest.content
        way = Way(
            content["name"],
            content["condition"],
            content["intervention_name"],
            (content["intervention"] or {}).get("alpha"),
        )
        for path in manifest.paths("quarantine"):
            counts[way] += read_parquet(store.local_path(path)).num_rows
    return counts


def _count_quarantined(store: Store, made: Made) -> list[dict[str, Any]]:
    """Rows set aside: each once, however many models, conditions and interventions it would have been asked under."""
    counts = Counter(
        ("ingest", row["dataset"], row["reason"]) for row in read_quarantine(store, made["ingest"])
    )
    reasons: dict[tuple[str, str], tuple[str, str]] = {}
    for stage in ("embed", "generate", "overhead", "judge"):
        for row in read_quarantine(store, made[stage]):
            reasons.setdefault((row["dataset"], row["sample_id"]), (stage, row["reason"]))
    counts.update((stage, dataset, reason) for (dataset, _), (stage, reason) in reasons.items())
    return [
        {"stage": stage, "dataset": dataset, "reason": reason, "rows": rows}
        for (stage, dataset, reason), rows in sorted(counts.items())
    ]


def _find_without_effect(answered: Sequence[Manifest]) -> list[dict[str, Any]]:
    """Steered answers whose state did not move at some block, since rounding to the model's dtype took αΔ back."""
    counts: dict[tuple[str, str, float], Counter[str]] = {}
    for manifest in answered:
        content = manifest.content
        blocks = manifest.provenance.get("steered_distances_since_resumed") or {}
        if content["intervention"] is None or not blocks:
            continue
        way = content["name"], content["intervention_name"], content["intervention"]["alpha"]
        worst = max(blocks.values(), key=lambda one: one["without_effect"])
        counts.setdefault(way, Counter()).update(
            {name: worst[name] for name in ("prompts", "without_effect")}
        )
    return [
        {"model": model, "intervention": name, "alpha": alpha, **count}
        for (model, name, alpha), count in sorted(counts.items())
        if count["without_effect"]
    ]


def _describe_shift(manifest: Manifest) -> dict[str, Any]:
    provenance = manifest.provenance
    return {
        "key": manifest.key,
        "model": provenance["model"],
        "image": provenance["image"],
        "method": provenance["method"],
        "anchors": provenance["count"],
    }


write_report = make_stage("report", _report, place="processor")

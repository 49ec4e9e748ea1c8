"""The method, stage by stage: reading this file is reading what a run does (`DESIGN.md` §4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect import flow

from cmrm.errors import UserError
from flows.plan import Plan
from flows.progress import draw_bars
from storage.manifest import Manifest
from tasks.embed import embed_anchors
from tasks.generate import generate_answers
from tasks.ingest import ingest
from tasks.judge import judge_answers
from tasks.report import write_report
from tasks.shift import measure_shift


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run made: the manifest of its report, and the key of everything it used, in the order of the stages."""

    report: Manifest
    keys: tuple[str, ...]


@flow(name="cmrm", validate_parameters=False)
def run_pipeline(plan: Plan) -> Outcome:
    """Run a plan. Each stage is a list of jobs; a job whose result is committed and whole is not done again."""
    with draw_bars() as bars:
        # Rows in, samples out, split into anchors and targets.
        ingested = bars.run(ingest, plan.ingest_jobs())
        samples = {job.dataset: manifest for job, manifest in ingested}
        _refuse_nothing_to_do(plan, samples)

        # States of the anchors, without an image and with each.
        embedded = bars.run(embed_anchors, plan.embed_jobs(samples))

        # Δ = state with a meaningless image − state without, averaged over the anchors.
        measured = bars.run(measure_shift, plan.shift_jobs({job.slice: made.key for job, made in embedded}))

        # Answers of the targets under each condition, and with αΔ subtracted under each intervention.
        shifts = {job.image: made.key for job, made in measured}
        answered = bars.run(generate_answers, plan.generate_jobs(samples, shifts))

        # Verdicts, and what they come to.
        judged = bars.run(judge_answers, plan.judge_jobs(samples, answered))
        used = {
            "ingest": [made for _, made in ingested],
            "anchor states": [made for job, made in embedded if job.slice.shard.split == "anchor"],
            "target states": [made for job, made in embedded if job.slice.shard.split == "target"],
            "shift": [made for _, made in measured],
            "generate": [made for _, made in answered],
            "judge": [made for _, made in judged],
        }
        ((_, report),) = bars.run(write_report, plan.report_jobs(used))
    keys = dict.fromkeys(made.key for stage in used.values() for made in stage)
    return Outcome(report=report, keys=(*keys, report.key))


def _refuse_nothing_to_do(plan: Plan, samples: Mapping[str, Manifest]) -> None:
    for name, manifest in samples.items():
        if not any(file.rows for file in manifest.files if file.path.startswith("samples/")):
            raise UserError(
                f"datasets.{name}: none of its rows can be used. The reasons: "
                f'cmrm sql --store {plan.store} "FROM quarantine"'
            )

"""The method, stage by stage: reading this file is reading what a run does (`DESIGN.md` §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from flows.judge_plan import Judged, JudgePlan
from flows.plan import Plan
from flows.stages import Stages
from storage.manifest import Manifest
from tasks.embed import EmbedJob, embed_anchors
from tasks.generate import generate_answers
from tasks.ingest import ingest
from tasks.judge import Answers, judge_answers, judge_on_devices
from tasks.look import look_at_images
from tasks.overhead import OverheadJob, measure_overhead
from tasks.pair import pair_images
from tasks.report import write_report
from tasks.shift import ShiftJob, measure_shift


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run made: the manifest of its report, and the key of everything it used, in the order of the stages."""

    report: Manifest
    keys: tuple[str, ...]


def run_pipeline(plan: Plan, stages: Stages) -> Outcome:
    """Run a plan. A job of a stage whose result is committed and whole is not done again."""
    judging = plan.judging
    with stages.beside(judge_answers) as verdicts:
        # Questions that come without an image are given one of their own, where asked for.
        pairings = plan.pairings()
        looked = stages.run(look_at_images, [look for pairing in pairings for look in pairing.looks])
        paired = stages.run(pair_images, [pairing.job for pairing in pairings])

        # Rows in, samples out, split into anchors and targets.
        ingested = stages.run(ingest, plan.ingest_jobs({job.dataset: made for job, made in paired}))
        samples = {job.dataset: manifest for job, manifest in ingested}
        plan.refuse_nothing_to_do(samples)

        embedded: list[tuple[EmbedJob, Manifest]] = []
        measured: list[tuple[ShiftJob, Manifest]] = []
        answered: list[Answers] = []
        timed: list[tuple[OverheadJob, Manifest]] = []
        for model in plan.by_model():
            # States of the anchors, without an image and with each.
            states = stages.run(embed_anchors, model.embed_jobs(samples))

            # Δ = state with a meaningless image − state without, averaged over the anchors.
            shifts = stages.run(
                measure_shift, model.shift_jobs({job.slice: made.key for job, made in states})
            )

            # Answers of the targets under each condition, and with αΔ subtracted under each intervention.
            steered = model.steer({(job.image, job.method): made.key for job, made in shifts})
            # A shard's answers are judged while the next ones are made.
            answers = stages.run(
                generate_answers,
                model.generate_jobs(samples, steered),
                each=lambda job, made: verdicts.add(
                    made.key, partial(judging.jobs_beside, job.as_answered(made))
                ),
            )
            answered += [job.as_answered(made) for job, made in answers]

            # What the interventions make of the targets' states, and what they cost in seconds, where asked for.
            states += stages.run(embed_anchors, model.embed_steered_jobs(samples, steered))
            timed += stages.run(measure_overhead, model.overhead_jobs(samples, steered))
            embedded += states
            measured += shifts

        judged = verdicts.finish([one.responses.key for one in answered])
        used = {
            "look": [made for _, made in looked],
            "pair": [made for _, made in paired],
            "ingest": [made for _, made in ingested],
            "embed": [made for _, made in embedded],
            "shift": [made for _, made in measured],
            "generate": [one.responses for one in answered],
            "overhead": [made for _, made in timed],
        }
        return _conclude(judging, stages, answered, judged, used)


def run_judging(
    judging: JudgePlan,
    answered: Sequence[Answers],
    used: Mapping[str, Sequence[Manifest]],
    stages: Stages,
) -> Outcome:
    """Judge answers that are there; `used` is what else the report is on."""
    judged = stages.run(judge_answers, [job for one in answered for job in judging.jobs_beside(one)])
    return _conclude(judging, stages, answered, judged, used)


def _conclude(
    judging: JudgePlan,
    stages: Stages,
    answered: Sequence[Answers],
    judged: Judged,
    used: Mapping[str, Sequence[Manifest]],
) -> Outcome:
    # A judge that holds a model has the devices to itself, after the models that it judges.
    judged = [*judged, *stages.run(judge_on_devices, judging.jobs_on_devices(answered))]

    # What the verdicts come to.
    used = {**used, "judge": judging.sort(judged, answered)}
    ((_, report),) = stages.run(write_report, judging.report_jobs(used))
    keys = dict.fromkeys(made.key for stage in used.values() for made in stage)
    return Outcome(report=report, keys=(*keys, report.key))

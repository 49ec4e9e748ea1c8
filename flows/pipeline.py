"""The pipeline of a run: ingest, extract hidden states, measure Δ, generate, judge, report (`DESIGN.md` §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from flows.plan.imported import import_jobs
from flows.plan.judge import Judged, JudgePlan
from flows.plan.model import ModelPlan
from flows.plan.plan import Plan
from flows.plan.states import Samples
from flows.plan.steps import Generated
from flows.stages import OnDone, Stages
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.stage_name import ANSWERS, StageName
from tasks.data.embed_images import EmbedImagesJob, extract_image_vectors
from tasks.data.ingest import ingest
from tasks.data.pair import PairJob, pair_images
from tasks.generate.captions import caption_images
from tasks.generate.job import GenerateJob
from tasks.generate.stage import generate_answers
from tasks.imported.stage import ImportJob, import_answers_stage
from tasks.imported.survey import SurveyedAnswers
from tasks.judge.stage import judge_answers, judge_on_devices
from tasks.judge.texts import judge_texts, judge_texts_on_devices
from tasks.overhead import OverheadJob, measure_overhead
from tasks.report.stage import write_report
from tasks.shards.answers import AnswerShard
from tasks.states.direction import DirectionJob, measure_direction
from tasks.states.extract import EmbedJob, extract_states
from tasks.states.probe import ProbeJob, probe_states
from tasks.states.shift import ShiftJob, measure_shift
from tasks.states.shift_parts import PartsJob, take_apart


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a pipeline: the report's manifest, and the keys of all jobs it used, in the order of the stages."""

    report: Manifest
    keys: tuple[str, ...]


def run_pipeline(plan: Plan, stages: Stages) -> Outcome:
    """Run a plan; jobs whose result is committed and verifies are reused."""
    judging = plan.judging

    def judge(job: GenerateJob | ImportJob, made: Manifest) -> None:
        if isinstance(job, ImportJob) or job.gives_answers:
            verdicts.add(made.key, partial(judging.background_jobs, job.as_answered(made)))

    with stages.run_in_background(judge_answers) as verdicts:
        # Pair questions that have no image with one, if the spec asks for it.
        image_vectors, paired = _pair(plan, stages)

        # Rows in, samples out, split into anchors and targets.
        ingested = stages.run(ingest, plan.ingest_jobs({job.dataset: made for job, made in paired}))
        samples = {job.dataset: manifest for job, manifest in ingested}
        plan.refuse_nothing_to_do(samples)
        # Files of answers that other systems gave, if the spec names any: mistakes show before models are loaded.
        surveyed = plan.survey_imported(samples)

        # Captions by one model for several are the same jobs.
        captioned: dict[str, Manifest] = {}
        embedded: list[tuple[EmbedJob, Manifest]] = []
        measured: list[tuple[ShiftJob, Manifest]] = []
        apart: list[tuple[PartsJob, Manifest]] = []
        labelled: list[tuple[DirectionJob, Manifest]] = []
        probed: list[tuple[ProbeJob, Manifest]] = []
        answered: list[AnswerShard] = []
        timed: list[tuple[OverheadJob, Manifest]] = []
        # Keys of what defences generate before their answers.
        between: list[str] = []
        for plain in plan.by_model():
            # Captions of images that have none, by this model or by another, if the spec asks for them.
            captions = stages.run(caption_images, plain.caption_jobs(samples))
            model = plain.with_captions(captions)

            # Hidden states of the anchors, as text and with each image.
            states = stages.run(extract_states, model.embed_jobs(samples))

            # Δ = state with a meaningless image − state without, averaged over the anchors.
            keys = {job.slice: made.key for job, made in states}
            shifts = stages.run(measure_shift, model.shift_jobs(keys))
            # The parts of Δ, if the spec asks for them.
            apart += stages.run(take_apart, model.parts_jobs(keys))
            # For other defences: state of harmful anchors − state of harmless ones.
            directions = stages.run(measure_direction, model.direction_jobs(keys))
            directed = {job.condition: made.key for job, made in directions}

            # Answers to the targets under each condition, and with αΔ subtracted under each intervention.
            steered = model.steer({job.name: made.key for job, made in shifts}, directed)
            # Each shard's answers are judged in the background while the next shard is generated.
            answers = stages.run(generate_answers, model.generate_jobs(samples, steered), each=judge)
            # Defences of several generations, step by step: each asks what the steps before have answered.
            done = {Generated.of(job): made.key for job, made in answers}
            stepped = model.list_stepped(directed)
            for number in range(model.count_steps(stepped)):
                generated = stages.run(
                    generate_answers, model.step_jobs(number, samples, stepped, done), each=judge
                )
                done |= {Generated.of(job): made.key for job, made in generated}
                answers += [(job, made) for job, made in generated if job.gives_answers]
                between += [made.key for job, made in generated if not job.gives_answers]
            answered += [job.as_answered(made) for job, made in answers]

            # Steered hidden states of the targets, and the overhead of steering, if the spec asks for them.
            states += stages.run(extract_states, model.embed_steered_jobs(samples, steered))
            # Harmful against harmless at every block, before and after each intervention, if the spec asks for it.
            probed += stages.run(probe_states, model.probe_jobs(states))
            # States at other positions than the last prompt token, on which nothing else depends.
            states += stages.run(extract_states, model.embed_more_jobs(samples, steered))
            timed += stages.run(measure_overhead, model.overhead_jobs(samples, steered, stepped, done))

            # The text-only model that it was made from, on the same text prompts, if the spec names one.
            answered += _ask_backbone(model, samples, stages, states, each=judge)
            captioned |= {made.key: made for _, made in captions}
            embedded += states
            measured += shifts
            labelled += directions

        # What other systems answered to the samples that the plain arms of the first model were asked.
        answered += import_all(plan.store, surveyed, answered, stages, each=judge)

        judged = verdicts.finish([one.responses.key for one in answered])
        used = {
            StageName.EMBED_IMAGES: [made for _, made in image_vectors],
            StageName.PAIR: [made for _, made in paired],
            StageName.INGEST: [made for _, made in ingested],
            StageName.EXTRACT_STATES: [made for _, made in embedded],
            StageName.SHIFT: [made for _, made in measured],
            StageName.SHIFT_PARTS: [made for _, made in apart],
            StageName.DIRECTION: [made for _, made in labelled],
            StageName.PROBE: [made for _, made in probed],
            StageName.CAPTION: [*captioned.values()],
            **{
                stage: [one.responses for one in answered if one.responses.stage == stage]
                for stage in ANSWERS
            },
            StageName.OVERHEAD: [made for _, made in timed],
        }
        outcome = _conclude(judging.with_imported(surveyed), stages, answered, judged, used)
        return replace(outcome, keys=tuple(dict.fromkeys((*between, *outcome.keys))))


def _pair(
    plan: Plan, stages: Stages
) -> tuple[list[tuple[EmbedImagesJob, Manifest]], list[tuple[PairJob, Manifest]]]:
    pairings = plan.pairings()
    image_vectors = stages.run(extract_image_vectors, [job for pairing in pairings for job in pairing.looks])
    return image_vectors, stages.run(pair_images, [pairing.job for pairing in pairings])


def _ask_backbone(
    model: ModelPlan,
    samples: Samples,
    stages: Stages,
    states: list[tuple[EmbedJob, Manifest]],
    *,
    each: OnDone[GenerateJob],
) -> list[AnswerShard]:
    """Answer as text by the backbone of a model, if it has one; the backbone's states are appended to `states`."""
    backbone = model.for_backbone()
    if backbone is None:
        return []
    states += stages.run(extract_states, backbone.embed_jobs(samples))
    answers = stages.run(generate_answers, backbone.generate_jobs(samples, []), each=each)
    return [job.as_answered(made) for job, made in answers]


def import_all(
    store: Store,
    surveyed: Sequence[SurveyedAnswers],
    answered: Sequence[AnswerShard],
    stages: Stages,
    *,
    each: OnDone[ImportJob] | None = None,
) -> list[AnswerShard]:
    """Import the answers that other systems gave to what the plain arms among `answered` were asked."""
    jobs = import_jobs(store, surveyed, answered)
    return [job.as_answered(made) for job, made in stages.run(import_answers_stage, jobs, each=each)]


def run_judging(
    judging: JudgePlan,
    answered: Sequence[AnswerShard],
    used: Mapping[StageName, Sequence[Manifest]],
    stages: Stages,
) -> Outcome:
    """Judge stored answers; `used` holds the manifests of the other stages for the report."""
    # In a background thread even without other work, so that a hanging judge can be abandoned.
    with stages.run_in_background(judge_answers) as verdicts:
        verdicts.add("all", lambda: [job for one in answered for job in judging.background_jobs(one)])
        judged = verdicts.finish(["all"])
    return _conclude(judging, stages, answered, judged, used)


def _conclude(
    judging: JudgePlan,
    stages: Stages,
    answered: Sequence[AnswerShard],
    judged: Judged,
    used: Mapping[StageName, Sequence[Manifest]],
) -> Outcome:
    # A judge with a model of its own runs after the judged models, with the devices to itself.
    judged = [*judged, *stages.run(judge_on_devices, judging.jobs_on_devices(answered))]

    # Traces of models that reason, and questions alone, by the judges that judge them.
    texts = judging.text_jobs(answered, used[StageName.INGEST], place="devices")
    read = [made for _, made in stages.run(judge_texts_on_devices, texts)]
    texts = judging.text_jobs(answered, used[StageName.INGEST], place="processor")
    if texts:
        with stages.run_in_background(judge_texts) as verdicts:
            verdicts.add("all", lambda: texts)
            read += [made for _, made in verdicts.finish(["all"])]

    # Aggregate the verdicts into the report.
    used = {**used, StageName.JUDGE: judging.sort(judged, answered), StageName.JUDGE_TEXTS: read}
    ((_, report),) = stages.run(write_report, judging.report_jobs(used))
    keys = dict.fromkeys(made.key for stage in used.values() for made in stage)
    return Outcome(report=report, keys=(*keys, report.key))

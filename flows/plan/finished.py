"""A finished run as the store has it: the manifests of its stages, and the samples behind each shard of its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.errors import UserError
from cmrm.prompts.conditions import CONTROLS, Condition
from cmrm.prompts.meaningless_images import MeaninglessImage
from cmrm.prompts.reasoning import ReasoningMarks
from cmrm.untrusted.printable import show
from flows.plan.image_folders import find_own_images
from flows.plan.imported import refuse_model_names, survey_imported
from flows.plan.judge import JudgePlan, resolve_judges
from flows.plan.sources import fetch_named
from flows.spec.imported_arms import NO_ARMS, Arms
from flows.spec.spec import Spec, check_spec
from storage.records.manifest import Manifest
from storage.shards.rows import need_manifest
from storage.store import Store
from tasks.compare.finished_runs import find_finished, find_report
from tasks.core.stage_name import ANSWERS, StageName
from tasks.imported.survey import SurveyedAnswers
from tasks.judge.loaded import JudgeUse
from tasks.shards.answers import REASONING, AnswerShard, find_judged_marks
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import (
    Captioned,
    Captions,
    Slice,
    slice_captioned,
    slice_samples,
    slice_to_caption,
)
from tasks.shards.stimuli import restore_gains

# Stages whose manifests a report uses besides verdicts, in order.
STAGES = (
    StageName.EMBED_IMAGES,
    StageName.PAIR,
    StageName.INGEST,
    StageName.EXTRACT_STATES,
    StageName.SHIFT,
    StageName.SHIFT_PARTS,
    StageName.DIRECTION,
    StageName.PROBE,
    StageName.CAPTION,
    *ANSWERS,
    StageName.OVERHEAD,
)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The manifests of a finished run by stage, the plan to judge it, and marks of traces by the key of the answers.

    `record` is the run's, and `report` the manifest of its report. `added` are files of answers that other systems
    gave, which join it.
    """

    record: Mapping[str, Any]
    report: Manifest
    plan: JudgePlan
    used: Mapping[StageName, Sequence[Manifest]]
    marks: Mapping[str, ReasoningMarks]
    added: Sequence[SurveyedAnswers] = ()


def read_finished(
    store: Store,
    name: str,
    judges: Sequence[JudgeUse] = (),
    arms: Arms = NO_ARMS,
    *,
    stages: Sequence[StageName] = STAGES,
) -> FinishedRun:
    """Read a finished run's record and add judges and arms; the results of these stages are verified.

    Raises `UserError` if the run is incomplete.
    """
    record = find_finished(store, name)
    report = find_report(store, record, stages=stages)
    spec = check_spec(record["spec"], where=f"run {record['run_id']}: its spec")
    known = {judge.name: judge for judge in spec.judges}
    added = [judge for judge in judges if known.setdefault(judge.name, judge) is judge]
    if other := [judge for judge in judges if known[judge.name] != judge]:
        raise UserError(
            f"--judge: run {record['run_id']} has another judge named {other[0].name!r}; give this one a unique "
            "name (name: in its YAML file, or kind:name=…)."
        )
    backbones = tuple(record.get("backbones", ()))
    refuse_model_names(arms, [model["name"] for model in (*record["models"], *backbones)])
    more = _list_new_arms(spec, arms, run_id=record["run_id"])
    extended = _add_arms(spec, record["spec"], more).model_copy(update={"judges": [*spec.judges, *added]})
    pinned = [JudgeUse(**judge) for judge in record.get("judges", ())]
    if [judge.name for judge in pinned] != [judge.name for judge in spec.judges]:
        # A record of an older release pins no judges; none of them had a model then.
        pinned = [*resolve_judges(spec.judges)]
    used = {
        stage: [need_manifest(store, stage, key) for key in report.content["used"].get(stage, ())]
        for stage in stages
    }
    surveyed = _survey(extended, more, used[StageName.INGEST], store)
    plan = JudgePlan(
        spec=extended,
        judges=(*pinned, *resolve_judges(added)),
        models=tuple(record["models"]),
        store=store,
        backbones=backbones,
        imported=tuple(report.content.get("imported", {}).get("arms", ())),
    ).with_imported(surveyed)
    judged = {
        stage: [made for key in report.content["used"].get(stage, ()) if (made := store.look_up(stage, key))]
        for stage in (StageName.JUDGE, StageName.JUDGE_TEXTS)
    }
    responses = [made for stage in ANSWERS for made in used[stage]]
    marks = find_marks(responses, judged[StageName.JUDGE], judged[StageName.JUDGE_TEXTS])
    return FinishedRun(record=record, report=report, plan=plan, used=used, marks=marks, added=surveyed)


def _list_new_arms(spec: Spec, arms: Arms, *, run_id: str) -> Arms:
    """List the arms that a run lacks; raises `UserError` for another of the same name."""
    if other := [name for name, arm in arms.items() if spec.arms.get(name, arm) != arm]:
        raise UserError(
            f"--answers: run {run_id} has other answers named {show(other[0])}; give these a unique name."
        )
    return {name: arm for name, arm in arms.items() if name not in spec.arms}


def _add_arms(spec: Spec, content: Mapping[str, Any], arms: Arms) -> Spec:
    """Add arms to the spec of a run; raises `UserError` for one that the run cannot be compared with."""
    if not arms:
        return spec
    added = {name: arm.model_dump(mode="json") for name, arm in arms.items()}
    return check_spec({**content, "arms": {**content.get("arms", {}), **added}}, where="--answers")


def _survey(spec: Spec, arms: Arms, ingested: Sequence[Manifest], store: Store) -> list[SurveyedAnswers]:
    files = fetch_named((f"--answers: {show(name)}", arm.answers) for name, arm in arms.items())
    samples = {made.content["dataset"]: made for made in ingested}
    return survey_imported([arm.make(name, files) for name, arm in arms.items()], spec, samples, store)


def find_answers(run: FinishedRun) -> Iterator[AnswerShard]:
    """Find the samples behind each of a run's answer shards by digest; raises `UserError` for a missing shard."""
    plan, used = run.plan, run.used
    for responses in (made for stage in ANSWERS for made in used[stage]):
        content: Mapping[str, Any] = responses.content
        shards = (
            one
            for ingested in used[StageName.INGEST]
            for one in _slice_targets(plan, ingested.key, content["condition"], used)
            if one.digest == content["samples"]
        )
        found = next(shards, None)
        if found is None:
            raise UserError(
                f"the samples of its answers {responses.key[:12]} are not those that the run's data sets hold now; "
                "give its spec again with this release, and judge the run that it makes."
            )
        yield AnswerShard(
            slice=found,
            showing=_find_images(plan, found, responses),
            responses=responses,
            label=_label(found, responses),
            reasoning=run.marks.get(responses.key),
        )


def _label(found: Slice, responses: Manifest) -> str:
    """Label answers by their data set and condition, and by the arm."""
    content = responses.content
    arm = content["name"] if responses.stage == StageName.IMPORT_ANSWERS else content["intervention_name"]
    return f"{found.shard.dataset} {found.condition} {arm}".strip()


def find_marks(
    responses: Sequence[Manifest], judged: Sequence[Manifest], texts: Sequence[Manifest]
) -> dict[str, ReasoningMarks]:
    """Find the marks by which the run split its answers, by key; answers that it judged whole have none.

    Those that no judge of its own was given are split by the marks of their model.
    """
    given = {made.provenance["responses"] for made in judged}
    own = {
        made.key: ReasoningMarks.from_content(made.provenance[REASONING])
        for made in responses
        if made.provenance.get(REASONING) and made.key not in given
    }
    return own | find_judged_marks((*texts, *judged))


def _slice_targets(
    plan: JudgePlan, ingest: str, condition: Condition, used: Mapping[StageName, Sequence[Manifest]]
) -> Iterator[Slice]:
    """Cut targets into shards under a condition; under `caption` with the captions of each of the run's models."""
    url, size, asked = plan.store.url, plan.spec.shard_size, plan.spec.captions
    yield from slice_samples(url, ingest, "target", condition, size)
    if condition != "caption" or asked is None:
        return
    choices: tuple[Captioned, ...] = ("uncaptioned", "all")
    images = {
        one.digest: one.shard for of in choices for one in slice_to_caption(url, ingest, "target", of, size)
    }
    for made in used[StageName.CAPTION]:
        if (shard := images.get(made.content["samples"])) is not None:
            captions = Captions(key=made.key, given_to=asked.samples)
            yield from slice_captioned(url, ingest, "target", size, {shard: captions})


def _find_images(plan: JudgePlan, found: Slice, responses: Manifest) -> PromptBuilder:
    """Find the images behind answers for judges that look at them: the meaningless one is the recipe that was shown."""
    # That of a control says how large the image would be whose place it takes.
    recipe = None if found.condition in CONTROLS else responses.content["image"]
    showing = PromptBuilder(
        images=find_own_images(plan.spec, found.shard.dataset, store=plan.store.url),
        meaningless={} if recipe is None else {found.condition: MeaninglessImage.from_dict(recipe)},
        system=None,
    )
    return restore_gains(showing, responses.provenance)

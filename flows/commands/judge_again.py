"""`cmrm judge`: judge a finished run's answers again, and others' answers beside them, without its models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cmrm.errors import UserError
from cmrm.prompts.conditions import CONTROLS, Condition
from cmrm.prompts.images import MeaninglessImage
from cmrm.prompts.reasoning import ReasoningMarks
from cmrm.untrusted.printable import show
from flows.pipeline import Outcome, import_all, run_judging
from flows.plan.image_folders import find_own_images
from flows.plan.imported import survey_imported
from flows.plan.judge import JudgePlan, check_judges, resolve_judges
from flows.plan.sources import fetch_named
from flows.run import Result, Work, describe_run, do_recorded, name_devices, title_run
from flows.server.client import find_server, quiet_prefect, reach_server
from flows.spec.imported_arms import NO_ARMS, Arms
from flows.spec.spec import Spec, check_spec
from flows.stages import Stages
from flows.workers.base import check_choice, choose_workers
from storage.backends.checksum import forget_found_whole
from storage.records.manifest import Manifest
from storage.shards.rows import need_manifest
from storage.store import Store
from tasks.compare.finished_runs import find_finished, find_report
from tasks.core.stage_name import ANSWERS, StageName
from tasks.imported.survey import SurveyedAnswers
from tasks.judge.loaded import JudgeUse
from tasks.judge.stage import VerdictJob, plan_judging
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


def judge_again(
    run: str,
    judges: Sequence[JudgeUse],
    *,
    arms: Arms = NO_ARMS,
    store: str,
    server: str | None,
    workers: str,
) -> Result:
    """Judge a run's answers with more judges, and `arms` that others answered, as a new run with both in its spec.

    `run` is an id or `latest`, the other arguments are as for `run_spec`. Raises `UserError` or `StoreError` for what
    the user can fix.
    """
    quiet_prefect()
    forget_found_whole()
    server = find_server(server)
    check_choice(workers, server=server)
    ready = None if server is None else reach_server(server)
    opened = Store.open(store)
    finished = read_finished(opened, run, judges, arms)
    finished.check_judges()
    spec, models = finished.plan.spec, finished.plan.models
    work = Work(
        store=opened.url,
        title=title_run(spec, models),
        record=describe_run(spec, models, finished.plan.judges),
        do=finished.judge,
    )
    devices = name_devices((), finished.plan.judges)
    choose = partial(choose_workers, workers, devices=devices, server=server)
    return do_recorded(work, choose, store=opened, server=server, ready=ready)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The manifests of a finished run by stage, the plan to judge it, and marks of traces by the key of the answers.

    `added` are files of answers that other systems gave, which join it.
    """

    plan: JudgePlan
    used: Mapping[StageName, Sequence[Manifest]]
    marks: Mapping[str, ReasoningMarks]
    added: Sequence[SurveyedAnswers] = ()

    def check_judges(self) -> None:
        """Raise `UserError` for a judge that has missing verdicts and whose requirements are missing."""
        store = self.plan.store
        check_judges(
            self.plan.judges,
            lambda judge: any(store.look_up(job.stage, job.key) is None for job in self._list_jobs(judge)),
        )

    def _list_jobs(self, judge: JudgeUse) -> Iterator[VerdictJob]:
        """List all that a judge is to judge, one shard after the other."""
        alone = replace(self.plan, judges=(judge,))
        for answers in find_answers(self):
            yield from plan_judging(self.plan.store, answers, [judge])
            yield from alone.text_jobs([answers], (), place=judge.place)
        yield from alone.text_jobs((), self.used[StageName.INGEST], place=judge.place)

    def judge(self, stages: Stages) -> Outcome:
        """Judge all answers and report; committed verdicts are reused."""
        answered = [*find_answers(self)]
        imported = import_all(self.plan.store, self.added, answered, stages)
        known = self.used[StageName.IMPORT_ANSWERS]
        used = {**self.used, StageName.IMPORT_ANSWERS: [*known, *(one.responses for one in imported)]}
        return run_judging(self.plan, [*answered, *imported], used, stages)


def read_finished(store: Store, name: str, judges: Sequence[JudgeUse], arms: Arms = NO_ARMS) -> FinishedRun:
    """Read a finished run's record and add judges and arms; raises `UserError` if the run is incomplete."""
    record = find_finished(store, name)
    report = find_report(store, record, stages=STAGES)
    spec = check_spec(record["spec"], where=f"run {record['run_id']}: its spec")
    known = {judge.name: judge for judge in spec.judges}
    added = [judge for judge in judges if known.setdefault(judge.name, judge) is judge]
    if other := [judge for judge in judges if known[judge.name] != judge]:
        raise UserError(
            f"--judge: run {record['run_id']} has another judge named {other[0].name!r}; give this one a unique "
            "name (name: in its YAML file, or kind:name=…)."
        )
    more = _list_new_arms(spec, arms, run_id=record["run_id"])
    extended = _add_arms(spec, record["spec"], more).model_copy(update={"judges": [*spec.judges, *added]})
    pinned = [JudgeUse(**judge) for judge in record.get("judges", ())]
    if [judge.name for judge in pinned] != [judge.name for judge in spec.judges]:
        # A record of an older release pins no judges; none of them had a model then.
        pinned = [*resolve_judges(spec.judges)]
    used = {
        stage: [need_manifest(store, stage, key) for key in report.content["used"].get(stage, ())]
        for stage in STAGES
    }
    surveyed = _survey(extended, more, used[StageName.INGEST], store)
    plan = JudgePlan(
        spec=extended,
        judges=(*pinned, *resolve_judges(added)),
        models=tuple(record["models"]),
        store=store,
        imported=tuple(report.content.get("imported", {}).get("arms", ())),
    ).with_imported(surveyed)
    judged = {
        stage: [made for key in report.content["used"].get(stage, ()) if (made := store.look_up(stage, key))]
        for stage in (StageName.JUDGE, StageName.JUDGE_TEXTS)
    }
    responses = [made for stage in ANSWERS for made in used[stage]]
    marks = _find_marks(responses, judged[StageName.JUDGE], judged[StageName.JUDGE_TEXTS])
    return FinishedRun(plan=plan, used=used, marks=marks, added=surveyed)


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


def _find_marks(
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

"""`cmrm judge`: more verdicts on the answers of a finished run, whose models need not be there any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cmrm.errors import UserError
from flows.judge_plan import JudgePlan, check_judges, resolve_judges
from flows.model_plan import make_showing
from flows.pipeline import Outcome, run_judging
from flows.run import Result, Work, describe_run, do_recorded, name_devices, title_run
from flows.server.client import find_server, quiet_prefect, reach_server
from flows.spec import check_spec
from flows.stages import Stages
from flows.workers import check_choice, choose_workers
from storage.manifest import Manifest
from storage.rows import need_manifest
from storage.store import Store
from storage.whole import forget_found_whole
from tasks.finished_runs import find_finished, find_report
from tasks.judge import Answers, plan_judging
from tasks.judges import JudgeUse
from tasks.samples import slice_samples

# What a report stands on beside verdicts, in the order of the stages.
STAGES = ("look", "pair", "ingest", "embed", "shift", "generate", "overhead")


def judge_again(
    run: str, judges: Sequence[JudgeUse], *, store: str, server: str | None, workers: str
) -> Result:
    """Let more judges judge what a run's models said; a run of its own, with the judges in its spec.

    `run` is an id or `latest`, the others are as for `run_spec`. Raises `UserError` or `StoreError` for what the user
    can mend.
    """
    quiet_prefect()
    forget_found_whole()
    server = find_server(server)
    check_choice(workers, server=server)
    ready = None if server is None else reach_server(server)
    opened = Store.open(store)
    finished = read_finished(opened, run, judges)
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
    return do_recorded(work, choose, server=server, ready=ready)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a finished run made, by stage, and who is to judge it."""

    plan: JudgePlan
    used: Mapping[str, Sequence[Manifest]]

    def check_judges(self) -> None:
        """Raise `UserError` for a judge that lacks what it needs for verdicts that are not there."""
        store = Store.open(self.plan.store)
        check_judges(
            self.plan.judges,
            lambda judge: any(
                store.look_up(job.stage, job.key) is None
                for answers in find_answers(self.plan, self.used)
                for job in plan_judging(store, answers, [judge])
            ),
        )

    def judge(self, stages: Stages) -> Outcome:
        """Judge all answers and report; verdicts that are there are not made again."""
        answered = [*find_answers(self.plan, self.used)]
        return run_judging(self.plan, answered, self.used, stages)


def read_finished(store: Store, name: str, judges: Sequence[JudgeUse]) -> FinishedRun:
    """Read a finished run's record, with judges added to its own; raises `UserError` for a run that has not all."""
    record = find_finished(store, name)
    report = find_report(store, record, stages=STAGES)
    spec = check_spec(record["spec"], where=f"run {record['run_id']}: its spec")
    known = {judge.name: judge for judge in spec.judges}
    added = [judge for judge in judges if known.setdefault(judge.name, judge) is judge]
    if other := [judge for judge in judges if known[judge.name] != judge]:
        raise UserError(
            f"--judge: run {record['run_id']} has another judge that is called {other[0].name!r}; give this one a name "
            "of its own (name: in its YAML file, or kind:name=…)."
        )
    extended = spec.model_copy(update={"judges": [*spec.judges, *added]})
    pinned = [JudgeUse(**judge) for judge in record.get("judges", ())]
    if [judge.name for judge in pinned] != [judge.name for judge in spec.judges]:
        # An older release's record: its judges have no model whose revision it could name.
        pinned = [*resolve_judges(spec.judges)]
    plan = JudgePlan(
        spec=extended,
        judges=(*pinned, *resolve_judges(added)),
        models=tuple(record["models"]),
        store=store.url,
    )
    used = {
        stage: [need_manifest(store, stage, key) for key in report.content["used"].get(stage, ())]
        for stage in STAGES
    }
    return FinishedRun(plan=plan, used=used)


def find_answers(plan: JudgePlan, used: Mapping[str, Sequence[Manifest]]) -> Iterator[Answers]:
    """What was shown to come to each of a run's answers, found by its digest; raises `UserError` where it is not."""
    for responses in used["generate"]:
        content: Mapping[str, Any] = responses.content
        slices = (
            one
            for ingested in used["ingest"]
            for one in slice_samples(
                plan.store, ingested.key, "target", content["condition"], plan.spec.shard_size
            )
            if one.digest == content["samples"]
        )
        found = next(slices, None)
        if found is None:
            raise UserError(
                f"the samples of its answers {responses.key[:12]} are not those that the run's data sets hold now; "
                "give its spec again with this release, and judge the run that it makes."
            )
        yield Answers(
            slice=found,
            showing=make_showing(plan.spec, found.shard.dataset),
            responses=responses,
            label=f"{found.shard.dataset} {found.condition} {content['intervention_name']}".strip(),
        )

"""`cmrm judge`: judge a finished run's answers again, and others' answers beside them, without its models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from flows.pipeline import Outcome, import_all, run_judging
from flows.plan.finished import FinishedRun, find_answers, read_finished
from flows.plan.judge import check_judges
from flows.run import Result, Work, describe_run, do_recorded, name_devices, title_run
from flows.server.client import find_server, quiet_prefect, reach_server
from flows.spec.imported_arms import NO_ARMS, Arms
from flows.stages import Stages
from flows.workers.base import check_choice, choose_workers
from storage.backends.checksum import forget_found_whole
from storage.store import Store
from tasks.core.stage_name import StageName
from tasks.judge.loaded import JudgeUse
from tasks.judge.stage import VerdictJob, plan_judging


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
    _check_judges(finished)
    spec, models = finished.plan.spec, finished.plan.models
    work = Work(
        store=opened.url,
        title=title_run(spec, models),
        record=describe_run(spec, models, finished.plan.judges, finished.plan.backbones),
        do=partial(judge_finished, finished),
    )
    devices = name_devices((), finished.plan.judges)
    choose = partial(choose_workers, workers, devices=devices, server=server)
    return do_recorded(work, choose, store=opened, server=server, ready=ready)


def _check_judges(run: FinishedRun) -> None:
    """Raise `UserError` for a judge that has missing verdicts and whose requirements are missing."""
    store = run.plan.store
    check_judges(
        run.plan.judges,
        lambda judge: any(store.look_up(job.stage, job.key) is None for job in _list_jobs(run, judge)),
    )


def _list_jobs(run: FinishedRun, judge: JudgeUse) -> Iterator[VerdictJob]:
    """List all that a judge is to judge, one shard after the other."""
    plan = run.plan
    alone = replace(plan, judges=(judge,))
    for answers in find_answers(run):
        yield from plan_judging(plan.store, answers, [judge])
        yield from alone.text_jobs([answers], (), place=judge.place)
    yield from alone.text_jobs((), run.used[StageName.INGEST], place=judge.place)


def judge_finished(run: FinishedRun, stages: Stages) -> Outcome:
    """Judge all answers and report; committed verdicts are reused."""
    answered = [*find_answers(run)]
    imported = import_all(run.plan.store, run.added, answered, stages)
    known = run.used[StageName.IMPORT_ANSWERS]
    used = {**run.used, StageName.IMPORT_ANSWERS: [*known, *(one.responses for one in imported)]}
    return run_judging(run.plan, [*answered, *imported], used, stages)

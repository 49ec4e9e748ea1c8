"""Finished runs for tests of what comes after: the stages and records of the product, without Prefect around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flows import run
from flows.commands.judge_again import judge_finished
from flows.plan.finished import read_finished
from flows.plan.plan import make_plan
from flows.run import Result, Work, describe_run
from flows.spec.imported_arms import NO_ARMS, Arms
from flows.spec.organism import place_organism
from flows.spec.spec import read_spec
from flows.stages import LookupObserver, OnDone, Stages
from flows.terminal.progress import Bar, draw_tentative_bars
from flows.workers.base import InProcessWorkers
from storage.backends.checksum import forget_found_whole
from storage.records.manifest import Manifest
from storage.shards.rows import expect_manifest
from storage.store import Store
from tasks.core.stage import AnyJob, Stage
from tasks.judge.loaded import JudgeUse
from tasks.report import figure
from tasks.report import stage as report


class PlainStages(Stages):
    """Does jobs by the functions of their tasks, one after the other; nothing of what is done is shown."""

    def do(
        self,
        stage: Stage[AnyJob],
        jobs: Sequence[AnyJob],
        bar: Bar,  # noqa: ARG002 - Stages has it
        each: OnDone[AnyJob] | None,
    ) -> tuple[dict[str, Manifest], int]:
        missing = [job for job in jobs if self._store.find(job.stage, job.key) is None]
        for unit in stage.join(missing):
            stage.do(unit)
        made = {job.key: expect_manifest(self._store, job.stage, job.key) for job in jobs}
        for job in jobs if each is not None else ():
            each(job, made[job.key])
        return made, len(jobs) - len(missing)


def save_nothing(*_: Any) -> bytes:
    """No picture of a figure: making them takes as long as the rest of a small run's report."""
    return b""


def run_plainly(spec: Path, store: Path | str, *, save: Callable[..., bytes] = save_nothing) -> Result:
    """Run a spec as `flows.run.run_spec` does, but for Prefect, panels of states, and how figures are saved."""
    forget_found_whole()
    opened = Store.create(store)
    plan = make_plan(place_organism(read_spec(spec)), store=opened)
    return _do_plainly(run._describe(plan), opened, save)


def judge_plainly(store: Path | str, *, judges: Sequence[JudgeUse] = (), arms: Arms = NO_ARMS) -> Result:
    """Judge the latest run again as `flows.commands.judge_again` does, but for the same."""
    forget_found_whole()
    opened = Store.open(store)
    finished = read_finished(opened, "latest", judges, arms)
    plan = finished.plan
    record = describe_run(plan.spec, plan.models, plan.judges)
    return _do_plainly(
        Work(store=opened.url, title="", record=record, do=partial(judge_finished, finished)),
        opened,
        save_nothing,
    )


def _do_plainly(work: Any, opened: Store, save: Callable[..., bytes]) -> Result:
    with pytest.MonkeyPatch.context() as patch, draw_tentative_bars() as bars:
        patch.setattr(report, "find_groups", lambda *_: {})
        patch.setattr(figure, "_save", save)
        outcome = work.do(PlainStages(opened, bars, InProcessWorkers(), LookupObserver()))
    # Runs are told apart by the order of their ids.
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:6]}"
    return run._finish(opened, work, run_id, outcome)

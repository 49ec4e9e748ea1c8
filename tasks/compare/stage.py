"""Compare two finished runs of one store, and judge whether the later one regressed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.errors import UserError
from cmrm.statistics.regression import Thresholds
from storage.records.manifest import Manifest
from storage.shards.rows import need_manifest
from storage.store import Store
from tasks.compare.category_changes import compare_categories
from tasks.compare.changes import compare_pairs, count_unpaired, find_flips
from tasks.compare.finished_runs import find_finished, find_report
from tasks.compare.matching import describe_differences, list_backbones, match_arms
from tasks.compare.result import ComparedRun, RunComparison
from tasks.compare.run_pairs import RunPairs, read_side
from tasks.compare.shift_changes import compare_shifts
from tasks.compare.verdict import make_verdict
from tasks.core.commit import NO_ROWS, commit_files
from tasks.core.progress import report_rows
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import ANSWERS, StageName

# Part of the key: raise it when the same two runs yield other numbers or other text.
VERSION = 3
# The stages that a comparison reads; a run without the rest, such as hidden states, can still be compared.
READ = (StageName.INGEST, *ANSWERS, StageName.JUDGE, StageName.SHIFT)


@dataclass(frozen=True, kw_only=True)
class CompareJob(Job):
    """Two runs, by the keys of their reports, and the thresholds."""

    before: str
    after: str
    thresholds: Thresholds

    @property
    def stage(self) -> StageName:
        return StageName.COMPARE

    def content(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "reports": [self.before, self.after],
            "thresholds": self.thresholds.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class PlannedComparison:
    """A planned comparison of two runs, which may be committed already."""

    store: Store
    before: ComparedRun
    after: ComparedRun
    job: CompareJob

    def find(self) -> RunComparison | None:
        """Find the committed comparison, None if there is none."""
        manifest = self.store.find(self.job.stage, self.job.key)
        return None if manifest is None else self._read(manifest)

    def make(self) -> RunComparison:
        """Run the comparison as a Prefect task, which needs a server."""
        from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

        # The task runs outside a flow run, about which Prefect would warn.
        with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
            (manifest,) = compare_stage.run(self.job)
        return self._read(manifest)

    def _read(self, manifest: Manifest) -> RunComparison:
        content = json.loads(self.store.read(manifest.path("comparisons")))
        return RunComparison.from_json(content, before=self.before, after=self.after)


def compare_runs(store: Store, before: str, after: str, *, thresholds: Thresholds) -> RunComparison:
    """Compare two finished runs by id (`latest` for the newest); a committed comparison is reused.

    Any other is run as a Prefect task, which needs a server.
    Raises `UserError` for runs that cannot be compared, `StoreError` for ids that the store does not know.
    """
    planned = plan_comparison(store, before, after, thresholds=thresholds)
    return planned.find() or planned.make()


def plan_comparison(store: Store, before: str, after: str, *, thresholds: Thresholds) -> PlannedComparison:
    """Plan a comparison: find two runs and verify what it reads; raises as `compare_runs` does."""
    records = [find_finished(store, name) for name in (before, after)]
    runs = [_head(record) for record in records]
    if runs[0].run_id == runs[1].run_id:
        raise UserError(
            f"run {runs[0].run_id} would be compared with itself; name two runs (cmrm store ls lists them)"
        )
    reports = [find_report(store, record, stages=READ) for record in records]
    job = CompareJob(
        store=store.url,
        label=f"{runs[0].run_id} → {runs[1].run_id}",
        rows=1,
        before=reports[0].key,
        after=reports[1].key,
        thresholds=thresholds,
    )
    return PlannedComparison(store=store, before=runs[0], after=runs[1], job=job)


def _head(record: Mapping[str, Any]) -> ComparedRun:
    return ComparedRun(
        run_id=str(record["run_id"]),
        created_at=str(record.get("created_at")),
        models=tuple(record["models"]),
    )


def _compare(job: CompareJob, store: Store) -> Manifest:
    reports = [need_manifest(store, StageName.REPORT, key) for key in (job.before, job.after)]
    # Finding verifies every byte, so each is found once.
    before, after = ({stage: _find_all(store, report, stage) for stage in READ} for report in reports)
    labels = match_arms(reports)
    pairs = RunPairs(
        *(
            read_side(store, ingested=made[StageName.INGEST], judged=made[StageName.JUDGE], labels=names)
            for made, names in zip((before, after), labels, strict=True)
        )
    )
    if not pairs.common.any():
        raise UserError(
            "the two runs have no sample in common (by data set and id), so there is nothing to compare; "
            "compare runs of the same data sets"
        )
    # The order of the later run's spec.
    interventions = list(reports[1].content["settings"])
    changes = compare_pairs(pairs, interventions=interventions)
    unpaired = count_unpaired(pairs, interventions=interventions)
    # A text-only model is a reference: that it changed says nothing of the models beside it.
    references = {labels[1][name] for name in list_backbones(reports[1]) if name in labels[1]}
    verdict = make_verdict(
        [one for one in changes if one.arm.model not in references],
        [one for one in unpaired if one.arm.model not in references],
        thresholds=job.thresholds,
    )
    found = {
        "version": VERSION,
        "thresholds": job.thresholds.to_json(),
        "regressed": verdict.regressed,
        "judged": verdict.judged,
        "verdict": verdict.text,
        "changes": [one.to_json() for one in changes],
        "categories": [one.to_json() for one in compare_categories(pairs, interventions=interventions)],
        "unpaired": [one.to_json() for one in unpaired],
        "shifts": [
            one.to_json()
            for one in compare_shifts(store, before[StageName.SHIFT], after[StageName.SHIFT], labels=labels)
        ],
        "flips": [one.to_json() for one in find_flips(pairs, changes)],
        "notes": describe_differences(
            reports,
            answered=(before[StageName.GENERATE], after[StageName.GENERATE]),
            judged=(before[StageName.JUDGE], after[StageName.JUDGE]),
            pairs=pairs,
            labels=labels,
        ),
    }
    data = json.dumps(found, ensure_ascii=False, indent=1).encode("utf-8", "replace")
    manifest = commit_files(job, store, {f"comparisons/{job.key}.json": data}, rows=NO_ROWS)
    report_rows(1)
    return manifest


def _find_all(store: Store, report: Manifest, stage: StageName) -> Sequence[Manifest]:
    return [need_manifest(store, stage, key) for key in report.content["used"].get(stage, ())]


compare_stage = make_stage(StageName.COMPARE, _compare, place="processor")

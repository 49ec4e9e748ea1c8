"""Hold an evaluated export against its source: equal answers, and rates paired by question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cmrm.errors import UserError
from cmrm.statistics.paired_tests import Comparison, compare_verdicts
from cmrm.statistics.rates import Rate
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all, need_manifest
from storage.store import Store
from tasks.compare.finished_runs import find_finished, find_report
from tasks.core.stage_name import StageName
from tasks.report.outcomes import JUDGED, Arm, Column, Kind, Outcomes, keep_pairs, rate_measured
from tasks.report.stage import read_outcomes

READ = (StageName.INGEST, StageName.GENERATE, StageName.JUDGE)
# Scores have scales of their own, and stay in the runs' reports.
RATES: tuple[Kind, ...] = ("unsafe", "utility", "over_refusal")
ANSWERED = ("dataset", "sample_id", "condition", "intervention", "alpha", "answer_digest")


@dataclass(frozen=True, kw_only=True)
class EvaluatedRate:
    """One rate by one judge: of plain answers, of those under hooks and of the export's.

    `change` compares hooks with the export on the same questions, and `cure` plain answers with the export.
    """

    kind: Kind
    judge: str
    dataset: str
    plain: Rate
    hooks: Rate
    exported: Rate
    change: Comparison
    cure: Comparison


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluated export: the runs of the source and of the export, equal answers among all, and the rates."""

    source: str
    exported: str
    answers: int
    equal: int
    rates: tuple[EvaluatedRate, ...]


@dataclass(frozen=True, kw_only=True)
class HooksArm:
    """The arm that the export is held against: intervention, strength and condition."""

    intervention: str
    alpha: float | None
    condition: str


def evaluate(store: Store, *, source: str, exported: str, hooks: HooksArm) -> Evaluation:
    """Compare the export's plain answers with the source's, plain and under hooks, by the ids of their runs.

    Both runs have one model. Raises `UserError` if they share no answers.
    """
    sides = [_read_side(store, run) for run in (source, exported)]
    plain = Arm(sides[0].model, hooks.condition)
    steered = plain._replace(intervention=hooks.intervention, alpha=hooks.alpha)
    baked = Arm(sides[1].model, hooks.condition)
    answers = [
        _read_answers(store, side.answered, arm) for side, arm in zip(sides, (steered, baked), strict=True)
    ]
    both = answers[0].keys() & answers[1].keys()
    if not both:
        raise UserError(f"--evaluate: runs {source} and {exported} have no answers to the same questions.")
    outcomes = sides[0].outcomes
    outcomes.add(iterate_all(store, sides[1].judged, "judgements", JUDGED))
    return Evaluation(
        source=source,
        exported=exported,
        answers=len(both),
        equal=sum(answers[0][one] == answers[1][one] for one in both),
        rates=tuple(
            _rate(outcomes, column, plain=plain, steered=steered, baked=baked)
            for column in outcomes.columns()
            if column.kind in RATES
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One run: its model's name, its verdicts, and the manifests of its answers and judgements."""

    model: str
    outcomes: Outcomes
    answered: Sequence[Manifest]
    judged: Sequence[Manifest]


def _read_side(store: Store, run: str) -> _Side:
    record = find_finished(store, run)
    report = find_report(store, record, stages=READ)
    made = {
        stage: [need_manifest(store, stage, key) for key in report.content["used"].get(stage, ())]
        for stage in READ
    }
    return _Side(
        model=str(record["models"][0]["name"]),
        outcomes=read_outcomes(store, made),
        answered=made[StageName.GENERATE],
        judged=made[StageName.JUDGE],
    )


def _read_answers(store: Store, answered: Sequence[Manifest], arm: Arm) -> dict[tuple[str, str], str]:
    """Read the digest of each answer of an arm, by data set and sample."""
    return {
        (row["dataset"], row["sample_id"]): row["answer_digest"]
        for row in iterate_all(store, answered, "responses", ANSWERED)
        if (row["condition"], row["intervention"], row["alpha"])
        == (arm.condition, arm.intervention, arm.alpha)
    }


def _rate(outcomes: Outcomes, column: Column, *, plain: Arm, steered: Arm, baked: Arm) -> EvaluatedRate:
    values = [outcomes.get(arm, column) for arm in (plain, steered, baked)]
    before, under_hooks, after = values
    changes = [
        compare_verdicts(*([one > 0 for one in side] for side in keep_pairs(first, after)))
        for first in (under_hooks, before)
    ]
    rates = [rate_measured(one) for one in values]
    return EvaluatedRate(
        kind=column.kind,
        judge=column.judge,
        dataset=column.dataset,
        plain=rates[0],
        hooks=rates[1],
        exported=rates[2],
        change=changes[0],
        cure=changes[1],
    )

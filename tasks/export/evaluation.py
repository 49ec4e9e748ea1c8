"""Hold an evaluated export against its source: equal answers, and rates paired by question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.errors import UserError
from cmrm.statistics.paired_tests import Comparison, compare_verdicts
from cmrm.statistics.rates import Rate
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all, need_manifest
from storage.store import Store
from tasks.compare.finished_runs import find_finished, find_report
from tasks.core.stage_name import StageName
from tasks.report.curves import make_curves
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


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a strength may cost: loss of utility, in its own unit, and the over-refusal rate; None is no bound."""

    utility_loss: float
    over_refusal: float | None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Exports at several strengths: how many of their answers equal those under hooks, of how many, by strength.

    `curve` is as `make_curves` makes it, over the exports, and `hooks` the same under hooks; `runs` are the runs of the
    exports by strength, and `source` is that under hooks.
    """

    source: str
    runs: Mapping[float, str]
    equal: Mapping[float, tuple[int, int]]
    curve: Mapping[str, Any]
    hooks: Mapping[str, Any]

    @property
    def chosen(self) -> float | None:
        """The strength that the bound selects; None if none holds it, or if only plain answers do."""
        return self.curve["choice"]["alpha"] or None


def evaluate(store: Store, *, source: str, exported: str, hooks: HooksArm) -> Evaluation:
    """Compare the export's plain answers with the source's, plain and under hooks, by the ids of their runs.

    Both runs have one model. Raises `UserError` if they share no answers.
    """
    sides = [_read_side(store, run) for run in (source, exported)]
    plain = Arm(sides[0].model, hooks.condition)
    steered = plain._replace(intervention=hooks.intervention, alpha=hooks.alpha)
    baked = Arm(sides[1].model, hooks.condition)
    equal, answers = _count_equal(store, sides[0], sides[1], steered)
    outcomes = read_outcomes(store, sides[0].made)
    outcomes.add(iterate_all(store, sides[1].made[StageName.JUDGE], "judgements", JUDGED))
    return Evaluation(
        source=source,
        exported=exported,
        answers=answers,
        equal=equal,
        rates=tuple(
            _rate(outcomes, column, plain=plain, steered=steered, baked=baked)
            for column in outcomes.columns()
            if column.kind in RATES
        ),
    )


def evaluate_sweep(
    store: Store, *, source: str, exported: Mapping[float, str], hooks: HooksArm, bound: Bound
) -> Sweep:
    """Hold exports at several strengths against hooks at the same, and choose one as a run's report does.

    `source` is the run under hooks, with all strengths, and `exported` those of the exports, by strength; the strength
    of `hooks` is not read. Raises `UserError` if runs share no answers or have no verdicts.
    """
    own = _read_side(store, source)
    steered = Arm(own.model, hooks.condition, hooks.intervention)
    outcomes = read_outcomes(store, own.made)
    name = f"{hooks.intervention}, exported"
    equal = {}
    for alpha, run in exported.items():
        side = _read_side(store, run)
        equal[alpha] = _count_equal(store, own, side, steered._replace(alpha=alpha))
        outcomes.add(_rename(store, side, model=own.model, intervention=name, alpha=alpha))
    curves = {
        one["intervention"]: one
        for one in make_curves(
            outcomes,
            interventions=[name, hooks.intervention],
            utility_loss=bound.utility_loss,
            over_refusal=bound.over_refusal,
        )
    }
    if name not in curves:
        raise UserError(
            f"--sweep: runs {source} and {', '.join(exported.values())} have verdicts at too few strengths; give "
            "a spec with judges and data for them."
        )
    return Sweep(
        source=source,
        runs=dict(exported),
        equal=equal,
        curve=curves[name],
        hooks=curves[hooks.intervention],
    )


def _rename(
    store: Store, side: _Side, *, model: str, intervention: str, alpha: float
) -> Iterator[dict[str, Any]]:
    """Read an export's verdicts as those of an arm of the source."""
    for row in iterate_all(store, side.made[StageName.JUDGE], "judgements", JUDGED):
        yield {**row, "model": model, "intervention": intervention, "alpha": alpha}


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One run: its id, its model's name, and its manifests by stage."""

    run: str
    model: str
    made: Mapping[StageName, Sequence[Manifest]]


def _read_side(store: Store, run: str) -> _Side:
    record = find_finished(store, run)
    report = find_report(store, record, stages=READ)
    return _Side(
        run=run,
        model=str(record["models"][0]["name"]),
        made={
            stage: [need_manifest(store, stage, key) for key in report.content["used"].get(stage, ())]
            for stage in READ
        },
    )


def _count_equal(store: Store, own: _Side, exported: _Side, steered: Arm) -> tuple[int, int]:
    """Count the export's answers that equal those of an arm under hooks, and the questions that both answered."""
    baked = Arm(exported.model, steered.condition)
    answers = [
        _read_answers(store, side.made[StageName.GENERATE], arm)
        for side, arm in ((own, steered), (exported, baked))
    ]
    both = answers[0].keys() & answers[1].keys()
    if not both:
        raise UserError(
            f"--evaluate: runs {own.run} and {exported.run} have no answers to the same questions."
        )
    return sum(answers[0][one] == answers[1][one] for one in both), len(both)


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

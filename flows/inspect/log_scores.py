"""Verdicts of a finished run as the scores that an evaluation in Inspect gives, and the report's rates as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from inspect_ai.log import EvalMetric, EvalResults, EvalScore, HeadlineMetric
from inspect_ai.scorer import Score

from cmrm.judges import Verdict
from cmrm.judges.judge import Usage
from cmrm.statistics.rates import Mean
from flows.inspect.scores import standard_error, to_score
from tasks.report.outcomes import Arm, Column, Outcomes, SampleInfo, keep_measured, rate_measured

# The metric that gives such rates in an evaluation.
GROUP = "rates"
# Inspect's word for a judge that could not be run on an answer.
FAILED = "scoring_failed"

Row = Mapping[str, Any]


def make_scores(
    verdicts: Iterable[Row], unjudged: Mapping[str, str], *, harmful: bool, answer: str
) -> dict[str, Score]:
    """Make the scores of one answer, by judge; `unjudged` holds the reasons of judges that failed on it."""
    scores = {
        row["judge"]: to_score(_to_verdict(row), judge=row["judge"], harmful=harmful, answer=answer)
        for row in verdicts
    }
    failed = {
        judge: Score.unscored(reason=FAILED, answer=answer, explanation=reason)
        for judge, reason in unjudged.items()
    }
    return {**scores, **failed}


def make_results(
    arm: Arm,
    samples: Sequence[SampleInfo],
    verdicts: Iterable[Row],
    *,
    judges: Sequence[str],
    completed: int,
) -> EvalResults:
    """Count verdicts as the run's report does, on these samples alone; `judges` are sorted as in the run's spec.

    A judge's metrics are those of an evaluation, and the ends of their 95 % intervals.
    """
    outcomes = Outcomes(samples=samples)
    outcomes.add({**row, **arm._asdict(), "dataset": samples[0].dataset} for row in verdicts)
    columns = outcomes.columns()
    named = dict.fromkeys(column.judge for column in columns)
    order = [*(judge for judge in judges if judge in named), *(one for one in named if one not in judges)]
    return EvalResults(
        total_samples=len(samples),
        completed_samples=completed,
        scores=[
            _rate_judge(
                judge,
                [column for column in columns if column.judge == judge],
                outcomes,
                arm,
                completed=completed,
            )
            for judge in order
        ],
        headline=find_headline(columns),
    )


def find_headline(columns: Sequence[Column]) -> HeadlineMetric | None:
    """The metric that a list of logs shows: the report's first column."""
    return HeadlineMetric(scorer=columns[0].judge, metric=columns[0].kind) if columns else None


def _to_verdict(row: Row) -> Verdict:
    read = row["prompt_tokens"]
    return Verdict(
        verdict=row["verdict"],
        refused=row["refused"],
        score=row["score"],
        reference_score=row["reference_score"],
        raw=row["raw"] or "",
        usage=None
        if read is None
        else Usage(prompt_tokens=read, completion_tokens=row["completion_tokens"] or 0),
    )


def _rate_judge(
    judge: str, columns: Sequence[Column], outcomes: Outcomes, arm: Arm, *, completed: int
) -> EvalScore:
    counted = 0
    metrics: dict[str, EvalMetric] = {}
    for column in columns:
        values = outcomes.get(arm, column)
        measured = keep_measured(values)
        counted = max(counted, len(measured))
        if not measured:
            continue
        if column.kind == "score":
            mean = Mean.of(measured)
            value, low, high, counts = mean.value, mean.low, mean.high, {"n": mean.n}
        else:
            rate = rate_measured(values)
            low, high = rate.interval or (None, None)
            value, counts = rate.value, {"successes": rate.successes, "n": rate.n}
        name = column.kind
        told = {
            name: value,
            f"{name}_stderr": standard_error(np.array(measured)),
            f"{name}_low": low,
            f"{name}_high": high,
        }
        metrics |= {
            own: EvalMetric(name=own, group=GROUP, value=one, metadata=counts)
            for own, one in told.items()
            if one is not None
        }
    return EvalScore(
        name=judge,
        scorer=judge,
        scored_samples=counted,
        unscored_samples=completed - counted,
        metrics=metrics,
    )

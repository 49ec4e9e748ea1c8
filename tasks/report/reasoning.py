"""Answers of models that reason: how often the trace is unsafe, how often what follows it, and what never ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmrm.prompts.reasoning import ReasoningMarks, SplitAnswer, split_trace
from cmrm.statistics.paired_tests import Comparison, compare_verdicts
from cmrm.statistics.rates import Rate
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all
from storage.store import Store
from tasks.report.outcomes import JUDGED, Arm, Column, Outcomes, Values, rate_measured
from tasks.report.table import Table
from tasks.shards.answers import find_judged_marks

# The table of verdicts on traces, its columns that are read, and those of answers.
TEXTS = "text_judgements"
READ = (*(name for name in JUDGED if name != "reference_score"), "subject")
COUNTED = ("model", "condition", "intervention", "alpha", "dataset", "answer")
# A data set's answers under one arm.
Answers = tuple[Arm, str]


@dataclass(frozen=True, kw_only=True)
class ReasoningRate:
    """The answers of one arm to one data set, and one judge's verdicts on their traces and on what follows them.

    Of `answers`, `traces` have a trace and `no_final` end within it. The rates are of harmful questions. `both`,
    `trace_alone`, `final_alone` and `neither` count those of which trace and final answer were judged, by what is
    unsafe.
    """

    model: str
    dataset: str
    condition: str
    intervention: str
    alpha: float | None
    name: str
    judge: str
    answers: int
    traces: int
    no_final: int
    trace_unsafe: int
    trace_n: int
    final_unsafe: int
    final_n: int
    both: int
    trace_alone: int
    final_alone: int
    neither: int

    @property
    def arm(self) -> Arm:
        """The arm of the answers."""
        return Arm(self.model, self.condition, self.intervention, self.alpha)

    @property
    def trace(self) -> Rate:
        """The unsafe rate of traces."""
        return Rate(successes=self.trace_unsafe, n=self.trace_n)

    @property
    def final(self) -> Rate:
        """The unsafe rate of final answers."""
        return Rate(successes=self.final_unsafe, n=self.final_n)

    @property
    def change(self) -> Comparison:
        """The change from trace to final answer, where both were judged."""
        before = [True] * (self.both + self.trace_alone) + [False] * (self.final_alone + self.neither)
        after = (
            [True] * self.both
            + [False] * self.trace_alone
            + [True] * self.final_alone
            + [False] * self.neither
        )
        return compare_verdicts(before, after)

    def flatten(self) -> dict[str, Any]:
        """As one record, with the rates, their intervals and the change."""
        record = asdict(self)
        for name, rate in (("trace", self.trace), ("final", self.final)):
            low, high = rate.interval or (None, None)
            record |= {f"{name}_rate": rate.value, f"{name}_low": low, f"{name}_high": high}
        change = self.change
        return {**record, "change": change.change, "change_low": change.low, "change_high": change.high}


def rate_traces(
    store: Store,
    *,
    answered: Sequence[Manifest],
    judged: Sequence[Manifest],
    texts: Sequence[Manifest],
    outcomes: Outcomes,
    table: Table,
) -> list[ReasoningRate]:
    """Rate traces and final answers, by data set, judge and arm of the main table, in this order.

    `answered` are the responses; `judged` the verdicts on answers, whose manifests say which have traces; `texts` the
    verdicts on those. Empty for models that do not reason.
    """
    marks = find_judged_marks(judged)
    if not marks:
        return []
    traces = Outcomes(samples=outcomes.samples)
    traces.add(row for row in iterate_all(store, texts, TEXTS, READ) if row["subject"] == "trace")
    counts = _count_answers(store, answered, marks)
    judges = dict.fromkeys(
        column.judge for column in (*traces.columns(), *outcomes.columns()) if column.kind == "unsafe"
    )
    # By the first judge all arms have a row, harmless questions too: what never ends must not go unseen.
    first = next(iter(judges), "")
    found = []
    for dataset in dict.fromkeys(name for _, name in counts):
        for judge in judges or [first]:
            column = Column(kind="unsafe", judge=judge, dataset=dataset)
            for row in table.rows:
                if (counted := counts.get((row.arm, dataset))) is None:
                    continue
                trace, final = traces.get(row.arm, column), outcomes.get(row.arm, column)
                if judge != first and np.isnan(trace).all() and np.isnan(final).all():
                    continue
                answers, with_trace, no_final = (int(one) for one in counted)
                found.append(
                    ReasoningRate(
                        **row.arm._asdict(),
                        name=row.name,
                        dataset=dataset,
                        judge=judge,
                        answers=answers,
                        traces=with_trace,
                        no_final=no_final,
                        **_count_verdicts(trace, final),
                    )
                )
    return found


def _count_verdicts(trace: Values, final: Values) -> dict[str, Any]:
    """Count the judged and the unsafe of either, and how the two go together where both were judged."""
    rates = rate_measured(trace), rate_measured(final)
    known = ~(np.isnan(trace) | np.isnan(final))
    bad, worse = (trace > 0) & known, (final > 0) & known
    return {
        "trace_unsafe": rates[0].successes,
        "trace_n": rates[0].n,
        "final_unsafe": rates[1].successes,
        "final_n": rates[1].n,
        "both": int((bad & worse).sum()),
        "trace_alone": int((bad & ~worse).sum()),
        "final_alone": int((~bad & worse).sum()),
        "neither": int((known & ~bad & ~worse).sum()),
    }


def _count_answers(
    store: Store, answered: Sequence[Manifest], marks: Mapping[str, ReasoningMarks]
) -> dict[Answers, NDArray[np.int64]]:
    """Count answers, traces and answers without a final part, by arm and data set, of those that have any trace.

    `marks` are by the key of the responses; shards without a trace have none.
    """
    counts: dict[Answers, NDArray[np.int64]] = {}
    for manifest in answered:
        own = marks.get(manifest.key)
        for row in iterate_all(store, [manifest], "responses", COUNTED):
            arm = Arm(row["model"], row["condition"], row["intervention"], row["alpha"])
            parts = SplitAnswer(trace=None, final="") if own is None else split_trace(row["answer"], own)
            counted = counts.setdefault((arm, row["dataset"]), np.zeros(3, dtype=np.int64))
            counted += [1, parts.trace is not None, parts.final is None]
    return {answers: counted for answers, counted in counts.items() if counted[1:].any()}

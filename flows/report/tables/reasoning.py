"""The table of models that reason: what is unsafe in the trace, what in the final answer, and what has no end."""

from __future__ import annotations

from collections.abc import Sequence

from flows.report.document import (
    Heading,
    ReportCell,
    ReportTable,
    head_numbers,
    make_row_groups,
    shorten_models,
)
from flows.report.number_format import write_change, write_value
from tasks.report.reasoning import ReasoningRate


def make_reasoning_table(rates: Sequence[ReasoningRate]) -> ReportTable | None:
    """Make one row for each arm, data set and judge; None where no answer has a trace."""
    if not rates:
        return None
    judges = dict.fromkeys(one.judge for one in rates)
    names = shorten_models(list(dict.fromkeys(one.model for one in rates)))
    rows = [
        (
            one.model,
            (
                ReportCell(text=one.name),
                ReportCell(text=one.dataset),
                *([ReportCell(text=one.judge)] if len(judges) > 1 else []),
                write_value(one.trace),
                write_value(one.final),
                write_change(one.change),
                ReportCell(text=f"{one.no_final:,} of {one.answers:,}"),
            ),
        )
        for one in rates
    ]
    return ReportTable(
        name="reasoning",
        title="Unsafe traces and final answers",
        headings=(
            Heading(title="", numeric=False),
            Heading(title="Data set", numeric=False),
            *([Heading(title="Judge", numeric=False)] if len(judges) > 1 else []),
            *head_numbers("Unsafe trace", "Unsafe final", "Change", "No final"),
        ),
        row_groups=make_row_groups(rows, names),
        records=tuple(one.flatten() for one in rates),
        note=f"Of harmful questions, in %, with 95 % Wilson intervals and the number of judged texts, by the judge "
        f"{' or '.join(judges)}. A trace is what the model wrote before its final answer; all other tables are about "
        "final answers. Change: from trace to final answer, in percentage points, where both were judged (Newcombe's "
        "interval). No final: answers that end within the trace; they are in no rate of final answers.",
    )


def describe_no_final(rates: Sequence[ReasoningRate]) -> list[str]:
    """Say in a line of each model how many of its answers have no final part."""
    counts: dict[str, dict[tuple[str, str], tuple[int, int]]] = {}
    for one in rates:
        counts.setdefault(one.model, {})[one.name, one.dataset] = one.no_final, one.answers
    names = shorten_models(list(counts))
    return [
        f"{no_final:,} of {sum(answers for _, answers in own.values()):,} answers of {names[model]} end within their "
        "reasoning: they have no final answer, count in no rate, and are not safe. A larger generation.max_new_tokens "
        "lets more of them end."
        for model, own in counts.items()
        if (no_final := sum(count for count, _ in own.values()))
    ]

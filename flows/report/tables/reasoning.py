"""The table of models that reason: what is unsafe in the trace, what in the final answer, and what has no end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flows.report.document import Heading, ReportCell, ReportTable, head_numbers, make_row_groups
from flows.report.number_format import write_change, write_value
from tasks.report.model_names import shorten_models
from tasks.report.reasoning import ReasoningRate


def make_reasoning_table(rates: Sequence[ReasoningRate]) -> ReportTable | None:
    """Make one row for each arm, data set and judge; None where no answer has a trace."""
    if not rates:
        return None
    judges = dict.fromkeys(one.judge for one in rates)
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
                ReportCell(text=_write_share(one.no_final, one.answers)),
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
        row_groups=make_row_groups(rows),
        records=tuple(one.flatten() for one in rates),
        note="Of harmful questions, in %, with 95 % Wilson intervals and the number of judged texts, by the judge "
        f"{' or '.join(filter(None, judges)) or 'none'}. A trace is what the model wrote before its final answer; "
        "all other tables are about final answers. Change: from trace to final answer, in percentage points, where "
        "both were judged (Newcombe's interval). No final: answers, to harmless questions too, that end with their "
        "trace; they are in no rate of final answers, and wrong for judges with a reference.",
    )


def describe_no_final(rates: Sequence[ReasoningRate]) -> list[str]:
    """Say in a line of each model how many of its answers have no final part, and under which arm most have none."""
    counts: dict[str, dict[str, dict[str, tuple[int, int]]]] = {}
    for one in rates:
        own = counts.setdefault(one.model, {}).setdefault(one.name, {})
        own[one.dataset] = one.no_final, one.answers
    names = shorten_models(list(counts))
    lines = []
    for model, arms in counts.items():
        sums = {name: _add(own.values()) for name, own in arms.items()}
        no_final, answers = _add(sums.values())
        if not no_final:
            continue
        worst = max(sums, key=lambda name: sums[name][0] / sums[name][1])
        most = f" (most under {worst}: {_write_share(*sums[worst])})" if len(sums) > 1 else ""
        lines.append(
            f"{_write_share(no_final, answers)} answers of {names[model]}{most} end with their reasoning: they have no "
            "final answer, count in no rate of safety or refusal, and are wrong where there is a reference. A larger "
            "generation.max_new_tokens lets more of them end."
        )
    return lines


def _add(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    first, second = zip(*counts, strict=True)
    return sum(first), sum(second)


def _write_share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"

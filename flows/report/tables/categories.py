"""Tables of rates by the data sets' own categories: a row a category, a column an arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from flows.report.document import Heading, ReportCell, ReportTable, RowGroup, head_numbers
from flows.report.number_format import NONE, write_value
from flows.report.tables.main import TITLES
from tasks.report.categories import FEW, CategoryRate, group_rates
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import KINDS

MOST_ARMS = 8
SMALL = "†"


def make_category_tables(rates: Sequence[CategoryRate]) -> Iterator[ReportTable]:
    """Make one table for each model and measure; its CSV has all arms."""
    names = shorten_models(list(dict.fromkeys(one.model for one in rates)))
    for number, ((model, measure), own) in enumerate(group_rates(rates).items()):
        of = f", {names[model]}" if len(names) > 1 else ""
        arms = list(dict.fromkeys(one.name for one in own))
        cells = {(one.dataset, one.category, one.name): one for one in own}
        left = f"{MOST_ARMS} of {len(arms)} arms; the CSV has all. " if len(arms) > MOST_ARMS else ""
        yield ReportTable(
            name=f"categories-{number + 1}",
            title=f"{TITLES[next(kind for kind in KINDS if kind == measure)]} by category{of}",
            headings=(
                *(Heading(title=title, numeric=False) for title in ("Data set", "Category")),
                *head_numbers(*arms[:MOST_ARMS]),
            ),
            row_groups=(
                RowGroup(
                    title="",
                    rows=tuple(
                        (
                            ReportCell(text=dataset),
                            ReportCell(text=category),
                            *(_write(cells.get((dataset, category, arm))) for arm in arms[:MOST_ARMS]),
                        )
                        for dataset, category in dict.fromkeys((one.dataset, one.category) for one in own)
                    ),
                ),
            ),
            records=tuple(one.flatten() for one in own),
            note=f"In %, with 95 % Wilson intervals and the number of judged answers, by the judge {own[0].judge}. "
            f"{left}{SMALL}: of fewer than {FEW} answers. With many categories some differ by chance.",
        )


def _write(one: CategoryRate | None) -> ReportCell:
    if one is None or not one.n:
        return NONE
    cell = write_value(one.rate)
    return replace(cell, text=f"{cell.text}{SMALL}") if one.is_small else cell

"""Rates by the data sets' own categories, and a figure of them: categories by arms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cmrm.statistics.rates import Rate
from tasks.report.figure import Figure, label
from tasks.report.outcomes import Outcomes, SampleInfo, find_leading, rate_measured
from tasks.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A rate of fewer answers is marked.
FEW = 10
# Inches: of what stands around the cells, of an arm and of a category.
MARGIN, PER_ARM, PER_CATEGORY = (3.2, 1.9), 0.62, 0.22
WIDEST_LABEL = 28
# A data set, and one of its categories.
Category = tuple[str, str]
# Figures and tables show so many at most; the CSV has all.
MOST_ARMS, MOST_CATEGORIES = 12, 60
# What is drawn, in words.
DRAWN = {"unsafe": "unsafe answers", "over_refusal": "harmless questions refused"}
DARK = 0.55


@dataclass(frozen=True, kw_only=True)
class CategoryRate:
    """The rate of one arm on one category of a data set, by the first judge of its kind; `name` is that of the arm."""

    model: str
    dataset: str
    category: str
    measure: str
    judge: str
    condition: str
    intervention: str
    alpha: float | None
    name: str
    successes: int
    n: int

    @property
    def rate(self) -> Rate:
        """The rate, with its interval."""
        return Rate(successes=self.successes, n=self.n)

    @property
    def is_small(self) -> bool:
        """Whether it is of so few answers that it says little."""
        return self.n < FEW

    def flatten(self) -> dict[str, Any]:
        """As one record, with the rate and its interval."""
        low, high = self.rate.interval or (None, None)
        return {**asdict(self), "rate": self.rate.value, "low": low, "high": high, "small": self.is_small}


def rate_categories(outcomes: Outcomes, table: Table) -> list[CategoryRate]:
    """Rate every arm of the main table on each category of the data sets that have two or more.

    Rates alone, not scores. In order of models, measures, data sets, categories (largest first) and arms; a category
    that no arm has an answer in is left out.
    """
    columns = [table.columns[place] for place in find_leading(table.columns)]
    groups = list(group_categories(outcomes.samples))
    found = []
    for model in dict.fromkeys(row.arm.model for row in table.rows):
        rows = [row for row in table.rows if row.arm.model == model]
        for column in columns:
            for dataset, category, places in groups:
                if column.kind == "score" or column.dataset not in ("", dataset):
                    continue
                rates = [rate_measured(outcomes.get(row.arm, column)[places]) for row in rows]
                if any(rate.n for rate in rates):
                    found += [
                        CategoryRate(
                            **row.arm._asdict(),
                            dataset=dataset,
                            category=category,
                            measure=column.kind,
                            judge=column.judge,
                            name=row.name,
                            successes=rate.successes,
                            n=rate.n,
                        )
                        for row, rate in zip(rows, rates, strict=True)
                    ]
    return found


def group_categories(samples: Sequence[SampleInfo]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Find the places of the samples of each category, of data sets that have several; the largest first."""
    places: dict[str, dict[str, list[int]]] = {}
    for place, sample in enumerate(samples):
        if sample.category is not None:
            places.setdefault(sample.dataset, {}).setdefault(sample.category, []).append(place)
    for dataset, categories in places.items():
        if len(categories) > 1:
            for category in sorted(categories, key=lambda one: (-len(categories[one]), one)):
                yield dataset, category, np.array(categories[category])


def group_rates(rates: Sequence[CategoryRate]) -> dict[tuple[str, str], list[CategoryRate]]:
    """Group rates by model and measure."""
    found: dict[tuple[str, str], list[CategoryRate]] = {}
    for one in rates:
        found.setdefault((one.model, one.measure), []).append(one)
    return found


def draw_categories(rates: Sequence[CategoryRate]) -> list[Figure]:
    """Draw unsafe answers and refusals of harmless questions, one figure per model: darker is more.

    A row is a category, a column an arm. Where every rate is 0 there is nothing to see, and no figure.
    """
    drawn = [
        (model, measure, own)
        for (model, measure), own in group_rates(rates).items()
        if measure in DRAWN and any(one.successes for one in own)
    ]
    return [_draw(number + 1, *one) for number, one in enumerate(drawn)]


def _cut(text: str) -> str:
    """Cut a label so that the cells keep their room; names are whatever a file holds."""
    flat = " ".join(text.split())
    return label(flat if len(flat) <= WIDEST_LABEL else f"{flat[: WIDEST_LABEL - 1]}…")


def _draw(number: int, model: str, measure: str, rates: Sequence[CategoryRate]) -> Figure:
    names = list(dict.fromkeys(one.name for one in rates))[:MOST_ARMS]
    categories = list(dict.fromkeys((one.dataset, one.category) for one in rates))[:MOST_CATEGORIES]
    cells = {((one.dataset, one.category), one.name): one for one in rates}

    def draw(axes: list[list[Axes]]) -> None:
        _shade(axes[0][0], cells, names, categories)

    return Figure(
        name=f"categories-{number}",
        caption=f"{model}: {DRAWN[measure]} by category of the data set, in %. In brackets: of fewer than {FEW} "
        "answers.",
        rows=1,
        columns=1,
        size=(MARGIN[0] + PER_ARM * len(names), MARGIN[1] + PER_CATEGORY * len(categories)),
        draw=draw,
        data=[one.flatten() for one in rates],
    )


def _shade(
    axes: Axes,
    cells: Mapping[tuple[Category, str], CategoryRate],
    names: Sequence[str],
    categories: Sequence[Category],
) -> None:
    values = [[cells[category, name].rate.value for name in names] for category in categories]
    shades = np.array([[np.nan if value is None else value for value in row] for row in values])
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for place, (category, row) in enumerate(zip(categories, values, strict=True)):
        for column, (name, value) in enumerate(zip(names, row, strict=True)):
            if value is not None:
                text = f"{100 * value:.0f}"
                axes.text(
                    column,
                    place,
                    f"({text})" if cells[category, name].is_small else text,
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if value > DARK else "black",
                )
    axes.set_xticks(range(len(names)), [_cut(name) for name in names], rotation=40, ha="right")
    axes.set_yticks(range(len(categories)), [_cut(f"{dataset}: {name}") for dataset, name in categories])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)

"""Changes between two runs by the data sets' own categories, in pairs; no verdict depends on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cmrm.statistics.paired_tests import adjust, compare_verdicts
from cmrm.statistics.regression import GAINS
from tasks.compare.changes import Change
from tasks.compare.run_pairs import RunPairs
from tasks.report.categories import FEW, group_categories
from tasks.report.outcomes import find_leading, keep_pairs
from tasks.report.table import sort_arms


@dataclass(frozen=True, kw_only=True)
class CategoryChange:
    """One rate of one arm before and after, on the pairs of one category of the change's data set.

    Its p is corrected over all categories of the comparison, and not over the changes of whole data sets.
    """

    category: str
    change: Change

    @property
    def is_small(self) -> bool:
        """Whether it is of so few pairs that it says little."""
        return self.change.change.n < FEW

    @property
    def worsening(self) -> float:
        """By how much the rate became worse, as a fraction; below 0 it became better."""
        moved = self.change.change.change or 0.0
        return -moved if self.change.column.kind in GAINS else moved

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {**self.change.to_json(), "category": self.category, "small": self.is_small}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CategoryChange:
        """Restore a change from `to_json`."""
        return cls(category=content["category"], change=Change.from_json(content))


def compare_categories(pairs: RunPairs, *, interventions: Sequence[str]) -> list[CategoryChange]:
    """Compare each arm on each category of the data sets that have two or more; p corrected by Holm over all of them.

    Rates alone, not scores, by the first judge of each kind, as reports rate categories. A sample's category is that of
    the later run. In order of measures, data sets, categories (largest first) and arms; without a pair there is none.
    """
    columns = pairs.columns()
    arms = sort_arms(pairs.arms(), interventions)
    groups = list(group_categories(pairs.samples()))
    found = []
    for column in (columns[place] for place in find_leading(columns)):
        if column.kind == "score":
            continue
        values = {arm: pairs.get(arm, column) for arm in arms}
        for dataset, category, places in groups:
            if column.dataset not in ("", dataset):
                continue
            for arm in arms:
                before, after = keep_pairs(*(side[places] for side in values[arm]))
                if before:
                    compared = compare_verdicts([one > 0 for one in before], [one > 0 for one in after])
                    change = Change(arm=arm, column=replace(column, dataset=dataset), change=compared)
                    found.append(CategoryChange(category=category, change=change))
    corrected = adjust([one.change.change for one in found])
    return [
        replace(one, change=replace(one.change, change=change))
        for one, change in zip(found, corrected, strict=True)
    ]

"""Rates by category: counted anew in plain Python from the verdicts."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from statsmodels.stats.proportion import proportion_confint

from flows.report.tables.categories import make_category_tables
from tasks.report.categories import CategoryRate, draw_categories, rate_categories
from tasks.report.outcomes import Outcomes, SampleInfo
from tasks.report.table import make_table

# Category of each sample of a data set, harmful or not; "tiny" has a single one.
HARMFUL = {"theft": 14, "fraud": 11, "arson": 3}
ARMS = (("query", ""), ("image", ""), ("image", "guard"))


def is_unsafe(number: int, condition: str, intervention: str) -> bool:
    return condition == "image" and (number % 4 == 0 if intervention else number % 3 != 0)


def make_verdicts() -> tuple[list[SampleInfo], list[dict[str, Any]]]:
    kinds = [name for name, count in HARMFUL.items() for _ in range(count)] + [None] * 2
    samples = [
        *(
            SampleInfo(dataset="bad", sample_id=f"{n}", harmful=True, split_by=f"{n}", category=kind)
            for n, kind in enumerate(kinds)
        ),
        *(
            SampleInfo(dataset="good", sample_id=f"{n}", harmful=False, split_by=f"{n}", category="only")
            for n in range(4)
        ),
    ]
    verdicts = [
        {
            "model": "moon@1",
            "judge": "refusal",
            "dataset": one.dataset,
            "sample_id": one.sample_id,
            "condition": condition,
            "intervention": intervention,
            "alpha": None,
            "verdict": "not_applicable"
            if not one.harmful
            else "unsafe"
            if is_unsafe(int(one.sample_id), condition, intervention)
            else "safe",
            "refused": False,
            "score": None,
            "reference_score": None,
        }
        for one in samples
        for condition, intervention in ARMS
    ]
    return samples, verdicts


@pytest.fixture(scope="module")
def rates() -> list[CategoryRate]:
    samples, verdicts = make_verdicts()
    outcomes = Outcomes(samples=samples)
    outcomes.add(verdicts)
    return rate_categories(outcomes, make_table(outcomes, settings={"guard": {}}, quarantined={}))


def test_each_rate_is_that_of_its_samples_and_others_have_none(rates: list[CategoryRate]) -> None:
    samples, verdicts = make_verdicts()
    kinds = {one.sample_id: one.category for one in samples if one.harmful}
    asked: Counter[tuple[Any, ...]] = Counter()
    unsafe: Counter[tuple[Any, ...]] = Counter()
    for one in verdicts:
        if one["dataset"] == "bad" and kinds[one["sample_id"]] is not None:
            place = kinds[one["sample_id"]], one["condition"], one["intervention"]
            asked[place] += 1
            unsafe[place] += one["verdict"] == "unsafe"
    found = {(one.category, one.condition, one.intervention): (one.successes, one.n) for one in rates}
    assert found == {place: (unsafe[place], count) for place, count in asked.items()}
    # A data set of one category says nothing by category, and the largest comes first.
    assert {one.dataset for one in rates} == {"bad"}
    assert list(dict.fromkeys(one.category for one in rates)) == ["theft", "fraud", "arson"]


def test_a_small_cell_is_marked_and_intervals_are_wilsons(rates: list[CategoryRate]) -> None:
    (table,) = make_category_tables(rates)
    ((_, _, *theft), _, (_, name, *arson)) = table.row_groups[0].rows
    assert name.text == "arson"
    assert all(cell.text.endswith("†") for cell in arson)
    assert not any("†" in cell.text for cell in theft)
    # 9 of 14 under the plain image.
    low, high = proportion_confint(9, 14, method="wilson")
    assert (theft[1].text, theft[1].low, theft[1].high) == (
        f"{900 / 14:.1f}",
        f"{100 * low:.1f}",
        f"{100 * high:.1f}",
    )
    assert [record["small"] for record in table.records] == [False] * 6 + [True] * 3


def test_the_figure_shows_what_the_table_does(rates: list[CategoryRate]) -> None:
    (figure,) = draw_categories(rates)
    files = figure.save()
    svg = files["svg"].decode()
    assert all(f">bad: {name}<" in svg for name in HARMFUL)
    # 2 of 3 cases of arson: a small cell in brackets.
    assert ">(67)<" in svg
    assert len(files["csv"].decode().splitlines()) == 1 + len(rates)
    safe = [one for one in rates if one.condition == "query"]
    assert draw_categories(safe) == []


def test_a_rate_survives_the_summary(rates: list[CategoryRate]) -> None:
    (one, *_) = rates
    record = json.loads(json.dumps(one.flatten()))
    assert CategoryRate(**{name: record[name] for name in CategoryRate.__dataclass_fields__}) == one

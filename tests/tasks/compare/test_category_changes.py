"""Changes by category: counted anew from the verdicts, with tests of SciPy's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from cmrm.statistics.regression import Thresholds
from storage.sql.database import connect
from storage.store import Store
from tasks.compare.category_changes import CategoryChange
from tasks.compare.result import RunComparison
from tasks.compare.stage import plan_comparison
from tasks.report.outcomes import Arm
from tests.made_up_pair import IMAGE, NEW, QUERY, Say, commit_run, compare_pair, make_sample

# Of each data set and category: how many samples, and how many of the first change sides under an image.
HARMFUL = {"theft": (14, 9), "fraud": (11, 0), "arson": (4, 3)}
HARMLESS = {"colour": (12, 7), "number": (10, 1)}
USUAL = Thresholds()


def make_samples(**changes: str) -> list[dict[str, Any]]:
    """Samples of three sets, the last of one category alone; `changes` renames categories."""
    sets: dict[str, Mapping[str, tuple[int, int]]] = {
        "vlsafe": HARMFUL,
        "bench": HARMLESS,
        "plain": {"only": (5, 5)},
    }
    return [
        make_sample(
            number,
            dataset=dataset,
            sample_id=f"{name}-{number}",
            harmful=dataset == "vlsafe",
            category=changes.get(name, name),
        )
        for dataset, categories in sets.items()
        for name, (count, _) in categories.items()
        for number in range(count)
    ]


def say(later: bool) -> Say:  # noqa: FBT001
    """The later model becomes unsafe, wrong and refusing where told, under an image."""
    moved = {name: number for name, (_, number) in {**HARMFUL, **HARMLESS, "only": (5, 5)}.items()}

    def verdict(arm: Arm, row: Mapping[str, Any]) -> str:
        name, _, number = row["sample_id"].partition("-")
        worse = later and arm.condition == "image" and int(number) < moved[name]
        if row["harmful"]:
            return "unsafe" if worse else "safe"
        return "incorrect refused" if worse else "correct"

    return verdict


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def found(store: Store) -> RunComparison:
    samples = make_samples()
    commit_run(store, "r1", samples=samples, say=say(later=False))
    commit_run(store, "r2", samples=samples, say=say(later=True), models=(NEW,))
    return compare_pair(store, "r1", "r2", thresholds=USUAL)


def name(one: CategoryChange) -> tuple[str, str, str, str]:
    return one.change.column.kind, one.change.column.dataset, one.category, one.change.arm.condition


def test_each_category_has_its_pairs_and_its_changes_by_arm(found: RunComparison) -> None:
    expected = {
        (measure, dataset, category, condition): (count, moved if condition == "image" else 0)
        for measure, dataset, categories in (
            ("unsafe", "vlsafe", HARMFUL),
            ("utility", "bench", HARMLESS),
            ("over_refusal", "bench", HARMLESS),
        )
        for category, (count, moved) in categories.items()
        for condition in ("query", "image")
    }
    counted = {
        name(one): (one.change.change.n, one.change.change.lost or one.change.change.gained)
        for one in found.categories
    }
    assert counted == expected
    # Largest categories first, and the arms in the order of tables.
    assert [name(one) for one in found.categories] == list(expected)
    assert {one.category for one in found.categories if one.is_small} == {"arson"}
    worse = {name(one): one.worsening for one in found.categories if one.worsening}
    assert worse == pytest.approx(
        {place: moved / count for place, (count, moved) in expected.items() if moved}
    )


def test_the_test_is_mcnemars_and_p_is_corrected_over_the_categories_alone(found: RunComparison) -> None:
    moved = [(one.change.change.gained or 0) + (one.change.change.lost or 0) for one in found.categories]
    plain = [binomtest(number, number).pvalue if number else 1.0 for number in moved]
    assert [one.change.change.p for one in found.categories] == pytest.approx(plain)
    order = sorted(range(len(plain)), key=plain.__getitem__)
    steps = [min(1.0, plain[place] * (len(plain) - rank)) for rank, place in enumerate(order)]
    holm = {place: max(steps[: rank + 1]) for rank, place in enumerate(order)}
    assert [one.change.change.p_adjusted for one in found.categories] == pytest.approx(
        [holm[place] for place in range(len(plain))]
    )
    (still,) = (one.change.change for one in found.categories if name(one)[2:] == ("fraud", "image"))
    widest = proportion_confint(0, 11, method="wilson")[1]
    assert (still.low, still.high) == pytest.approx((-widest, widest))


def test_no_category_alone_moves_the_verdict_or_the_other_changes(store: Store, found: RunComparison) -> None:
    without = make_samples(**dict.fromkeys([*HARMFUL, *HARMLESS]))
    commit_run(store, "r3", samples=without, say=say(later=False))
    commit_run(store, "r4", samples=without, say=say(later=True), models=(NEW,))
    plain = compare_pair(store, "r3", "r4", thresholds=USUAL)
    assert plain.categories == ()
    assert (plain.changes, plain.verdict) == (found.changes, found.verdict)


def test_a_sample_is_in_the_later_runs_category(store: Store) -> None:
    commit_run(store, "r1", samples=make_samples(), arms=[QUERY], say=say(later=False))
    commit_run(
        store, "r2", samples=make_samples(arson="fraud"), arms=[QUERY], say=say(later=False), models=(NEW,)
    )
    found = compare_pair(store, "r1", "r2", thresholds=USUAL)
    counts = {one.category: one.change.change.n for one in found.categories if name(one)[0] == "unsafe"}
    assert counts == {"fraud": 15, "theft": 14}


def test_only_the_first_judge_of_a_kind_is_counted(store: Store) -> None:
    for run, model in (("r1", IMAGE.model), ("r2", NEW)):
        commit_run(
            store,
            run,
            samples=make_samples(),
            arms=[QUERY],
            say=say(later=False),
            models=(model,),
            judges=["refusal", "guard"],
        )
    found = compare_pair(store, "r1", "r2", thresholds=USUAL)
    assert {one.column.judge for one in found.changes} == {"refusal", "guard"}
    assert {one.change.column.judge for one in found.categories} == {"refusal"}


def test_they_come_back_as_they_were_stored(store: Store, found: RunComparison) -> None:
    again = plan_comparison(store, "r1", "r2", thresholds=USUAL).find()
    assert again is not None
    assert again.categories == found.categories
    assert json.loads(json.dumps(found.to_json()))["categories"][0]["category"] == "theft"


def test_a_comparison_of_an_earlier_release_stays_readable_and_is_made_anew(
    store: Store, found: RunComparison
) -> None:
    (manifest,) = store.manifests("compare")
    path = manifest.path("comparisons")
    record = json.loads(store.read(path))
    del record["categories"]
    earlier = {**manifest.content, "version": 1}
    store.commit(
        "compare", "0" * 64, {f"comparisons/{'0' * 64}.json": json.dumps(record).encode()}, content=earlier
    )
    with connect(store.url) as sql:
        rows = sql.execute(
            "SELECT verdict, json_array_length(record -> 'categories') FROM comparisons ORDER BY 2"
        ).fetchall()
    assert rows == [(found.verdict, len(found.categories)), (found.verdict, None)]

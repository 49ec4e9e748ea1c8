"""The table of defences: what each arm is compared with, its cost, the front, p corrected over the whole table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from storage.store import Store
from tasks.report.defence_figure import draw_defences
from tasks.report.defences import DefenceRow, DefenceTable, make_defence_table
from tasks.report.outcomes import Arm, Outcomes
from tasks.report.side_labels import spread
from tasks.report.stage import ReportJob
from tasks.report.table import make_table
from tasks.report.tokens import TokenCount
from tests.made_up_run import make_up

SETTINGS = {
    "CMRM": {"level": "dataset"},
    "guard": {"kind": "prompt"},
    "mixed": {"kind": "coca"},
}
# How many of ten harmful questions are answered, and how many of ten harmless ones refused.
RATES = {
    ("image", ""): (8, 0),
    ("query", ""): (1, 0),
    ("image", "CMRM"): (2, 1),
    ("image", "guard"): (2, 4),
    ("query", "guard"): (0, 3),
    ("image", "mixed"): (5, 0),
}


@pytest.fixture
def outcomes(verdict: Callable[..., dict[str, Any]], gather: Callable[..., Outcomes]) -> Outcomes:
    rows = []
    for (condition, name), (unsafe, refused) in RATES.items():
        arm = {
            "condition": condition,
            "intervention": name,
            "alpha": 1.0 if name in {"CMRM", "mixed"} else None,
        }
        for one in range(10):
            for judge in ("refusal", "other"):
                # The second judge finds everything unsafe, and must not count.
                name_of = "unsafe" if one < unsafe or judge == "other" else "safe"
                rows.append(verdict(name_of, one, judge=judge, **arm))
            rows.append(verdict("safe", one, dataset="bench", **arm, refused=one < refused))
    return gather(*rows)


def make(outcomes: Outcomes, **changes: Any) -> DefenceTable | None:
    given: dict[str, Any] = {
        "settings": SETTINGS,
        "passes": {"CMRM": 1, "guard": 1, "mixed": 2},
        "tokens": {},
        "costs": [],
    }
    given |= changes
    table = make_table(outcomes, settings=given["settings"], quarantined={})
    return make_defence_table(outcomes, table, **given)


@pytest.fixture
def table(outcomes: Outcomes) -> DefenceTable:
    made = make(outcomes)
    assert made is not None
    return made


def find(table: DefenceTable, name: str) -> DefenceRow:
    (row,) = (row for row in table.rows if row.name == name)
    return row


def test_a_run_without_other_defences_than_cmrm_has_no_such_table(outcomes: Outcomes) -> None:
    assert make(outcomes, settings={"CMRM": {"level": "dataset"}, "guard": {"level": "sample"}}) is None


def test_each_defence_stands_beside_plain_answers_and_cmrm_under_its_condition(table: DefenceTable) -> None:
    against = [(row.name, row.kind, row.plain, row.cmrm, row.passes) for row in table.rows]
    assert against == [
        ("Query", "", "", "", 1),
        ("Image", "", "", "", 1),
        ("CMRM α=1", "cmrm", "Image", "", 1),
        ("guard, query", "prompt", "Query", "", 1),
        ("guard", "prompt", "Image", "CMRM α=1", 1),
        ("mixed α=1", "coca", "Image", "CMRM α=1", 2),
    ]


def test_only_the_first_judge_of_each_kind_has_columns(table: DefenceTable) -> None:
    assert [(one.kind, one.dataset, one.judge) for one in table.columns] == [
        ("unsafe", "vlsafe", "refusal"),
        ("over_refusal", "", "refusal"),
    ]
    for row in table.rows:
        unsafe, refused = RATES[row.arm.condition, row.arm.intervention]
        assert [cell.value.value for cell in row.cells] == [unsafe / 10, refused / 10]
        assert (row.unsafe.successes, row.over_refusal.successes) == (unsafe, refused)


def test_p_is_mcnemars_corrected_over_both_comparisons_of_all_rows(table: DefenceTable) -> None:
    found, expected = [], []
    for row in table.rows:
        for place, cell in enumerate(row.cells):
            own = RATES[row.arm.condition, row.arm.intervention][place]
            for change, other in ((cell.from_plain, ""), (cell.from_cmrm, "CMRM")):
                if change is None:
                    continue
                before = RATES[row.arm.condition, other][place]
                # The first questions are always those with the verdict, so that one side holds the other.
                lost, gained = max(0, before - own), max(0, own - before)
                both = min(own, before)
                counts = [[both, lost], [gained, 10 - both - lost - gained]]
                assert (change.gained, change.lost, change.n) == (gained, lost, 10)
                found.append(change)
                expected.append(mcnemar(counts, exact=True).pvalue)
    # From plain: four defences in two measures; from CMRM: two.
    assert len(found) == 2 * (4 + 2)
    assert [one.p for one in found] == pytest.approx(expected)
    assert [one.p_adjusted for one in found] == pytest.approx(multipletests(expected, method="holm")[1])


def test_the_front_is_what_no_other_arm_with_the_image_beats_in_both(table: DefenceTable) -> None:
    # Plain is beaten by mixed, which refuses as little; guard by CMRM, which is as safe and refuses less.
    assert {row.name for row in table.rows if row.on_front} == {"CMRM α=1", "mixed α=1"}


def test_seconds_and_tokens_stand_where_they_were_measured(outcomes: Outcomes) -> None:
    seconds = {"value": 2.0, "low": None, "high": None, "n": 1}
    cost = {"seconds": seconds, "ratio": 1.5, "low": 1.25, "high": 1.75, "n": 4}
    costs = [
        {
            "model": "moon@1",
            "dataset": name,
            "intervention": "guard",
            "alpha": None,
            "cost": {**cost, "ratio": ratio},
        }
        for name, ratio in (("", 1.5), ("vlsafe", 9.0))
    ]
    counts = {Arm("moon@1", "query", "guard"): TokenCount(prompt=40.5, generated=7.0)}
    made = make(outcomes, costs=costs, tokens=counts)
    assert made is not None
    found = {row.name: (row.cost and row.cost.ratio, row.tokens, row.prompt_tokens) for row in made.rows}
    assert {name: one for name, one in found.items() if any(one)} == {
        "guard": (1.5, None, None),
        "guard, query": (None, 7.0, 40.5),
    }
    assert DefenceTable.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_figure_has_a_point_for_each_arm_with_the_image(table: DefenceTable) -> None:
    (figure,) = draw_defences(table)
    files = figure.save()
    lines = files["csv"].decode().splitlines()
    assert [line.split(",")[4] for line in lines] == ["name", "Image", "CMRM α=1", "guard", "mixed α=1"]
    svg = files["svg"].decode()
    assert all(f">{row.name}<" in svg for row in table.rows if row.arm.condition == "image")
    assert draw_defences(None) == []
    plain = [row for row in table.rows if not row.kind]
    assert draw_defences(replace(table, rows=tuple(plain))) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4)), min_size=1, max_size=12))
def test_labels_do_not_overlap_and_stay_beside_the_axes(blocks: list[tuple[float, int]]) -> None:
    centers, lines = zip(*sorted(blocks), strict=True)
    heights = [count / max(20, sum(lines)) for count in lines]
    starts = spread(centers, heights)
    assert starts[0] >= -1e-9
    assert starts[-1] + heights[-1] <= 1 + 1e-9
    ends = [start + height for start, height in zip(starts, heights, strict=True)]
    assert all(end <= start + 1e-9 for end, (_, start) in zip(ends, pairwise(starts), strict=False))


def test_reports_without_other_defences_keep_their_keys(tmp_path: Any) -> None:
    made = make_up(Store.create(tmp_path / "store"), samples=4, strengths=(1.0,))
    content = made.report.content
    assert set(content) == {"version", "title", "models", "judges", "used", "settings", "bound"}
    settings: dict[str, Any] = {"a": {"kind": "coca"}}
    job = ReportJob(
        store="s", label="", rows=1, models=(), judges=(), title=None, used={}, settings=settings,
        utility_loss=0.0, over_refusal=None, passes={"a": 2},
    )  # fmt: skip
    assert job.content()["defences"] == {"version": 2, "passes": {"a": 2}}
    assert job.key != replace(job, passes={"a": 1}).key

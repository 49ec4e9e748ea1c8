"""A page shows of the paired changes what is not nothing first, and all others on demand."""

from __future__ import annotations

from dataclasses import replace

from flows.report.tables.main import make_changes_table
from tasks.report.outcomes import Outcomes
from tasks.report.table import Table, make_table
from tests.made_up import SETTINGS, make_outcomes


def make(*, models: tuple[str, ...] = ("moon@1",)) -> Table:
    return make_table(make_outcomes(models=models, samples=40), settings=SETTINGS, quarantined={})


def copy_query(outcomes: Outcomes) -> Outcomes:
    """Give every arm the verdicts of the question as text, so that nothing changes."""
    own = {
        (arm.model, column): one for (arm, column), one in outcomes.values.items() if arm.condition == "query"
    }
    outcomes.values = {key: own[key[0].model, key[1]] for key in outcomes.values}
    return outcomes


def test_the_changes_without_zero_come_first_by_size_and_all_rows_are_there() -> None:
    table = make_changes_table(make())
    assert table is not None
    first, folded = table.excerpts
    assert (first.folded, folded.folded) == (False, True)
    records = {
        (one["name"], f"{one['change']:.6f}", one["change_low"] > 0 or one["change_high"] < 0)
        for one in table.records
    }
    certain = sorted(
        (abs(one["change"]) for one in table.records if one["change_low"] > 0 or one["change_high"] < 0),
        reverse=True,
    )
    shown = [abs(float(row[4].text.replace("−", "-"))) for row in first.row_groups[0].rows]
    assert shown == [round(100 * one, 1) for one in certain]
    assert len(certain) == sum(is_certain for *_, is_certain in records) > 3
    both = [row for excerpt in table.excerpts for group in excerpt.row_groups for row in group.rows]
    whole = [row for group in table.row_groups for row in group.rows]
    assert sorted(map(str, both)) == sorted(map(str, whole))
    assert first.title == f"{len(certain)} of {len(whole)} changes have an interval that leaves out zero"
    assert folded.title == f"{len(whole) - len(certain)} changes whose interval has zero in it"


def test_a_run_in_which_nothing_changed_has_one_folded_line() -> None:
    outcomes = copy_query(make_outcomes(models=("moon@1",), samples=40, strengths=(1.0,)))
    table = make_changes_table(make_table(outcomes, settings=SETTINGS, quarantined={}))
    assert table is not None
    (folded,) = table.excerpts
    assert (folded.title, folded.folded) == ("24 changes of nothing", True)
    assert table.length == len(table.records) == 24


def test_several_models_keep_their_titles_in_an_excerpt() -> None:
    table = make_changes_table(make(models=("moon@1", "sun@2")))
    assert table is not None
    assert {group.title for group in table.excerpts[0].row_groups} == {"moon", "sun"}
    assert replace(table, excerpts=()).row_groups == table.row_groups

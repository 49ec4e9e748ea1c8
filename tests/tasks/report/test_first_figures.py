"""The first figures show the rates and the paired changes that the verdicts come to, of a dozen arms at most."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from tasks.report.changes_figure import draw_changes
from tasks.report.figure import Figure, to_csv
from tasks.report.headline import Bound, make_headline
from tasks.report.outcomes import Arm
from tasks.report.rates_figure import draw_rates
from tasks.report.table import Table, make_table
from tests.made_up import SETS, SETTINGS, judge_answer, list_arms, make_answers, make_outcomes
from tests.undrawn import without_pixels

BOUND = Bound(utility_loss=0.05, over_refusal=None)
SAMPLES = 24
MODELS = ("moon@1", "sun@2", "stars@3")


def make(**changes: Any) -> Table:
    return make_table(make_outcomes(samples=SAMPLES, **changes), settings=SETTINGS, quarantined={})


@pytest.fixture(autouse=True)
def _without_pixels() -> Iterator[None]:
    with without_pixels():
        yield


def read(figure: Figure) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(to_csv(figure.data).decode()))]


def read_words(figure: Figure) -> list[str]:
    return find_words(figure.save()["svg"].decode())


def find_words(svg: str) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]+)</text>", svg)


def count_unsafe(arm: Arm, datasets: Sequence[str]) -> list[bool]:
    """The verdicts of the judge `refusal` on harmful questions, in order; those that cannot be read are left out."""
    rows = [judge_answer("refusal", row) for name in datasets for row in make_answers(arm, name, SAMPLES)]
    return [row["verdict"] == "unsafe" for row in rows if row["verdict"] != "parse_error"]


def test_each_mark_is_an_arms_rate_over_all_data_sets_with_wilsons_interval() -> None:
    (figure,) = draw_rates(make(models=("moon@1",)), BOUND)
    rows = read(figure)
    arms = list_arms(("moon@1",), (0.5, 1.0))
    assert len(rows) == len(arms) == 9
    harmful = [name for name, is_harmful in SETS.items() if is_harmful]
    for arm, row in zip(arms, rows, strict=True):
        found = count_unsafe(arm, harmful)
        assert (int(row["unsafe_successes"]), int(row["unsafe_n"])) == (sum(found), len(found))
        low, high = proportion_confint(sum(found), len(found), method="wilson")
        assert [float(row[name]) for name in ("unsafe", "unsafe_low", "unsafe_high")] == pytest.approx(
            [sum(found) / len(found), low, high]
        )
        harmless = [judge_answer("refusal", one) for one in make_answers(arm, "bench", SAMPLES)]
        refused = [one["refused"] for one in harmless if one["refused"] is not None]
        assert float(row["over_refusal"]) == pytest.approx(sum(refused) / len(refused))
    assert {"Image", "Caption", "CMRM sample α=0.5"} <= set(read_words(figure))


def test_without_harmless_questions_the_rates_stand_on_one_line_each() -> None:
    outcomes = make_outcomes(samples=SAMPLES, models=("moon@1",))
    outcomes.values = {key: one for key, one in outcomes.values.items() if key[1].kind == "unsafe"}
    table = make_table(outcomes, settings=SETTINGS, quarantined={})
    (figure,) = draw_rates(table, BOUND)
    assert [row["name"] for row in read(figure)] == [row.name for row in table.rows]
    assert "harmless questions refused (%)" not in read_words(figure)
    assert "harmless" not in figure.caption


def test_without_verdicts_there_are_no_figures() -> None:
    empty = Table(columns=(), rows=())
    assert [*draw_rates(empty, BOUND), *draw_changes(empty, BOUND)] == []


@pytest.mark.parametrize("strengths", [(0.5, 1.0), tuple(step / 20 for step in range(21))], ids=len)
def test_of_many_arms_a_dozen_are_drawn_and_first_those_of_the_headline(strengths: tuple[float, ...]) -> None:
    table = make(models=MODELS, strengths=strengths)
    (figure,) = draw_rates(table, BOUND)
    rows = read(figure)
    assert len(rows) == 12
    assert f"{len(table.rows) - 12} more in the main table" in figure.caption
    shown = {(row["model"], row["name"]) for row in rows}
    for model, line in zip(MODELS, make_headline(table, bound=BOUND).splitlines(), strict=True):
        (best,) = re.findall(r"under (CMRM \w+ α=[\d.]+)", line)
        assert {(model, "Query"), (model, "Image"), (model, best)} <= shown
    names = {word for word in read_words(figure) if word.endswith((" (moon)", " (sun)", " (stars)"))}
    assert len(names) == 12


def test_each_line_of_the_forest_plot_is_the_paired_change_of_the_same_questions() -> None:
    (figure,) = draw_changes(make(models=("moon@1",), strengths=(1.0,)), BOUND)
    rows = read(figure)
    # Four conditions and two interventions, in the unsafe rates of two data sets, over-refusal and utility.
    assert len(rows) == (4 + 2) * 4
    for row, (name, baseline) in product(
        rows, (("Image", Arm("moon@1", "query")), ("CMRM sample α=1", Arm("moon@1", "image")))
    ):
        if row["name"] != name or row["measure"] != "unsafe":
            continue
        arm = Arm("moon@1", "image", row["intervention"], float(row["alpha"]) if row["alpha"] else None)
        before, after = (count_unsafe(one, [row["dataset"]]) for one in (baseline, arm))
        pairs = [*zip(before, after, strict=True)]
        counts = [[pairs.count((a, b)) for b in (False, True)] for a in (False, True)]
        assert float(row["change"]) == pytest.approx((sum(after) - sum(before)) / len(pairs))
        assert float(row["p"]) == pytest.approx(mcnemar(counts, exact=True).pvalue)
        assert float(row["change_low"]) < float(row["change"]) < float(row["change_high"])
    words = read_words(figure)
    assert {"against Query", "against Image", "Unsafe vlsafe", "Over-refusal", "Utility"} <= set(words)


def test_a_forest_of_many_arms_has_thirty_lines_at_most() -> None:
    (figure,) = draw_changes(make(models=MODELS, strengths=(0.25, 0.5, 1.0)), BOUND)
    rows = read(figure)
    assert 24 <= len(rows) <= 30
    assert {row["model"] for row in rows} == set(MODELS)
    assert "more arms in the table of changes" in figure.caption


def test_hostile_names_are_drawn_as_text_on_one_line_of_bounded_length() -> None:
    evil = "a\x1b[2J\n<b>$x$</b>" + "n" * 200
    outcomes = make_outcomes(samples=8, models=(f"{evil}@1", "sun@2"))
    table = make_table(outcomes, settings=SETTINGS, quarantined={})
    for (figure,) in (draw_rates(table, BOUND), draw_changes(table, BOUND)):
        svg = figure.save()["svg"].decode()
        assert "<b>" not in svg
        assert not {"\x1b"} & set(svg)
        assert max(map(len, find_words(svg))) < 60

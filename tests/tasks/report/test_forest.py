"""The forest plot: each change at its height and place, with its interval, and its rows as data."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest

from tasks.report.figure import Figure
from tasks.report.forest import ForestRow, draw_forest


def make_row(**changes: Any) -> ForestRow:
    usual = {
        "label": "Image",
        "group": "Unsafe",
        "unit": "points",
        "estimate": 10.0,
        "low": 5.0,
        "high": 20.0,
        "sure": True,
    }
    return ForestRow(**{**usual, **changes})


def draw(*rows: ForestRow) -> Figure:
    return draw_forest(name="changes", caption="What changed.", rows=rows)


def read_texts(found: Figure) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", found.save()["svg"].decode())


def test_every_row_is_in_the_data_and_the_same_rows_give_the_same_bytes() -> None:
    rows = [make_row(), make_row(label="Query", estimate=-3.0, low=None, high=None, sure=False)]
    files = draw(*rows).save()
    assert files == draw(*rows).save()
    read = list(csv.DictReader(io.StringIO(files["csv"].decode())))
    assert [(row["label"], float(row["estimate"]), row["low"], row["high"], row["sure"]) for row in read] == [
        ("Image", 10.0, "5.0", "20.0", "True"),
        ("Query", -3.0, "", "", "False"),
    ]


def test_labels_stand_once_and_each_group_has_its_panel_and_unit() -> None:
    found = draw(
        make_row(),
        make_row(label="Query"),
        make_row(group="Score", unit="judge's points"),
        make_row(label="Query", group="Score", unit="judge's points"),
    )
    texts = read_texts(found)
    assert [texts.count(one) for one in ("Image", "Query", "Unsafe", "Score")] == [1, 1, 1, 1]
    assert [texts.count(one) for one in ("points", "judge&apos;s points")] == [1, 0]
    assert texts.count("judge's points") == 1


def test_several_series_are_named_and_one_alone_is_not() -> None:
    assert "B" not in read_texts(draw(make_row(series="B")))
    assert {"B", "C"} <= set(read_texts(draw(make_row(series="B"), make_row(series="C", estimate=4.0))))


def test_series_that_the_last_panel_lacks_are_named_too_and_have_shapes_of_their_own() -> None:
    found = draw(make_row(series="B"), make_row(series="C"), make_row(series="C", group="Utility"))
    assert {"B", "C"} <= set(read_texts(found))
    svg = found.save()["svg"].decode()
    uses = re.findall(r'<use xlink:href="#(\w+)"[^>]*style="fill: #[0-9a-f]{6}; stroke: (#[0-9a-f]{6})', svg)
    shapes = {color: re.findall(rf'id="{mark}" d="([^"]*)"', svg) for mark, color in uses}
    assert shapes["#0072b2"] != shapes["#d55e00"]


def test_of_many_groups_four_stand_beside_each_other_and_each_line_has_its_labels() -> None:
    found = draw(*(make_row(group=f"Measure {number}") for number in range(6)))
    assert (found.rows, found.columns) == (2, 4)
    texts = read_texts(found)
    assert [texts.count(f"Measure {number}") for number in range(6)] == [1] * 6
    assert texts.count("Image") == 2


@pytest.mark.parametrize(("sure", "fill"), [(True, "#0072b2"), (False, "#ffffff")])
def test_a_mark_is_filled_where_chance_does_not_explain_it(*, sure: bool, fill: str) -> None:
    uses = re.findall(
        r'<use [^>]*style="fill: (#[0-9a-f]{6}); stroke: #0072b2"',
        draw(make_row(sure=sure)).save()["svg"].decode(),
    )
    assert uses == [fill]


def test_names_that_look_like_formulas_or_elements_stay_text() -> None:
    svg = (
        draw(make_row(label="$x_1$ <b>", series="_a"), make_row(label="other", series="_b"))
        .save()["svg"]
        .decode()
    )
    assert "$x_1$ &lt;b&gt;" in svg
    assert "<b>" not in svg

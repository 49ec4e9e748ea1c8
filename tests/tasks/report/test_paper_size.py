"""Figures for papers: no taller than a page, and with labels that stay in their own panel."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from tasks.report.figure import PAPER_STYLE, STYLE, Figure
from tasks.report.figures import draw_states
from tasks.report.states import Panel, StateGroup


def make_figure(rows: int, columns: int) -> Figure:
    return Figure(
        name="f", caption="c", rows=rows, columns=columns, size=(3.0, 2.3), draw=lambda _: None, data=[]
    )


@pytest.mark.parametrize(("rows", "inches"), [(1, 3.25), (4, 6.75)])
def test_a_figure_that_fits_is_no_taller_than_a_page_with_its_caption(rows: int, inches: float) -> None:
    figure = make_figure(rows, 3)
    assert figure.fits(inches)
    pdf = figure.save_for_paper(inches)["pdf"]
    (height,) = re.findall(rb"/MediaBox \[ ?0 0 [\d.]+ ([\d.]+) ?\]", pdf)
    assert float(height) <= 72 * 8.5


def test_one_of_many_lines_of_panels_has_no_room_in_a_column() -> None:
    assert not make_figure(4, 3).fits(3.25)


@pytest.mark.parametrize(("width", "style"), [(9.6, STYLE), (6.75, {**STYLE, **PAPER_STYLE})])
def test_labels_of_panels_beside_each_other_do_not_run_into_each_other(
    width: float, style: dict[Any, Any]
) -> None:
    points = {StateGroup("query"): np.array([[0.0, 1.0], [2.0, 3.0]])}
    panels = [
        Panel(
            model="m@1",
            dataset=name,
            split="anchor",
            sample_ids=["a", "b"],
            harmful=[True, False],
            points=points,
            explained=(0.61, 0.21),
            apart={},
        )
        for name in ("one", "two", "three")
    ]
    (figure,) = draw_states(panels)
    with mpl.rc_context(style):
        canvas = Canvas(figsize=(width, 2.3), dpi=100, layout="constrained")
        axes = canvas.subplots(1, 3, squeeze=False).tolist()
        figure.draw(axes)
        canvas.savefig(io.BytesIO(), format="png")
    boxes = [one.xaxis.label.get_window_extent() for one in axes[0]]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))

"""The figures' colours and shapes, to all eyes."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure as Canvas

from tasks.report.figure import PALETTE
from tasks.report.figures import draw_curves
from tests.color_vision import VISIONS, find_nearest


@pytest.mark.parametrize("vision", VISIONS)
def test_every_two_colours_of_figures_can_be_told_apart(vision: str) -> None:
    """By more than ten times the difference that trained eyes just see side by side."""
    assert find_nearest([[*bytes.fromhex(color[1:])] for color in PALETTE], vision) > 10


def test_curves_of_interventions_differ_in_shape_as_well() -> None:
    def tell(number: int) -> dict[str, Any]:
        rates = {key: {"successes": number, "n": 10} for key in ("unsafe", "utility", "over_refusal")}
        points = [{"alpha": alpha, **rates} for alpha in (0.5, 1.0)]
        return {"model": "m", "intervention": f"i{number}", "points": points, "front": [0.5]}

    (figure,) = draw_curves([tell(number) for number in range(8)])
    axes = Canvas().subplots(1, 4, squeeze=False).tolist()
    figure.draw(axes)
    lines = axes[0][0].get_lines()
    assert len(lines) == 8
    assert len({line.get_marker() for line in lines}) == 8

"""The figures' colours, to all eyes."""

from __future__ import annotations

import pytest

from tasks.report.figure import PALETTE
from tests.color_vision import VISIONS, find_nearest


@pytest.mark.parametrize("vision", VISIONS)
def test_every_two_colours_of_figures_can_be_told_apart(vision: str) -> None:
    """By more than ten times the difference that trained eyes just see side by side."""
    assert find_nearest([[*bytes.fromhex(color[1:])] for color in PALETTE], vision) > 10

"""All figures of a report, in the order in which it has them, from its summary."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.report.backbones import draw_backbones
from tasks.report.categories import draw_categories
from tasks.report.changes_figure import draw_changes
from tasks.report.defence_figure import draw_defences
from tasks.report.direction_figure import draw_directions
from tasks.report.directions import Directions
from tasks.report.figure import Figure
from tasks.report.figures import draw_curves, draw_overhead, draw_states
from tasks.report.headline import Bound
from tasks.report.parts import draw_parts
from tasks.report.rates_figure import draw_rates
from tasks.report.state_blocks import draw_state_blocks
from tasks.report.states import Panel
from tasks.report.summary import Summary


def draw_summary(summary: Summary, *, panels: Sequence[Panel], bound: Bound) -> list[Figure]:
    """Draw what a summary holds, and the panels of final states, which it does not hold."""
    directions = Directions(
        directions=summary.directions, cosines=summary.direction_cosines, turned=summary.turned
    )
    return [
        *draw_rates(summary.table, bound),
        *draw_changes(summary.table, bound),
        *draw_curves(summary.curves),
        *draw_parts(summary.parts),
        *draw_directions(directions),
        *draw_backbones(summary.backbone_blocks),
        *draw_categories(summary.categories),
        *draw_defences(summary.defences),
        *draw_states(panels),
        *draw_state_blocks(summary.state_blocks),
        *draw_overhead(summary.overhead),
    ]

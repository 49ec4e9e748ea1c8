"""The figure of directions: AUROC over blocks and arms, the direction's length, and places along the text direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmrm.untrusted.printable import show
from tasks.report.directions import Directions, choose_rows, name_row
from tasks.report.figure import PALETTE, SHAPES, Figure, label
from tasks.report.outcomes import Arm
from tasks.report.table import name_arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
# Inches: of a panel, of each block in it, and of each arm.
LEAST_WIDTH, PER_BLOCK, LEAST_HEIGHT, PER_ARM = 4.0, 0.16, 3.0, 0.16
# Numbers stand in the cells of a heat map with at most so many blocks.
MOST_NUMBERED = 16
LONGEST_NAME = 28


def draw_directions(found: Directions) -> list[Figure]:
    """Draw one figure per model: a heat map of AUROC, and over the blocks the length and the places."""
    rows = choose_rows(found.directions)
    return [
        _draw_model(number + 1, model, [row for row in rows if row["model"] == model])
        for number, model in enumerate(dict.fromkeys(row["model"] for row in rows))
    ]


def _draw_model(number: int, model: str, rows: Sequence[Record]) -> Figure:
    arms: dict[Arm, list[Record]] = {}
    for row in rows:
        arms.setdefault(name_row(row), []).append(row)
    blocks = sorted({row["block"] for row in rows})

    def draw(axes: list[list[Axes]]) -> None:
        _color(axes[0][0], arms, blocks)
        lengths, places = axes[0][1:]
        for (arm, own), *look in zip(arms.items(), PALETTE, SHAPES, strict=False):
            _plot(lengths, own, "norm", look=look, line="-", name=_shorten(arm), of="state")
            _plot(places, own, "harmful_along", look=look, line="-")
            _plot(places, own, "harmless_along", look=look, line="--")
        lengths.set_title("length of the direction, % of the states'")
        lengths.set_ylim(bottom=0)
        lengths.legend(fontsize=6)
        places.set_title("place along the text direction (dashed: harmless)")
        for one in axes[0]:
            one.set_xlabel("block")

    return Figure(
        name=f"directions-{number}",
        caption=f"{model}: harmful against harmless states at each block. Left: AUROC of a linear probe on samples "
        "that it was not trained on; middle: length of the direction, mean harmful state less mean harmless one; "
        "right: mean places along the direction of the anchors as text, where 0 and 1 are their own means, with 95 % "
        "bootstrap intervals"
        + (f"; lines of the first {len(PALETTE)} arms." if len(arms) > len(PALETTE) else "."),
        rows=1,
        columns=3,
        size=(max(LEAST_WIDTH, PER_BLOCK * len(blocks)), max(LEAST_HEIGHT, PER_ARM * len(arms) + 1)),
        draw=draw,
        data=[dict(row) for row in rows],
    )


def _color(axes: Axes, arms: Mapping[Arm, Sequence[Record]], blocks: Sequence[int]) -> None:
    values = np.full((len(arms), len(blocks)), np.nan)
    for line, own in enumerate(arms.values()):
        for row in own:
            if row["auroc"] is not None:
                values[line, blocks.index(row["block"])] = row["auroc"]
    # From chance to perfect: a probe below chance is as pale as one at chance.
    image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0.5, vmax=1.0)
    axes.set_yticks(range(len(arms)), [_shorten(arm) for arm in arms])
    step = -(-len(blocks) // MOST_NUMBERED)
    axes.set_xticks(range(0, len(blocks), step), [str(block) for block in blocks[::step]])
    axes.set_title("AUROC, harmful against harmless")
    for line, column in np.argwhere(~np.isnan(values)) if len(blocks) <= MOST_NUMBERED else ():
        value = values[line, column]
        text = f"{value:.2f}"
        axes.text(
            column,
            line,
            text,
            ha="center",
            va="center",
            fontsize=6,
            color="black" if value > 0.8 else "white",
        )
    axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)


def _plot(
    axes: Axes,
    rows: Sequence[Record],
    measure: str,
    *,
    look: Sequence[str],
    line: str,
    name: str = "",
    of: str = "",
) -> None:
    """Plot a measure over the blocks with its interval; `look` is colour and shape, `of` what it is in per cent of."""
    color, shape = look
    kept = [row for row in rows if row[measure] is not None and (not of or row[of] > 0)]
    scale = np.array([100 / row[of] if of else 1.0 for row in kept])
    blocks = [row["block"] for row in kept]
    values = scale * [row[measure] for row in kept]
    axes.plot(
        blocks,
        values,
        color=color,
        linestyle=line,
        marker=shape,
        markersize=3,
        linewidth=1,
        label=label(name),
    )
    if kept and all(row[f"{measure}_low"] is not None for row in kept):
        low, high = (scale * [row[f"{measure}_{end}"] for row in kept] for end in ("low", "high"))
        axes.fill_between(blocks, low, high, color=color, alpha=0.08, linewidth=0)


def _shorten(arm: Arm) -> str:
    """An arm's name, escaped; its middle is left out, since the strength stands at the end."""
    return show(name_arm(arm), most=LONGEST_NAME)

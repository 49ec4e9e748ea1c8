"""The figure: principal components of the final states, text-only against each image."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from tasks.summary import STATE_NAMES

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = {"query": "#0072B2", "image": "#D55E00", "blank": "#009E73", "noise": "#CC79A7"}


def draw_states(
    points: Mapping[str, np.ndarray], *, harmful: Sequence[bool], explained: Sequence[float], title: str
) -> bytes:
    """Draw states by condition as a PNG: `points` holds [n, 2] coordinates of the same n samples a condition.

    Harmful questions are filled dots, harmless ones open; `explained` is the share of variance of each axis.
    """
    figure = Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    filled = np.asarray(harmful, dtype=bool)
    for condition, coordinates in points.items():
        colour = COLOURS[condition]
        dots, rings = coordinates[filled], coordinates[~filled]
        axes.scatter(
            dots[:, 0], dots[:, 1], s=14, color=colour, alpha=0.65, linewidths=0, label=STATE_NAMES[condition]
        )
        axes.scatter(rings[:, 0], rings[:, 1], s=14, facecolors="none", edgecolors=colour, alpha=0.65)
    axes.set_xlabel(f"first principal component ({explained[0]:.0%} of variance)")
    axes.set_ylabel(f"second principal component ({explained[1]:.0%})")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(
        frameon=False, fontsize=8, title="dots: harmful questions, rings: harmless", title_fontsize=7
    )
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1.0)
    buffer = io.BytesIO()
    # No version or date inside: the same states give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()

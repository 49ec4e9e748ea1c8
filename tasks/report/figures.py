"""Figures of a report: final hidden states, curves over α with the safety–utility front, and overhead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmrm.statistics.rates import Mean, Rate
from cmrm.statistics.ratios import Cost
from tasks.report.figure import PALETTE, SHAPES, Figure, label
from tasks.report.outcomes import name_intervention
from tasks.report.states import Panel, StateGroup, list_points
from tasks.report.table import CONDITION_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches: in a panel no wider the label of an axis takes two lines.
NARROW_PANEL = 3.0
STATE_NAMES = {
    "query": "text only",
    "caption": "with a caption",
    "image": "with their image",
    **{
        name: f"with {article} {CONDITION_NAMES[name].lower()}"
        for name, article in (
            ("blank", "a"),
            ("blank-black", "a"),
            ("blank-mean", "a"),
            ("noise", "a"),
        )
    },
    "noise-gaussian": "with Gaussian noise",
    "gap": "with a gap alone",
    "marks": "with a gap and marks",
    "filler": "with filler text",
}
Curve = Mapping[str, Any]


def name_group(group: StateGroup) -> str:
    """Name a group of states for figures and tables."""
    if group.intervention:
        return f"{STATE_NAMES[group.condition]}, {name_intervention(group.intervention, group.alpha)}"
    return STATE_NAMES[group.condition]


def draw_states(panels: Sequence[Panel]) -> list[Figure]:
    """Draw one figure per model with a panel per data set: principal components of the final states."""
    figures = []
    for number, model in enumerate(dict.fromkeys(panel.model for panel in panels)):
        own = [panel for panel in panels if panel.model == model]

        def draw(axes: list[list[Axes]], own: Sequence[Panel] = own) -> None:
            groups = list(dict.fromkeys(group for panel in own for group in panel.points))
            for one, panel in zip(axes[0], own, strict=True):
                _scatter(one, panel, groups)
            axes[0][0].set_ylabel("second principal component")
            legend = axes[0][0].legend(
                fontsize=6, title="filled: harmful, hollow: harmless", title_fontsize=6
            )
            for handle in legend.legend_handles:
                if handle is not None:
                    handle.set_alpha(1.0)

        figures.append(
            Figure(
                name=f"states-{number + 1}",
                caption=f"Final states of {model}, the same questions as text and with images; principal "
                "components of the states that no intervention touched, per data set.",
                rows=1,
                columns=len(own),
                size=(3.2, 3.0),
                draw=draw,
                data=[point for panel in own for point in list_points(panel)],
            )
        )
    return figures


def draw_curves(curves: Sequence[Curve]) -> list[Figure]:
    """Draw, per model with curves: unsafe rate, utility and over-refusal over α, and the front of the first two."""
    figures = []
    for number, model in enumerate(dict.fromkeys(curve["model"] for curve in curves)):
        own = [curve for curve in curves if curve["model"] == model]

        def draw(axes: list[list[Axes]], own: Sequence[Curve] = own) -> None:
            _plot_measures(axes[0][:3], own)
            _plot_front(axes[0][3], own)

        figures.append(
            Figure(
                name=f"strength-{number + 1}",
                caption=f"{model}: what a strength α buys and costs, with 95 % intervals; and its front: "
                "no other strength of the curve is both as safe and as useful.",
                rows=1,
                columns=4,
                size=(2.6, 2.6),
                draw=draw,
                data=[_flatten_point(curve, point) for curve in own for point in curve["points"]],
            )
        )
    return figures


def draw_overhead(costs: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Draw seconds per sample by data set and arm, one figure for all models."""
    if not costs:
        return []
    models = list(dict.fromkeys(one["model"] for one in costs))

    def draw(axes: list[list[Axes]]) -> None:
        for one, model in zip(axes[0], models, strict=True):
            own = [cost for cost in costs if cost["model"] == model]
            sets = sorted(dict.fromkeys(cost["dataset"] for cost in own), key=lambda name: not name)
            arms = list(dict.fromkeys((cost["intervention"], cost["alpha"]) for cost in own))
            for place, arm in enumerate(arms):
                found = {
                    cost["dataset"]: Cost.from_json(cost["cost"]).seconds
                    for cost in own
                    if (cost["intervention"], cost["alpha"]) == arm
                }
                heights = [found[name].value or 0.0 for name in sets]
                one.bar(
                    np.arange(len(sets)) + place / (len(arms) + 1),
                    heights,
                    width=1 / (len(arms) + 1),
                    yerr=_spread([found[name] for name in sets]),
                    color=PALETTE[place % len(PALETTE)],
                    label=label(arm[0] or "plain"),
                )
            one.set_xticks(np.arange(len(sets)) + 0.3, [name or "all" for name in sets])
            one.set_title(model)
            one.set_ylabel("seconds a sample")
            one.margins(y=0.25)
            one.legend(fontsize=6, loc="upper left", ncols=len(arms))

    return [
        Figure(
            name="overhead",
            caption="Seconds a sample, the same batches answered in turn; 95 % bootstrap intervals over batches.",
            rows=1,
            columns=len(models),
            size=(4.0, 2.8),
            draw=draw,
            data=[{**cost, "cost": None, **_flatten_cost(cost)} for cost in costs],
        )
    ]


def _scatter(axes: Axes, panel: Panel, groups: Sequence[StateGroup]) -> None:
    filled = np.asarray(panel.harmful, dtype=bool)
    for group, points in panel.points.items():
        place = groups.index(group)
        colour, shape = PALETTE[place % len(PALETTE)], SHAPES[place % len(SHAPES)]
        dots, rings = points[filled], points[~filled]
        # Rasterized: a thousand points as paths would take megabytes.
        axes.scatter(
            dots[:, 0],
            dots[:, 1],
            s=8,
            color=colour,
            marker=shape,
            alpha=0.6,
            linewidths=0,
            rasterized=True,
            label=label(name_group(group)),
        )
        axes.scatter(
            rings[:, 0],
            rings[:, 1],
            s=8,
            facecolors="none",
            edgecolors=colour,
            marker=shape,
            alpha=0.6,
            rasterized=True,
        )
    axes.set_title(f"{panel.dataset}, {len(panel.sample_ids)} {panel.split}s")
    share = panel.explained[0]
    # In a narrow panel of a paper one line would run into the next panel's.
    spot = axes.get_subplotspec()
    across = 1 if spot is None else spot.get_geometry()[1]
    space = " " if axes.figure.bbox.width / axes.figure.dpi / across > NARROW_PANEL else "\n"
    axes.set_xlabel(
        f"first principal component{space}({share:.0%}; second {panel.explained[1]:.0%})".replace("%", " %")
    )


def _plot_measures(axes: Sequence[Axes], curves: Sequence[Curve]) -> None:
    titles = {"unsafe": "unsafe answers (%)", "utility": "utility", "over_refusal": "harmless refused (%)"}
    for one, (measure, title) in zip(axes, titles.items(), strict=True):
        for place, curve in enumerate(curves):
            points = [(point["alpha"], _read(point[measure])) for point in curve["points"]]
            kept = [(alpha, *value) for alpha, value in points if value is not None]
            if not kept:
                continue
            alphas, values, lows, highs = zip(*kept, strict=True)
            colour = PALETTE[place % len(PALETTE)]
            one.plot(
                alphas,
                values,
                color=colour,
                marker=SHAPES[place % len(SHAPES)],
                markersize=3,
                linewidth=1,
                label=label(curve["intervention"]),
            )
            one.fill_between(alphas, lows, highs, color=colour, alpha=0.15, linewidth=0)
        one.set_title(title)
        one.set_xlabel("strength α")
        if measure != "utility":
            # A minimum scale, so that small rates do not look high.
            one.set_ylim(-1, max(10, one.get_ylim()[1]))
    drawn = next((one for one in axes if one.get_legend_handles_labels()[0]), None)
    if drawn is not None:
        drawn.legend(fontsize=6)


def _plot_front(axes: Axes, curves: Sequence[Curve]) -> None:
    for place, curve in enumerate(curves):
        colour, shape = PALETTE[place % len(PALETTE)], SHAPES[place % len(SHAPES)]
        names: dict[tuple[float, float], list[str]] = {}
        for point in curve["points"]:
            unsafe, utility = _read(point["unsafe"]), _read(point["utility"])
            if unsafe is None or utility is None:
                continue
            spot = unsafe[0], utility[0]
            on_front = point["alpha"] in curve["front"]
            axes.plot(
                *spot, shape, markersize=4, color=colour, markerfacecolor=colour if on_front else "none"
            )
            if on_front:
                names.setdefault(spot, []).append(f"{point['alpha']:g}")
        # Strengths at the same point share a label.
        for spot, alphas in names.items():
            text = "α=" + (alphas[0] if len(alphas) == 1 else f"{alphas[0]}–{alphas[-1]}")
            axes.annotate(
                text, spot, xytext=(4, -7 * place - 2), textcoords="offset points", fontsize=5, color="0.2"
            )
    axes.set_title("front: filled")
    axes.set_xlabel("unsafe answers (%)")
    axes.set_ylabel("utility")
    axes.margins(x=0.12)


def _read(content: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Value and interval bounds of a rate, in per cent, or of a mean score; None where not measured."""
    if "successes" in content:
        rate = Rate(**content)
        if rate.value is None or rate.interval is None:
            return None
        return 100 * rate.value, 100 * rate.interval[0], 100 * rate.interval[1]
    mean = Mean(**content)
    if mean.value is None:
        return None
    return (
        mean.value,
        mean.low if mean.low is not None else mean.value,
        mean.high if mean.high is not None else mean.value,
    )


def _flatten_point(curve: Curve, point: Mapping[str, Any]) -> dict[str, Any]:
    flat = {"model": curve["model"], "intervention": curve["intervention"], "alpha": point["alpha"]}
    for measure in ("unsafe", "utility", "over_refusal"):
        value, low, high = _read(point[measure]) or (None, None, None)
        flat |= {measure: value, f"{measure}_low": low, f"{measure}_high": high}
    return {**flat, "on_front": point["alpha"] in curve["front"]}


def _flatten_cost(cost: Mapping[str, Any]) -> dict[str, Any]:
    found = Cost.from_json(cost["cost"])
    return {
        "seconds": found.seconds.value,
        "seconds_low": found.seconds.low,
        "seconds_high": found.seconds.high,
        "ratio": found.ratio,
        "ratio_low": found.low,
        "ratio_high": found.high,
    }


def _spread(means: Sequence[Mean]) -> list[list[float]]:
    """Error bars: distances of the interval bounds below and above each mean."""
    return [
        [(one.value or 0.0) - one.low if one.low is not None else 0.0 for one in means],
        [one.high - (one.value or 0.0) if one.high is not None else 0.0 for one in means],
    ]

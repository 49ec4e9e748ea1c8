"""The speed table: the figures of benchmarks/speed.py on this model, as many as the time that is left allows."""

from __future__ import annotations

import time
from typing import Any

import speed
from speed_bench import AMOUNTS, Bench
from speed_budget import measure_pace
from speed_limits import measure_limits
from speed_table import Figure, as_cells, goal_cells

from on_a_gpu.checks import Evidence, Table, find_place
from on_a_gpu.machine import free
from on_a_gpu.subject import Subject

# It runs the stages, for which a bare machine lacks packages; the script of the speed table has it.
OF_STAGES = "idle"
# What else there is differs from GPU to GPU; on a CPU it was found to be no faster.
OF_GPUS = "tried"


def measure_speed(subject: Subject) -> Evidence:
    """Measure each figure by itself: one that fails is named, and the others are measured."""
    limits = measure_limits(subject.shape, device=subject.device, dtype=subject.dtype)
    bench = Bench(
        name=subject.name,
        shape=subject.shape,
        vlm=subject.vlm,
        amounts=AMOUNTS[subject.sizes.amounts],
        limits=limits,
        turns=subject.sizes.turns,
    )
    pace = measure_pace(bench)
    keys = [
        key for key in speed.FIGURES if key != OF_STAGES and (key != OF_GPUS or subject.device.type == "cuda")
    ]
    figures: list[Figure] = []
    wrong: list[str] = []
    started = time.monotonic()
    for number, key in enumerate(keys):
        try:
            figure = speed.measure_figure(
                key, bench, pace=pace, budget=subject.budget, later=keys[number + 1 :]
            )
        except Exception as error:  # noqa: BLE001 - whatever a figure raises, the others are measured
            reason = (str(error).strip().splitlines() or [""])[0]
            wrong.append(f"{key}: {type(error).__name__}: {reason} ({find_place(error)})")
            figure = speed.leave_out(key, f"{type(error).__name__}: {reason}")
        figures.append(figure)
        free(subject.device)
    measured = [figure for figure in figures if any(row.seconds is not None for row in figure.rows)]
    left = [row.name for figure in figures if figure not in measured for row in figure.rows]
    goals = [goal for figure in figures for goal in figure.goals]
    met = sum(goal.reached == "yes" for goal in goals)
    return Evidence(
        line=(
            f"{len(measured)} of {len(keys)} figures in {time.monotonic() - started:.0f} s, "
            f"{met} of {len(goals)} goals met; at most {limits.operations / 1e12:.3g} TFLOP/s and "
            f"{limits.bandwidth / 1e9:,.0f} GB/s; {1000 * pace.prompt:.1f} ms a prompt, "
            f"{1000 * pace.step:.1f} ms a decoding pass" + (f"; left out: {', '.join(left)}" if left else "")
        ),
        figures=_list_figures(limits, pace, figures),
        tables=[*map(make_table, figures), _make_goals(figures)],
        wrong=wrong,
    )


def _list_figures(limits: Any, pace: Any, figures: list[Figure]) -> dict[str, Any]:
    return {
        "limits": speed.as_dict(limits),
        "prompt_seconds": pace.prompt,
        "pass_seconds": pace.step,
        "figures": [figure.as_dict() for figure in figures],
    }


def make_table(figure: Figure) -> Table:
    """A figure with what is to be known of it."""
    return Table(
        title=figure.title, cells=as_cells(figure), right=range(1, 5), notes=[figure.about, *figure.notes]
    )


def _make_goals(figures: list[Figure]) -> Table:
    return Table(title="Goals of the speed table", cells=goal_cells(figures), right=(1, 2))

"""A sheet's plan, and judges held against people, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from flows.calibrate.number_text import (
    list_notes,
    write_corrected,
    write_error,
    write_judged,
    write_kappa,
    write_share,
)
from flows.calibrate.result import CalibrationResult
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table
from tasks.calibrate.calibration import ArmCalibration, JudgeCalibration
from tasks.calibrate.planning import LabelPlan
from tasks.calibrate.sheet import Sheet
from tasks.report.model_names import shorten_models
from tasks.report.table import name_arm

if TYPE_CHECKING:
    from rich.table import Table as Grid

WIDEST_NAME = 26
MOST_ROWS = 40
MOST_PAIRS = 8


def print_plan(console: Console, sheet: Sheet, plan: LabelPlan) -> None:
    """Print what labelling a whole sheet would tell, and how many labels the stated width takes."""
    lines = [
        f"{len(sheet.rows):,} of {sheet.answers:,} answers to harmful questions, from {len(sheet.strata):,} strata "
        f"(arm × data set × verdict of {sheet.judge})."
    ]
    if plan.widths is None or plan.needed is None:
        lines.append(
            f"{sheet.judge} gave all of them one verdict, so the widths of intervals cannot be foreseen; labels will "
            "tell how many of these verdicts are wrong."
        )
    else:
        widths = plan.widths
        lines.append(
            f"If {sheet.judge} calls {_percent(widths.sensitivity_right)} % of unsafe and "
            f"{_percent(widths.specificity_right)} % of safe answers what they are, the 95 % intervals over all arms "
            f"will be about {_points(widths.sensitivity)} wide for sensitivity and {_points(widths.specificity)} for "
            "specificity."
        )
        lines.append(_describe_need(plan, sheet))
    for line in lines:
        console.print(Text(show_safely(line)))


def print_sheet(console: Console, out: Path, *, lost: int, command: str) -> None:
    """Print where the sheet is and what to do with it."""
    if lost:
        console.print(Text(f"Images that cannot be opened: {lost:,}. The page says where one is missing."))
    console.print()
    for line in (
        f"Label in a browser: {out / 'sheet.html'}",
        f"or in a spreadsheet: {out / 'sheet.csv'}",
        f"Then: {command}",
    ):
        console.print(Text(show_safely(line)), soft_wrap=True)


def print_calibration(console: Console, result: CalibrationResult) -> None:
    """Print each judge's errors and corrected rates, its agreement with people, and how the labels stand."""
    said = result.count_labels()
    line = (
        f"{said['unsafe'] + said['safe']:,} of {len(result.sheet.rows):,} answers labelled: {said['unsafe']:,} unsafe, "
        f"{said['safe']:,} safe"
    )
    console.print(Text(f"{line}; {said['unsure']:,} unsure, left out." if said["unsure"] else f"{line}."))
    if result.unlabelled_strata:
        console.print(
            Text(
                f"{result.unlabelled_strata:,} of {len(result.sheet.strata):,} strata have no label; others with the "
                "same verdict stand for them."
            )
        )
    for judge in result.judges:
        for grid, notes in (_make_errors(judge), _make_rates(judge)):
            console.print()
            console.print(grid)
            # Not as the table's caption, which would be as narrow as the table.
            console.print(Text("\n".join(notes), style="italic"))
    console.print()
    console.print(Text("Cohen’s κ [95 % interval]", style="bold"))
    for pair in list_agreement(result):
        console.print(Text(show_safely(pair)))


def list_agreement(result: CalibrationResult) -> list[str]:
    """Describe κ of each judge with people, of judges with each other, and of people with each other, a line each."""
    lines = [
        f"{one.judge} and people: {write_kappa(one.kappa.value, one.kappa.low, one.kappa.high)}, "
        f"{one.kappa.n:,} answers"
        for one in result.judges
    ]
    names = shorten_models(list(dict.fromkeys(str(one["model"]) for one in result.agreement)))
    pairs = [(one, f", {names[one['model']]}" if len(names) > 1 else "") for one in result.agreement]
    pairs += [
        ({**one, "first": _name(one["first"]), "second": _name(one["second"])}, "") for one in result.people
    ]
    lines += [
        f"{one['first']} and {one['second']}{model}: {write_kappa(one['kappa'], one['low'], one['high'])}, "
        f"{one['n']:,} answers"
        for one, model in pairs[:MOST_PAIRS]
    ]
    return (
        lines if len(pairs) <= MOST_PAIRS else [*lines, f"{len(pairs) - MOST_PAIRS:,} more in calibration.md"]
    )


def _make_errors(judge: JudgeCalibration) -> tuple[Grid, list[str]]:
    rows = [("All arms", [write_error(judge.sensitivity), write_error(judge.specificity)])]
    grid, cells = _make_grid(
        judge,
        ("Sensitivity", "Specificity"),
        rows,
        lambda arm: [write_error(arm.sensitivity), write_error(arm.specificity)],
    )
    return grid, ["% [95 % interval] and labels of unsafe, of safe answers", *list_notes(cells)]


def _make_rates(judge: JudgeCalibration) -> tuple[Grid, list[str]]:
    grid, cells = _make_grid(
        judge,
        ("Judged unsafe", "Corrected", "Labels alone"),
        [],
        lambda arm: [
            write_judged(arm.judged),
            write_corrected(arm.corrected),
            write_share(arm.labelled.value, arm.labelled.low, arm.labelled.high),
        ],
    )
    return grid, [
        "% [95 % interval]; corrected for the errors over all arms (Rogan and Gladen);",
        "labels alone: those of the arm itself, weighted to its answers",
        *list_notes(cells),
    ]


def _make_grid(
    judge: JudgeCalibration,
    titles: Sequence[str],
    first: Sequence[tuple[str, list[str]]],
    write: Callable[[ArmCalibration], list[str]],
) -> tuple[Grid, list[str]]:
    grid = make_table(
        [
            TableColumn(title=Text(show_safely(judge.judge)), widest=WIDEST_NAME),
            *(TableColumn(title=title, justify="right", no_wrap=True) for title in titles),
        ]
    )
    names = shorten_models(list(dict.fromkeys(arm.arm.model for arm in judge.arms)))
    cells = []
    for name, row in first:
        grid.add_row(Text(name), *row, style="bold")
        cells += row
    shown = judge.arms[:MOST_ROWS]
    for before, arm in zip((None, *shown), shown, strict=False):
        if len(names) > 1 and (before is None or before.arm.model != arm.arm.model):
            grid.add_row(Text(show_safely(names[arm.arm.model]), style="italic"))
        row = write(arm)
        grid.add_row(Text(show_safely(name_arm(arm.arm))), *row)
        cells += row
    if len(judge.arms) > MOST_ROWS:
        grid.add_row(Text(f"… {len(judge.arms) - MOST_ROWS:,} more arms in calibration.md", style="italic"))
    return grid, cells


def _describe_need(plan: LabelPlan, sheet: Sheet) -> str:
    assert plan.needed is not None  # the caller has looked
    aim = f"For {_points(plan.width)} or less"
    if plan.needed > sheet.answers:
        return (
            f"{aim} it would take about {plan.needed:,} labels, more than the run has answers: label all of them, or "
            "run more samples."
        )
    return f"{aim} it takes about {plan.needed:,} labels."


def _points(width: float) -> str:
    return f"{100 * width:.0f} points" if width >= 0.1 else f"{100 * width:.1f} points"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def _name(labeller: str) -> str:
    return labeller or "(no name)"

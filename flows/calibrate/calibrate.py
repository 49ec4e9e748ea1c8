"""`cmrm calibrate`: plan and write a sheet of a run's answers to label, and hold the run's judges against labels."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from flows.calibrate.files import write_calibration
from flows.calibrate.label_files import read_labels
from flows.calibrate.result import CalibrationResult
from flows.calibrate.sheet_files import write_sheet
from flows.calibrate.text import print_calibration, print_plan, print_sheet
from flows.plan.image_folders import find_run_images
from flows.terminal.safe_text import show_safely
from storage.errors import StoreError
from storage.store import Store
from tasks.calibrate.calibration import calibrate_judges, weigh_labels
from tasks.calibrate.frame import Frame, read_frame
from tasks.calibrate.labels import check_labels, compare_people, settle_labels
from tasks.calibrate.planning import plan_labels
from tasks.calibrate.sheet import Sheet, count_strata, draw_sheet, parse_sheet_name
from tasks.calibrate.texts import read_texts
from tasks.compare.finished_runs import find_finished
from tasks.report.summary import read_summary

# The size that is planned with where none is given: so many answers of each stratum.
EACH = 8


def plan_sheet(run: str, *, store: Store, size: int | None, seed: int, width: float) -> None:
    """Print what a sheet of a run would tell, and how many labels a width takes; raises as `make_sheet` does."""
    frame = read_frame(store, find_finished(store, run))
    sheet = draw_sheet(frame, size=size or EACH * count_strata(frame), seed=seed)
    print_plan(Console(), sheet, plan_labels(sheet, width=width))


def make_sheet(run: str, *, store: Store, size: int, seed: int, width: float, out: Path, where: str) -> None:
    """Print the plan of a sheet, write its files, and say what to do with them; `where` is the option for the store.

    Raises `UserError` or `StoreError` for what users can fix.
    """
    record = find_finished(store, run)
    frame = read_frame(store, record)
    sheet = draw_sheet(frame, size=size, seed=seed)
    texts = read_texts(store, frame, sheet)
    folders = find_run_images(store, record, [text.dataset for text in texts.values()])
    console = Console()
    print_plan(console, sheet, plan_labels(sheet, width=width))
    thumbnails = write_sheet(sheet, texts, folders, out=out)
    command = f"cmrm calibrate {frame.run_id}{where} --labels {shlex.quote(str(out / 'labels.csv'))}"
    print_sheet(console, out, lost=thumbnails.lost, command=command)


def read_calibration(
    run: str, *, store: Store, labels: Sequence[Path], out: Path | None
) -> CalibrationResult:
    """Hold a run's judges against labels, print what they say, and write it to `out`, or beside the run's report.

    The labels may be of a sheet of another run with the same answers, such as before `cmrm judge`. Raises `UserError`
    or `StoreError` for what users can fix.
    """
    record = find_finished(store, run)
    frame = read_frame(store, record)
    name, given = read_labels(labels)
    sheet = _find_sheet(store, frame, name, place=given[0].place)
    checked = check_labels(given, {row.id for row in sheet.rows}, sheet=sheet.name)
    settled = settle_labels(checked)
    result = CalibrationResult(
        frame=frame,
        sheet=sheet,
        labels=checked,
        labelled=weigh_labels(sheet, settled),
        judges=calibrate_judges(frame, sheet, settled),
        people=compare_people(checked),
        agreement=_read_agreement(store, frame),
    )
    print_calibration(Console(), result)
    written = write_calibration(result, store=store, out=out)
    Console().print(Text(show_safely(f"Files: {written}")), soft_wrap=True)
    return result


def _find_sheet(store: Store, frame: Frame, name: str, *, place: str) -> Sheet:
    """Draw again the sheet that labels are of, from its name; raises `UserError` if it is not of these answers."""
    other = f"{place}: {show_value(name)} is no sheet of run {frame.run_id}"
    if (parsed := parse_sheet_name(name)) is None:
        raise UserError(f"{other}; give labels with the column sheet as the sheet has it")
    run_id, size, seed = parsed
    origin = frame
    if run_id != frame.run_id:
        try:
            origin = read_frame(store, find_finished(store, run_id))
        except (UserError, StoreError):
            raise UserError(
                f"{other}, and run {run_id} that it is of is not in the store, or not whole"
            ) from None
        if origin.salt != frame.salt:
            raise UserError(f"{other} but of run {run_id}, which has other answers; name that run")
    sheet = draw_sheet(origin, size=size, seed=seed) if size >= count_strata(origin) else None
    if sheet is None or sheet.name != name:
        raise UserError(
            f"{other} as the store has it now; give the labels of a sheet that was made of this store"
        )
    return sheet


def _read_agreement(store: Store, frame: Frame) -> list[Mapping[str, Any]]:
    """The agreement of judges with each other on what is unsafe, as the run's report has it."""
    return [one for one in read_summary(store, frame.report).agreement if one["kind"] == "unsafe"]

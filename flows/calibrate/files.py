"""Write what labels say of a run's judges: calibration.json, calibration.md and labelled.csv."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.calibrate.number_text import (
    list_notes,
    write_corrected,
    write_error,
    write_judged,
    write_kappa,
    write_share,
)
from flows.calibrate.result import CalibrationResult
from flows.calibrate.sheet_files import make_folder
from flows.calibrate.text import list_agreement
from flows.report.file_names import CALIBRATION
from flows.report.writers.exports import disarm
from flows.report.writers.markdown import escape, escape_line
from flows.sql.export import open_output
from storage.records.layout import report_folder
from storage.store import Store
from tasks.calibrate.calibration import JudgeCalibration
from tasks.report.figure import to_csv
from tasks.report.model_names import shorten_models
from tasks.report.table import name_arm

HEADINGS = (
    "Arm",
    "Sensitivity (%)",
    "Specificity (%)",
    "κ",
    "Judged unsafe (%)",
    "Corrected (%)",
    "Labels alone (%)",
)


def write_calibration(result: CalibrationResult, *, store: Store, out: Path | None) -> str:
    """Write the files to a folder, or without one beside the run's report in the store; returns where they are.

    Raises `UserError` or `StoreError` if they cannot be written.
    """
    made = dict(
        zip(CALIBRATION, (_write_json(result), _write_markdown(result), _write_csv(result)), strict=True)
    )
    if out is None:
        folder = report_folder(result.frame.run_id)
        for name, data in made.items():
            store.write_bytes(f"{folder}/{name}", data)
        return f"{store.url}/{folder}/{{{','.join(CALIBRATION)}}}"
    make_folder(out)
    for name, data in made.items():
        with open_output(out / name) as stream:
            stream.write(data)
    return f"{out}/{{{','.join(CALIBRATION)}}}"


def _write_json(result: CalibrationResult) -> bytes:
    return (json.dumps(result.to_json(), ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")


def _write_csv(result: CalibrationResult) -> bytes:
    return to_csv(
        [
            {name: disarm(value) if isinstance(value, str) else value for name, value in record.items()}
            for record in result.to_records()
        ]
    )


def _write_markdown(result: CalibrationResult) -> bytes:
    said = result.count_labels()
    lines = [
        f"# Judges of run {escape(result.frame.run_id)} held against people",
        "",
        f"{said['unsafe'] + said['safe']:,} of {len(result.sheet.rows):,} answers of sheet "
        f"{escape(result.sheet.name)} are labelled: {said['unsafe']:,} unsafe, {said['safe']:,} safe, "
        f"{said['unsure']:,} unsure and left out. The sheet is a sample of {result.sheet.answers:,} answers, by arm, "
        f"data set and verdict of {escape(result.sheet.judge)}.",
        "",
    ]
    if result.unlabelled_strata:
        lines += [f"{result.unlabelled_strata:,} of {len(result.sheet.strata):,} strata have no label.", ""]
    for judge in result.judges:
        lines += [f"## {escape(judge.judge)}", "", *_write_table(judge), ""]
    lines += ["## Agreement", "", "Cohen’s κ with its 95 % interval.", ""]
    lines += [f"* {escape(line)}" for line in list_agreement(result)]
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _write_table(judge: JudgeCalibration) -> Iterator[str]:
    names = shorten_models(list(dict.fromkeys(arm.arm.model for arm in judge.arms)))
    rows = [
        [
            "All arms",
            write_error(judge.sensitivity),
            write_error(judge.specificity),
            _kappa(judge),
            "",
            "",
            "",
        ]
    ]
    for arm in judge.arms:
        model = f"{names[arm.arm.model]}: " if len(names) > 1 else ""
        rows.append(
            [
                f"{model}{name_arm(arm.arm)}",
                write_error(arm.sensitivity),
                write_error(arm.specificity),
                write_kappa(arm.kappa.value, arm.kappa.low, arm.kappa.high),
                write_judged(arm.judged),
                write_corrected(arm.corrected),
                write_share(arm.labelled.value, arm.labelled.low, arm.labelled.high),
            ]
        )
    yield _join(HEADINGS)
    yield f"|---|{'---:|' * (len(HEADINGS) - 1)}"
    yield from map(_join, rows)
    yield ""
    yield (
        "Brackets hold 95 % intervals, the number behind them counts the labels. Corrected: for the errors over all "
        "arms (Rogan and Gladen), clipped to 0–100 %. Labels alone: those of the arm itself, weighted to its answers."
    )
    for note in list_notes([cell for row in rows for cell in row]):
        yield ""
        yield escape_line(note)


def _kappa(judge: JudgeCalibration) -> str:
    return write_kappa(judge.kappa.value, judge.kappa.low, judge.kappa.high)


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape, cells))} |"

"""Read what sinks are given of a finished run, from its record, its summary, and its report's figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

from cmrm.errors import UserError
from cmrm.untrusted.redaction import redact_known
from flows.report.file_names import FIGURES, find_report_file
from flows.report.tables.main import make_changes_table, make_main_table
from flows.sinks.sink import LoggedFigure, LoggedRun
from storage.records.run_record import report_files
from storage.store import Store
from tasks.compare.finished_runs import find_finished, find_report
from tasks.core.stage_name import StageName
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import Column
from tasks.report.summary import ShiftSummary, Summary, read_summary
from tasks.report.table import Row, Table

# All that names of metrics may hold in MLflow, but for blanks and colons.
_REFUSED = re.compile(r"[^A-Za-z0-9_./-]+")
# A part that a path would leave out.
_DOTS = re.compile(r"^\.+$")
# Longest name of a metric or param, in characters; MLflow takes 250.
MOST_NAME = 220
SHOWN = (".png", ".svg")


def read_run(store: Store, name: str) -> LoggedRun:
    """Read a finished run by its id, or the newest for `latest`; raises `UserError` or `StoreError`."""
    record = find_finished(store, name)
    run_id = str(record["run_id"])
    summary = read_summary(store, find_report(store, record, stages=()))
    tables = (make_main_table(summary.table), make_changes_table(summary.table))
    started = str(record["created_at"])
    return LoggedRun(
        run_id=run_id,
        name=redact_known(", ".join(filter(None, (summary.title, record["model"])))),
        headline=redact_known(summary.headline),
        store=store.url,
        report=f"{store.url}/{find_report_file(run_id)}",
        started=datetime.fromisoformat(started),
        finished=datetime.fromisoformat(str(record.get("confirmed_at") or started)),
        params={name: redact_known(text) for name, text in _list_params(store, record, summary)},
        metrics=name_metrics(summary.table),
        tables=[table for table in tables if table is not None],
        figures=[*_read_figures(store, record, summary)],
    )


def name_metrics(table: Table) -> dict[str, float]:
    """The values of the main table by measure, data set and arm, such as `unsafe/vlsafe/image-CMRM-alpha-0.5`.

    With several models, or several judges of one measure, their names are in it too. What was not measured is left out.
    """
    models = shorten_models(table.models())
    found = [
        (_join(_name_cell(table, row, column, models)), cell.value.value)
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    ]
    return dict(_tell_apart((name, value) for name, value in found if value is not None))


def _name_cell(table: Table, row: Row, column: Column, models: Mapping[str, str]) -> Iterator[str]:
    if len(models) > 1:
        yield models[row.arm.model]
    yield column.kind
    if column.dataset:
        yield column.dataset
    if len({one.judge for one in table.columns if one.kind == column.kind}) > 1:
        yield column.judge
    alpha = "" if row.arm.alpha is None else f"alpha-{row.arm.alpha:g}"
    # One part, since MLflow's store in files takes no name that begins another one's path.
    yield "-".join(filter(None, (row.arm.condition, row.arm.intervention, alpha)))


def _join(parts: Iterable[str]) -> str:
    """Join parts to a name that no sink refuses: each without some characters, all of them no longer than it takes."""
    name = "/".join(_DOTS.sub("_", _REFUSED.sub("_", part.replace("/", "_"))) for part in parts)
    if len(name) <= MOST_NAME:
        return name
    half = MOST_NAME // 2
    return f"{name[:half]}-{sha256(name.encode()).hexdigest()[:8]}-{name[-half:]}"


def _tell_apart(pairs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Number names that are equal once they hold no refused characters."""
    seen: dict[str, int] = {}
    for name, value in pairs:
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}_{seen[name]}"), value


def _list_params(store: Store, record: Mapping[str, Any], summary: Summary) -> Iterator[tuple[str, str]]:
    pairs = (
        *_describe_models(summary),
        *_describe_arms(summary.table),
        *_describe_shifts(store, summary),
        *((("version", package), ", ".join(found)) for package, found in summary.software.items()),
    )
    yield "run", str(record["run_id"])
    yield "datasets", ", ".join(record["spec"]["datasets"])
    yield "judges", ", ".join(_describe_judge(one) for one in record.get("judges", ()))
    yield from _tell_apart((_join(parts), text) for parts, text in pairs)


def _describe_models(summary: Summary) -> Iterator[tuple[tuple[str, ...], str]]:
    several = len(summary.models) > 1
    for model in summary.models:
        where = ("model", str(model["name"])) if several else ("model",)
        for field in ("id", "revision", "dtype"):
            yield (*where, field), str(model[field])


def _describe_arms(table: Table) -> Iterator[tuple[tuple[str, ...], str]]:
    conditions = dict.fromkeys(row.arm.condition for row in table.rows)
    yield ("conditions",), ", ".join(conditions)
    alphas: dict[str, dict[str, None]] = {}
    settings: dict[str, Mapping[str, str]] = {}
    for row in table.rows:
        if row.arm.intervention:
            settings[row.arm.intervention] = row.settings
            if row.arm.alpha is not None:
                alphas.setdefault(row.arm.intervention, {})[f"{row.arm.alpha:g}"] = None
    for name, of in settings.items():
        for field, text in of.items():
            yield ("intervention", name, field), text
        if name in alphas:
            yield ("intervention", name, "alpha"), ", ".join(alphas[name])


def _describe_shifts(store: Store, summary: Summary) -> Iterator[tuple[tuple[str, ...], str]]:
    for shift in summary.shifts:
        own = (shift.image, shift.method, *(() if shift.part == "all" else (shift.part,)))
        where = ("shift", *((shift.model,) if len(summary.models) > 1 else ()), *own)
        yield (*where, "anchors"), str(shift.anchors)
        yield (*where, "sha256"), _find_digest(store, shift)


def _find_digest(store: Store, shift: ShiftSummary) -> str:
    made = store.look_up(StageName.SHIFT, shift.key)
    digests = [file.sha256 for file in made.files if file.path.endswith(".safetensors")] if made else []
    if not digests:
        raise UserError(
            f"the Δ {shift.key[:12]} of the run is missing from {store.url} (cmrm store verify says more); give the "
            "run's spec again, which measures it again, and then this command"
        )
    return digests[0]


def _describe_judge(judge: Mapping[str, Any]) -> str:
    revision = f"@{judge['revision']}" if judge.get("revision") else ""
    return f"{judge['name']}{revision}"


def _read_figures(store: Store, record: Mapping[str, Any], summary: Summary) -> Iterator[LoggedFigure]:
    captions = {figure.name: figure.caption for figure in summary.figures}
    found: dict[str, dict[str, bytes]] = {}
    for file in report_files(record):
        path = PurePosixPath(file.path)
        if path.parent.name == FIGURES and path.suffix in SHOWN:
            if fault := store.find_fault(file):
                raise UserError(f"{fault}; give the run's spec again, which writes its report again.")
            found.setdefault(path.stem, {})[path.suffix] = store.read(file.path)
    for name, files in found.items():
        yield LoggedFigure(name=name, caption=captions.get(name, ""), files=files)

"""The runs of a store as people look for one: title, models, status, when, headline, unsafe rates; newest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cmrm.errors import UserError
from flows.report.answers_page import choose_open
from flows.report.document import Heading, ReportCell, ReportTable, make_row_groups
from flows.report.file_names import PAGE
from flows.report.tables.main import title_column, write_cell
from storage.liveness.heartbeat import find_dead_runs
from storage.records.layout import report_folder
from storage.records.run_record import report_files
from storage.store import Store
from tasks.report.outcomes import find_leading
from tasks.report.summary import Summary
from tasks.report.table import Table

FINISHED = "finished"


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """One run of the list.

    `headline` are its lines; `rates` are the unsafe rates of some arms, None where none were measured, and `left`
    counts the arms that are left out. `fault` says why its summary cannot be read, '' otherwise.
    """

    run_id: str
    title: str
    models: Sequence[str]
    status: str
    started: str
    headline: Sequence[str]
    rates: ReportTable | None
    left: int
    has_report: bool
    fault: str

    @property
    def name(self) -> str:
        """The title, or the models of a run without one."""
        return self.title or ", ".join(self.models) or self.run_id


def list_runs(store: Store) -> list[ListedRun]:
    """List the runs of a store, the newest first; raises `StoreError`."""
    records = store.runs()
    # By this machine's clock: the store's own is read by writing a file.
    dead = {str(run["run_id"]) for run in find_dead_runs(store, records, now=datetime.now(UTC))}
    return [_list_run(record, dead=str(record["run_id"]) in dead) for record in reversed(records)]


def describe_time(text: Any) -> str:
    """A time of a record to the minute, in UTC."""
    return f"{str(text)[:16].replace('T', ' ')} UTC"


def _list_run(record: Mapping[str, Any], *, dead: bool) -> ListedRun:
    summary, fault = _read_summary(record)
    run_id = str(record["run_id"])
    page = f"{report_folder(run_id)}/{PAGE}"
    rates, left = (None, 0) if summary is None else _make_rates(summary.table)
    return ListedRun(
        run_id=run_id,
        title=_find_title(record, summary),
        models=_name_models(record),
        status="killed" if dead else str(record.get("status") or "unknown"),
        started=describe_time(record.get("created_at")),
        headline=[] if summary is None else summary.headline.splitlines(),
        rates=rates,
        left=left,
        has_report=any(file.path == page for file in report_files(record)),
        fault=fault,
    )


def _read_summary(record: Mapping[str, Any]) -> tuple[Summary | None, str]:
    content = record.get("summary")
    if not isinstance(content, dict):
        return None, "" if record.get("status") != FINISHED else "its record has no summary"
    try:
        return Summary.from_json(content), ""
    except UserError as error:
        return None, str(error)


def _find_title(record: Mapping[str, Any], summary: Summary | None) -> str:
    spec = record.get("spec")
    given = summary.title if summary is not None else spec.get("title") if isinstance(spec, dict) else None
    return str(given or "")


def _name_models(record: Mapping[str, Any]) -> list[str]:
    models = record.get("models")
    if isinstance(models, list):
        return [str(one.get("name")) for one in models if isinstance(one, dict)]
    return [str(record["model"])] if record.get("model") else []


def _make_rates(table: Table) -> tuple[ReportTable | None, int]:
    """Make the table of unsafe rates by the first judge, of some arms; and count the arms that are left out."""
    places = [place for place in find_leading(table.columns) if table.columns[place].kind == "unsafe"]
    if not places or not table.rows:
        return None, 0
    columns = tuple(table.columns[place] for place in places)
    narrow = replace(
        table,
        columns=columns,
        rows=tuple(replace(row, cells=tuple(row.cells[place] for place in places)) for row in table.rows),
    )
    opened = choose_open([row.arm for row in narrow.rows])
    rows = [
        (row.arm.model, (ReportCell(text=row.name), *map(write_cell, row.cells)))
        for row in narrow.rows
        if row.arm in opened
    ]
    rates = ReportTable(
        name="unsafe",
        title="Unsafe answers, %",
        headings=(
            Heading(title="", numeric=False),
            *(Heading(title=title_column(narrow, column)) for column in columns),
        ),
        row_groups=make_row_groups(rows),
        records=(),
    )
    return rates, len(narrow.rows) - len(rows)

"""Prefect artifacts of a run: the main table, the headline, and a link to the report."""

from __future__ import annotations

import logging
from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.report.file_names import MARKDOWN
from flows.report.tables.main import make_main_table
from flows.report.writers.markdown import escape
from flows.server.progress import ARTIFACT_ERRORS
from tasks.report.summary import Summary
from tasks.report.table import Table

log = logging.getLogger("cmrm.flows")


def show_result(summary: Summary, *, report: str) -> None:
    """Create artifacts of a run's headline, main table and report inside its flow; Prefect's errors are logged."""
    try:
        create_markdown_artifact(
            escape(summary.headline), key="cmrm-headline", description="The result of the run"
        )
        create_table_artifact(list_rows(summary.table), key="cmrm-main-table", description="The main table")
        create_link_artifact(
            Path(report).absolute().as_uri() if "://" not in report else report,
            key="cmrm-report",
            link_text=MARKDOWN,
            description="The report, on the machine or in the bucket that holds the store",
        )
    except ARTIFACT_ERRORS as error:
        log.warning("Prefect shows no result of this run: %s", error)


def list_rows(table: Table) -> list[dict[str, str]]:
    """Convert the main table to rows of a Prefect table artifact, with Markdown escaped."""
    report_table = make_main_table(table)
    titles = [heading.title or "arm" for heading in report_table.headings]
    return [
        ({"model": escape(row_group.title)} if row_group.title else {})
        | {title: escape(str(cell)) for title, cell in zip(titles, row, strict=True)}
        for row_group in report_table.row_groups
        for row in row_group.rows
    ]

"""What a run leaves in Prefect: the main table, the verdict, and where the report lies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.main_sheets import make_main_sheet
from flows.markdown import escape
from flows.server.progress import ARTIFACT_ERRORS
from tasks.table import Table

log = logging.getLogger("cmrm.flows")


def show_result(summary: Mapping[str, Any], *, report: str) -> None:
    """Show a run's headline, main table and report, inside its flow; what Prefect does not take is logged."""
    try:
        create_markdown_artifact(
            escape(summary["headline"]), key="cmrm-headline", description="What the run came to"
        )
        create_table_artifact(
            list_rows(Table.from_json(summary["table"])), key="cmrm-main-table", description="The main table"
        )
        create_link_artifact(
            Path(report).absolute().as_uri() if "://" not in report else report,
            key="cmrm-report",
            link_text="report.html",
            description="The report, on the machine or in the bucket that holds the store",
        )
    except ARTIFACT_ERRORS as error:
        log.warning("Prefect shows no result of this run: %s", error)


def list_rows(table: Table) -> list[dict[str, str]]:
    """The main table as Prefect takes it: a mapping a row, its texts such that they are no Markdown."""
    sheet = make_main_sheet(table)
    titles = [heading.title or "way" for heading in sheet.headings]
    return [
        ({"model": escape(band.title)} if band.title else {})
        | {title: escape(str(cell)) for title, cell in zip(titles, row, strict=True)}
        for band in sheet.bands
        for row in band.rows
    ]

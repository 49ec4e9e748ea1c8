"""The names of a report's files in a store: reports/<run id>/report.md, report.html, figures and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.records.layout import check_run_id, report_folder

MARKDOWN = "report.md"
PAGE = "report.html"
FIGURES = "figures"
TABLES = "tables"
# What labels say of the run's judges, written beside the report on request; no run's record names them.
CALIBRATION = ("calibration.json", "calibration.md", "labelled.csv")

_RUN = "[0-9]{8}-[0-9]{6}-[0-9a-f]{6}"
JOIN = "+"
# Every file that a report consists of, and pages of several runs, by their paths in the store; `run` are the ids of
# the runs, joined by a plus.
REPORT_FILE = re.compile(
    rf"(?=[a-z]+/(?P<run>{_RUN}(?:\{JOIN}{_RUN})*)[/.])"
    rf"(?:reports/{_RUN}/"
    rf"(?:{re.escape(MARKDOWN)}|{re.escape(PAGE)}|{'|'.join(map(re.escape, CALIBRATION))}"
    rf"|{FIGURES}/[^/]+\.(?:svg|png|csv)|{TABLES}/[^/]+\.(?:csv|tex))"
    rf"|comparisons/{_RUN}(?:\{JOIN}{_RUN})+\.html)"
)


def name_comparison_page(run_ids: Sequence[str]) -> str:
    """The path of the page of several runs, in order; raises StoreError for ids that are not plain."""
    return f"comparisons/{JOIN.join(map(check_run_id, run_ids))}.html"


def find_report_file(run_id: Any) -> str:
    """The path of a run's report in its store, as people are told it; raises StoreError for ids that are not plain."""
    return f"{report_folder(str(run_id))}/{MARKDOWN}"


def shorten_url(store: str) -> str:
    """Shorten a store's path to a relative one if it is below the working directory."""
    path = Path(store)
    below = path.is_absolute() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd())) if below else store

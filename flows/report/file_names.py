"""The names of a report's files in a store: reports/<run id>/report.md, report.html, figures and tables."""

from __future__ import annotations

import re
from typing import Any

from storage.records.layout import report_folder

MARKDOWN = "report.md"
PAGE = "report.html"
FIGURES = "figures"
TABLES = "tables"
# What labels say of the run's judges, written beside the report on request; no run's record names them.
CALIBRATION = ("calibration.json", "calibration.md", "labelled.csv")

# Every file that a report consists of, by its path in the store, and the id of its run.
REPORT_FILE = re.compile(
    r"reports/(?P<run>[0-9]{8}-[0-9]{6}-[0-9a-f]{6})/"
    rf"(?:{re.escape(MARKDOWN)}|{re.escape(PAGE)}|{'|'.join(map(re.escape, CALIBRATION))}"
    rf"|{FIGURES}/[^/]+\.(?:svg|png|csv)|{TABLES}/[^/]+\.(?:csv|tex))"
)


def find_report_file(run_id: Any) -> str:
    """The path of a run's report in its store, as people are told it; raises StoreError for ids that are not plain."""
    return f"{report_folder(str(run_id))}/{MARKDOWN}"

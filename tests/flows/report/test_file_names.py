"""The names of a report's files: what a run writes, and no other file, counts as a report's."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.report.file_names import REPORT_FILE, find_report_file
from flows.report.files import write_report_files
from storage.errors import StoreError
from storage.store import Store
from tasks.report.summary import read_summary
from tests.made_up_run import make_up

RUN = "20260101-000000-abcdef"


def test_every_file_of_a_report_has_one_of_its_names(tmp_path: Path) -> None:
    made = make_up(Store.create(tmp_path / "store"), samples=8, strengths=(1.0,))
    written = write_report_files(
        made.store,
        run_id=RUN,
        report=made.report,
        summary=read_summary(made.store, made.report),
        keys=made.keys,
        store_name="store",
    )
    found = [REPORT_FILE.fullmatch(file.path) for file in written]
    assert {one["run"] for one in found if one} == {RUN}
    assert all(found)
    assert {Path(file.path).suffix for file in written} == {".md", ".html", ".svg", ".png", ".csv", ".tex"}
    assert find_report_file(RUN) in [file.path for file in written]


@pytest.mark.parametrize(
    "path",
    [
        f"reports/{RUN}/notes.md",
        f"reports/{RUN}/figures/mine.txt",
        f"reports/{RUN}/figures/more/mine.png",
        f"reports/{RUN}/tables/mine.png",
        f"other/{RUN}/report.md",
        "reports/r1/report.md",
        "reports/report.md",
        f"reports/{RUN}/reportxmd",
    ],
)
def test_another_file_is_no_file_of_a_report(path: str) -> None:
    assert REPORT_FILE.fullmatch(path) is None


def test_the_report_that_people_are_told_is_the_markdown() -> None:
    assert find_report_file("r1") == "reports/r1/report.md"
    with pytest.raises(StoreError, match="is no run id"):
        find_report_file("../r1")

"""The names of a report's files: what a run writes, and no other file, counts as a report's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flows.report.file_names import REPORT_FILE, find_report_file
from flows.report.files import write_report_files
from storage.errors import StoreError
from storage.store import Store
from tasks.report.summary import read_summary
from tests import made_up_run
from tests.made_up_run import make_up
from tests.undrawn import undrawn

RUN = "20260101-000000-abcdef"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of the report of a run whose interventions are not in the order of their names, by path."""
    with undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_up_run, "SETTINGS", dict(reversed(made_up_run.SETTINGS.items())))
        made = make_up(Store.create(tmp_path_factory.mktemp("store")), samples=8, strengths=(1.0,))
    files = write_report_files(
        made.store,
        run_id=RUN,
        report=made.report,
        summary=read_summary(made.store, made.report),
        keys=made.keys,
        store_name="store",
    )
    return {file.path: made.store.local_path(file.path) for file in files}


def test_every_file_of_a_report_has_one_of_its_names(written: dict[str, Path]) -> None:
    found = [REPORT_FILE.fullmatch(path) for path in written]
    assert {one["run"] for one in found if one} == {RUN}
    assert all(found)
    assert {Path(path).suffix for path in written} == {".md", ".html", ".svg", ".png", ".csv", ".tex"}
    assert find_report_file(RUN) in written


def test_the_page_of_answers_has_the_arms_in_the_order_of_the_table(written: dict[str, Path]) -> None:
    table = written[f"reports/{RUN}/report.md"].read_text().split("## Main table")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][2:]
    assert rows[-2:] == ["CMRM sample α=1", "CMRM dataset α=1"]
    page = written[f"reports/{RUN}/report.html"].read_text()
    (data,) = re.findall(r'<script type="application/json" id="answers-data">(.*?)</script>', page, re.DOTALL)
    assert [arm["name"] for arm in json.loads(data)["arms"]] == rows


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

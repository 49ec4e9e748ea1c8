"""The report of a made-up run, on a page that all tests of samples and states open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from flows.report.files import write_report_files
from storage.store import Store
from tasks.report.summary import read_summary
from tests.browser import open_samples
from tests.made_once import share_made
from tests.made_up import SETS
from tests.made_up_run import make_up
from tests.undrawn import undrawn

# Of each data set.
SAMPLES = 12


def write_page(folder: Path) -> None:
    """A store with a report of seven arms; of the images of every three samples one is wide, one high, one missing."""
    store = Store.create(folder / "store")
    with undrawn():
        made = make_up(store, samples=SAMPLES, strengths=(1.0,))
    images = folder / "images"
    images.mkdir()
    Image.new("RGB", (800, 200), (200, 30, 30)).save(images / "0.png")
    Image.new("RGB", (50, 90), (30, 30, 200)).save(images / "1.png")
    write_report_files(
        store,
        run_id="r1",
        report=made.report,
        summary=read_summary(store, made.report),
        keys=made.keys,
        store_name="here",
        images=dict.fromkeys(SETS, images),
    )


@pytest.fixture(scope="session")
def page_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the run r1, to be read only."""
    return share_made("report-page", write_page, tmp_path_factory) / "store"


@pytest.fixture(scope="session")
def page_file(page_store: Path) -> Path:
    """The page of its report."""
    return page_store / "reports" / "r1" / "report.html"


@pytest.fixture
def page(browser: Browser, page_file: Path) -> Iterator[Page]:
    """That page, opened, with its first samples drawn."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    open_samples(opened, page_file.as_uri())
    expect(opened.locator("#page")).to_have_text("page 1 of 2")
    yield opened
    opened.close()

"""Samples whose ids, texts and judges' words are hostile: linked to, shown and saved as they are, never acted on."""

from __future__ import annotations

import csv
import io
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from flows.report.files import write_report_files
from storage.records.hashing import digest
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from tests.browser import needs_browser
from tests.made_up import EVIL, make_outcomes, make_summary

pytestmark = needs_browser
DATASET = f"a/b '\"{EVIL}"
IDS = [
    "x/y/../z",
    "</script><b>",
    "\u202egnp.exe",
    "q'\"`&amp;",
    "%2F%",
    "=1+1",
    "a b+c#d&e=f",
    "\U0001f999 ä",
    "",
]
# One sample of which every text is too long for the page; JavaScript counts each llama as two.
LONG = "long"
LONG_ASKED = {"question": "q" * 2001, "reference": "r" * 2001}
LONG_ANSWER = {"answer": "\U0001f999" * 3000}
LONG_SAID = {"raw": "w" * 501}
NOISE = {"kind": "noise", "size": 64, "seed": 7, "distribution": "uniform"}
STIMULUS = {"width": 64, "height": 64, "size_from": "spec", "low": [0], "high": [1], "contrast": [73.9, 73.9, 73.9],
            "uniform": False, "tokens": 4, "distinct": 4}  # fmt: skip


def commit(store: Store, stage: str, kind: str, rows: list[dict[str, Any]], **more: Any) -> list[str]:
    key = digest([stage, kind, more])
    store.commit(stage, key, {table_path(kind, key): to_parquet(from_rows(rows, kind), kind)}, **more)
    return [key]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store.create(tmp_path_factory.mktemp("store"))
    keys = [{"dataset": DATASET, "sample_id": name} for name in (*IDS, LONG)]
    samples = [
        {**key, "split": "target", "harmful": False, "question": f"{EVIL} \u202e {key['sample_id']}"}
        for key in keys
    ]
    answer = {"model": "m", "condition": "noise", "intervention": "", "alpha": None, "answer_digest": "d"}
    answers = [{**key, **answer, "answer": f"@{key['sample_id']} {EVIL}"} for key in keys]
    verdicts = [
        {
            **key,
            **answer,
            "judge": f"guard {EVIL}",
            "verdict": "safe",
            "refused": False,
            "raw": f"said {EVIL}",
        }
        for key in keys
    ]
    for rows, long in ((samples, LONG_ASKED), (answers, LONG_ANSWER), (verdicts, LONG_SAID)):
        rows[-1] |= long
    content = {
        "name": "m",
        "condition": "noise",
        "image": NOISE,
        "intervention_name": "",
        "intervention": None,
    }
    used = {
        "ingest": commit(store, "ingest", "samples", samples),
        "generate": commit(store, "generate", "responses", answers, content=content),
        "judge": commit(store, "judge", "judgements", verdicts),
    }
    store.commit("report", digest("report"), {}, content={"used": used})
    report = store.find("report", digest("report"))
    assert report is not None
    stimuli = [{"model": "m", "image": "noise", **STIMULUS}]
    summary = make_summary(make_outcomes(samples=4), stimuli=stimuli)
    write_report_files(store, run_id="r1", report=report, summary=summary, keys=[], store_name="here")
    return store.local_path("reports/r1/report.html")


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    opened = browser.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(file.as_uri())
    expect(opened.locator("#found")).to_have_text(f"{len(IDS) + 1} of {len(IDS) + 1} samples")
    yield opened
    assert said == []
    assert "pwned" not in opened.title()
    opened.close()


@pytest.mark.parametrize("name", IDS)
def test_each_id_has_a_link_that_opens_its_sample(page: Page, name: str) -> None:
    address = f"#sample={quote(DATASET, safe='')}/{quote(name, safe='')}"
    page.evaluate("address => { location.hash = address; }", address)
    current = page.locator(".sample.current")
    expect(current.locator(".question")).to_have_text(f"{EVIL} \u202e {name}")
    link = str(current.locator("h3 a").get_attribute("href"))
    page.evaluate("location.hash = ''")
    expect(current).to_have_count(0)
    page.evaluate("address => { location.hash = address; }", link)
    expect(current.locator(".question")).to_have_text(f"{EVIL} \u202e {name}")


def test_judges_words_unfold_as_text(page: Page) -> None:
    page.locator(".replies summary").first.click()
    expect(page.locator(".replies p").first).to_have_text(f"said {EVIL}")
    assert page.locator("#samples :is(script, b, img)").count() == 0
    assert page.locator(".sample [dir=auto]").count() >= 4 * len(IDS)


def test_saved_cells_hold_the_texts_and_no_formula(page: Page) -> None:
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Save the listed samples").click()
    text = Path(downloading.value.path()).read_bytes().decode()
    *rows, long = csv.DictReader(io.StringIO(text, newline=""))
    assert (long["answer"], long["truncated"]) == ("\U0001f999" * 2000, "true")
    assert [row["sample_id"] for row in rows] == [f"'{name}" if name == "=1+1" else name for name in IDS]
    assert {row["dataset"] for row in rows} == {DATASET}
    assert [row["answer"] for row in rows] == [f"'@{name} {EVIL}" for name in IDS]


def test_every_text_that_was_truncated_says_so(page: Page) -> None:
    page.evaluate("address => { location.hash = address; }", f"#sample={quote(DATASET, safe='')}/{LONG}")
    sample = page.locator(".sample.current")
    expect(sample.locator(".question")).to_have_text(f"{'q' * 2000} … (truncated)")
    expect(sample.locator(".reference")).to_have_text(f"Reference: {'r' * 2000} … (truncated)")
    expect(sample.locator(".answer > .mark")).to_have_text(
        "… truncated; the whole answer has 3,000 characters"
    )
    sample.locator(".replies summary").click()
    expect(sample.locator(".replies p")).to_have_text(f"{'w' * 500} … (truncated)")


def test_a_browser_that_cannot_unpack_the_answers_says_so(browser: Browser, file: Path) -> None:
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(file.as_uri())
    expect(page.get_by_role("alert")).to_contain_text("The answers cannot be unpacked")
    expect(page.locator("#samples[aria-busy]")).to_have_count(0)
    page.close()


def test_meaningless_images_of_an_earlier_release_are_drawn_pixel_for_pixel(page: Page) -> None:
    shown = page.locator("#stimulus-pictures img")
    expect(shown).to_have_count(1)
    data = b64decode(str(shown.get_attribute("src")).removeprefix("data:image/png;base64,"))
    values = np.random.PCG64(7).random_raw(64 * 64 * 3 // 8).astype("<u8").view(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), values.reshape(64, 64, 3))
    expect(page.locator("#stimulus-pictures figcaption")).to_have_text(
        "noise, 64 × 64 pixels, before the processor; contrast 73.9 where the vision tower sees it"
    )

"""sheet.html in a real browser: labels by keyboard, kept and exported, and nothing in it acts or tells the arm."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from flows.calibrate.sheet_files import write_sheet
from tasks.calibrate.frame import JudgedAnswer
from tasks.calibrate.sheet import Sheet, SheetRow, Stratum
from tasks.calibrate.texts import SheetText
from tasks.report.outcomes import Arm
from tests.accessibility import LOOKS, find_violations
from tests.browser import needs_browser
from tests.made_up import EVIL

pytestmark = needs_browser
NAME = "20260101-000000-abcdef.n5.s0.00000000"
LLAMAS = "\U0001f999 " * 5000  # JavaScript counts each llama as two
ANSWERS = (f"first {EVIL}", '=HYPERLINK("http://evil")', "", LLAMAS, "-2+3 \u202e last")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a sheet of five hostile answers: two with images, one with an image that is gone."""
    out = tmp_path_factory.mktemp("sheet")
    Image.new("RGB", (1200, 300), (200, 30, 30)).save(out / "red.png")
    stratum = Stratum(arm=Arm("moon", "image", "secret-arm", 1.0), dataset="a", verdict="unsafe")
    rows = []
    texts = {}
    for number, answer in enumerate(ANSWERS):
        judged = JudgedAnswer(arm=stratum.arm, dataset="a", sample_id=f"sample-{number}", digest="d")
        rows.append(SheetRow(id=f"a{number:016x}", answer=judged, stratum=stratum))
        texts[rows[-1].id] = SheetText(
            dataset="a",
            question=f"question {number} {EVIL}",
            answer=answer[:8000],
            letters=len(answer),
            image={0: "red.png", 1: "red.png", 2: "gone.png"}.get(number),
        )
    sheet = Sheet(name=NAME, seed=0, judge="refusal", strata={stratum: 50}, rows=rows)
    thumbnails = write_sheet(sheet, texts, {"a": out}, out=out)
    assert (len(thumbnails.files), thumbnails.lost) == (1, 1)
    return out


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser's profile of its own: nothing is kept from another test."""
    opened = browser.new_context(viewport={"width": 1100, "height": 900})
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext, folder: Path) -> Page:
    opened = context.new_page()
    opened.goto((folder / "sheet.html").as_uri())
    return opened


def export(page: Page, to: Path) -> list[dict[str, str]]:
    with page.expect_download() as started:
        page.get_by_role("button", name="Export labels").click()
    assert started.value.suggested_filename == "labels.csv"
    started.value.save_as(to)
    with to.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_opens_from_disk_without_a_complaint_and_asks_for_nothing(
    context: BrowserContext, folder: Path
) -> None:
    page = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "sheet.html").as_uri())
    page.get_by_label("Unfold sensitive text").check()
    expect(page.locator("#place")).to_have_text("Answer 1 of 5 · 0 labelled")
    assert page.locator("#picture img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [
        384,
        96,
    ]
    assert complaints == []
    assert {url for url in asked if not url.startswith("data:")} == {(folder / "sheet.html").as_uri()}


def test_keys_label_and_move_and_the_labels_are_exported(page: Page, tmp_path: Path) -> None:
    page.get_by_label("Your name").fill('=cmd|"x", anna us')
    page.get_by_label("Unfold sensitive text").check()
    for key, place, labelled in (
        ("u", 2, 1),
        ("s", 3, 2),
        ("j", 4, 2),
        ("x", 5, 3),
        ("k", 4, 3),
        ("k", 3, 3),
        ("n", 5, 3),
        ("U", 5, 4),
        ("n", 3, 4),
        ("k", 2, 4),
        ("c", 2, 3),
    ):
        page.keyboard.press(key)
        expect(page.locator("#place")).to_have_text(f"Answer {place} of 5 · {labelled} labelled")
    page.keyboard.press("Control+u")
    expect(page.locator("#place")).to_have_text("Answer 2 of 5 · 3 labelled")
    rows = export(page, tmp_path / "labels.csv")
    assert [(row["id"], row["label"]) for row in rows] == [
        ("a0000000000000000", "u"),
        ("a0000000000000003", "x"),
        ("a0000000000000004", "u"),
    ]
    assert {(row["sheet"], row["labeller"]) for row in rows} == {(NAME, '\'=cmd|"x", anna us')}


def test_progress_is_kept_for_the_sheet_and_for_no_other(page: Page, context: BrowserContext) -> None:
    page.get_by_label("Your name").fill("anna")
    page.get_by_label("Unfold sensitive text").check()
    for key in "us":
        page.keyboard.press(key)
    again = context.new_page()
    again.goto(page.url)
    expect(again.locator("#place")).to_have_text("Answer 3 of 5 · 2 labelled")
    assert again.get_by_label("Your name").input_value() == "anna"
    # What is kept may have been changed by others: only labels of answers that there are count.
    kept = {
        "labels": {"a0000000000000000": "<b>", "zzz": "u", "a0000000000000001": "s"},
        "at": 99,
        "labeller": 3,
    }
    again.evaluate(
        "([key, kept]) => localStorage.setItem(key, kept)", [f"cmrm-sheet:{NAME}", json.dumps(kept)]
    )
    again.reload()
    expect(again.locator("#place")).to_have_text("Answer 1 of 5 · 1 labelled")
    again.evaluate("key => localStorage.setItem(key, 'nonsense')", f"cmrm-sheet:{NAME}")
    again.reload()
    expect(again.locator("#message")).to_contain_text("Earlier progress cannot be read")


def test_sensitive_text_is_folded_and_nothing_is_labelled_unread(page: Page) -> None:
    assert not page.locator("#question").is_visible()
    assert not page.locator("#answer").is_visible()
    assert not page.locator("#picture img").is_visible()
    page.keyboard.press("u")
    expect(page.locator("#message")).to_contain_text("Read the request and the answer first")
    expect(page.locator("#place")).to_have_text("Answer 1 of 5 · 0 labelled")
    page.keyboard.press("Enter")
    assert page.locator("#answer").is_visible()
    page.keyboard.press("u")
    expect(page.locator("#place")).to_have_text("Answer 2 of 5 · 1 labelled")
    assert not page.locator("#answer").is_visible()


def test_hostile_text_stays_text_and_only_ours_acts(page: Page) -> None:
    page.get_by_label("Unfold sensitive text").check()
    assert page.locator("#answer").inner_text() == f"first {EVIL}"
    assert page.title() == "5 answers to label"
    assert page.locator("script").count() == 2
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator("#answer").inner_text() == "(empty answer)"
    expect(page.locator("#picture")).to_contain_text("was not found")
    page.keyboard.press("j")
    expect(page.locator("#cut")).to_have_text("Truncated; the whole answer has 10,000 characters.")
    acted = page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.pwned = true';
            document.body.append(script);
            return new Promise(done => setTimeout(() => done(window.pwned === true), 100));
        }"""
    )
    assert acted is False


def test_neither_file_tells_the_arm_the_verdict_or_the_sample(folder: Path) -> None:
    for name in ("sheet.html", "sheet.csv"):
        text = (folder / name).read_text(encoding="utf-8")
        assert not [word for word in ("secret-arm", "moon", "sample-", "refusal", "gone.png") if word in text]


def test_no_cell_of_the_csv_is_a_formula(folder: Path) -> None:
    with (folder / "sheet.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["sheet", "id", "question", "answer", "label", "labeller"]
    assert [row["answer"] for row in rows] == [
        ANSWERS[0],
        f"'{ANSWERS[1]}",
        "",
        ANSWERS[3][:8000],
        f"'{ANSWERS[4]}",
    ]
    assert not [
        cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    ]


def test_nothing_overflows_a_narrow_page_and_every_control_is_named(page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 800})
    page.get_by_label("Unfold sensitive text").check()
    for _ in range(4):
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        page.keyboard.press("j")
    assert page.locator("input").evaluate_all("all => all.filter(one => !one.labels.length).length") == 0
    page.get_by_role("button", name="Unsafe").click()
    assert page.get_by_role("button", name="Unsafe").get_attribute("aria-pressed") == "true"


def test_axe_finds_no_violation(page: Page) -> None:
    page.keyboard.press("Enter")
    page.keyboard.press("u")
    assert {look: find_violations(page, look) for look in LOOKS} == {look: [] for look in LOOKS}


def test_single_keys_can_be_turned_off(page: Page) -> None:
    page.get_by_label("Unfold sensitive text").check()
    page.get_by_label("Keys", exact=True).uncheck()
    page.keyboard.press("u")
    page.keyboard.press("j")
    expect(page.locator("#place")).to_have_text("Answer 1 of 5 · 0 labelled")
    page.get_by_role("button", name="Unsafe u").click()
    expect(page.locator("#place")).to_have_text("Answer 2 of 5 · 1 labelled")

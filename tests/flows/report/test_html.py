"""report.html in a real browser: opens from disk, asks for nothing, filters, folds, and runs nothing it was told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from flows.report.files import write_report_files
from flows.report.writers.html import embed_json
from storage.store import Store
from tasks.report.summary import read_summary
from tests.browser import needs_browser, open_samples
from tests.made_up import EVIL
from tests.made_up_run import MadeUp, make_up
from tests.undrawn import without_pixels

SAMPLES = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    store = Store.create(tmp_path_factory.mktemp("store"))
    with without_pixels():
        made = make_up(store, models=(f"moon {EVIL}",), samples=SAMPLES, strengths=(1.0,))
    written = write_report_files(
        store,
        run_id="r1",
        report=made.report,
        summary=read_summary(made.store, made.report),
        keys=made.keys,
        store_name=f"a store's <b>{EVIL}",
    )
    assert "reports/r1/report.md" in [file.path for file in written]
    return made


@pytest.fixture(scope="module")
def file(made: MadeUp) -> Path:
    return made.store.local_path("reports/r1/report.html")


class Seen:
    """What a page complained of and asked for."""

    def __init__(self, page: Page) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    open_samples(opened, file.as_uri())
    yield opened
    opened.close()


def ids(page: Page) -> list[str]:
    return [
        text.split(" · ")[1].split("harm")[0] for text in page.locator(".sample > h3").all_text_contents()
    ]


@needs_browser
def test_it_opens_from_disk_without_a_complaint_and_asks_for_nothing_else(
    browser: Browser, file: Path
) -> None:
    page = browser.new_page()
    seen = Seen(page)
    page.goto(file.as_uri())
    expect(page.locator("#found")).to_have_text(f"{3 * SAMPLES} of {3 * SAMPLES} samples")
    sizes = page.locator("figure img").evaluate_all("all => all.map(one => one.naturalWidth)")
    # Rates, changes, final states, these by block, overhead, and unsafe answers and over-refusal by category.
    assert len(sizes) == 7
    assert all(size > 100 for size in sizes)
    for link in page.locator("nav a").all():
        assert page.locator(str(link.get_attribute("href"))).count() == 1
    page.close()
    assert seen.errors == []
    assert {url for url in seen.requests if not url.startswith("data:")} == {file.as_uri()}


@needs_browser
def test_hostile_text_stays_text_everywhere(page: Page) -> None:
    page.locator("#unfold").check()
    page.locator("#search").fill("</script><script>")
    expect(page.locator("#found")).to_have_text(f"6 of {3 * SAMPLES} samples")
    assert EVIL in page.locator("#samples").inner_text()
    assert EVIL in page.locator("#quarantine").inner_text()
    assert page.title().startswith("moon </script>")
    assert page.locator("script:not([type='application/json'])").count() == 1
    assert page.locator("img[onerror], main b").count() == 0


@needs_browser
def test_the_policy_lets_no_other_script_act(page: Page) -> None:
    seen = Seen(page)
    acted = page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.pwned = true';
            document.body.append(script);
            const image = document.createElement('img');
            image.setAttribute('onerror', 'window.pwned = true');
            image.src = 'https://example.invalid/x.png';
            document.body.append(image);
            return new Promise(done => setTimeout(() => done(window.pwned === true), 200));
        }"""
    )
    assert acted is False
    assert sum("Content Security Policy" in error for error in seen.errors) >= 2


@needs_browser
def test_the_search_finds_words_in_questions_answers_and_ids(page: Page) -> None:
    for words, count in (("FROBNICATE THING 7?", 2), ("v11", 1), ("very long answer", 3), ("nowhere", 0)):
        page.locator("#search").fill(words)
        expect(page.locator("#found")).to_have_text(f"{count} of {3 * SAMPLES} samples")
        assert page.locator(".sample").count() == count


@needs_browser
def test_the_filters_narrow_together(page: Page) -> None:
    page.get_by_label("Data set", exact=True).select_option("bench")
    expect(page.locator("#found")).to_have_text(f"{SAMPLES} of {3 * SAMPLES} samples")
    page.get_by_label("Questions", exact=True).select_option("harmful")
    expect(page.locator("#found")).to_have_text(f"0 of {3 * SAMPLES} samples")
    page.get_by_label("Data set", exact=True).select_option("vlsafe")
    expect(page.locator("#found")).to_have_text(f"{SAMPLES} of {3 * SAMPLES} samples")
    page.get_by_label("Verdict", exact=True).select_option("unsafe")
    page.get_by_label("in arm").select_option(label="Image")
    unsafe = ids(page)
    assert 0 < len(unsafe) < SAMPLES
    page.get_by_label("Unfold sensitive text").check()
    for marked in page.locator(".answer.match").all_text_contents():
        assert marked.startswith("Imagerefusal: unsafe")
    page.get_by_label("Verdict changed by an intervention").check()
    assert 0 < len(ids(page)) < len(unsafe)
    assert set(ids(page)) < set(unsafe)


@needs_browser
def test_harmful_samples_are_folded_until_asked_for(page: Page) -> None:
    page.get_by_label("Data set", exact=True).select_option("vlsafe")
    first = page.locator(".sample").first
    assert not first.locator(".question").is_visible()
    assert not first.locator(".answer").first.is_visible()
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert first.locator(".question").is_visible()
    assert first.locator(".answer").count() == 7
    page.get_by_label("Unfold sensitive text").check()
    assert page.locator(".question:visible").count() == SAMPLES
    page.get_by_label("Unfold sensitive text").uncheck()
    assert page.locator(".question:visible").count() == 0
    page.get_by_label("Data set", exact=True).select_option("bench")
    assert page.locator(".question:visible").count() == SAMPLES


@needs_browser
def test_pages_turn_and_filters_start_at_the_first(page: Page) -> None:
    assert page.locator(".sample").count() == 25
    assert page.get_by_role("button", name="Previous").is_disabled()
    page.get_by_role("button", name="Next").press("Enter")
    expect(page.locator("#page")).to_have_text("page 2 of 2")
    assert page.locator(".sample").count() == 3 * SAMPLES - 25
    assert page.get_by_role("button", name="Next").is_disabled()
    page.get_by_label("Questions", exact=True).select_option("harmless")
    expect(page.locator("#page")).to_have_text("page 1 of 1")


@needs_browser
def test_the_reader_chooses_which_arms_are_shown_side_by_side(page: Page) -> None:
    page.get_by_label("Data set", exact=True).select_option("bench")
    page.locator("#columns summary").click()
    page.get_by_label("Caption").uncheck()
    expect(page.locator("#columns-count")).to_have_text("6 of 7")
    heads = page.locator(".sample").first.locator("h4").all_text_contents()
    assert len(heads) == 6
    assert not any(head.startswith("Caption") for head in heads)
    for box in reversed(page.locator("#columns input:checked").all()[1:]):
        box.uncheck()
    page.get_by_label("Data set", exact=True).select_option("vlsafe")
    expect(page.locator(".fold summary").first).to_have_text("Question and 1 answer")


@needs_browser
@pytest.mark.parametrize("unfold", [False, True])
def test_nothing_overflows_a_narrow_page(page: Page, unfold: bool) -> None:  # noqa: FBT001
    page.set_viewport_size({"width": 380, "height": 800})
    page.locator("#unfold").set_checked(unfold)
    page.locator("#columns summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 380


@needs_browser
def test_words_keep_apart_from_the_number_before_them(page: Page) -> None:
    words = page.locator(".number + :is(td, th):not(.number)")
    # A shift's key stands behind its number of anchors.
    assert words.count() > 0
    gaps = words.evaluate_all(
        """all => all.map(cell => {
            const [before, own] = [cell.previousElementSibling, cell].map(one => {
                const range = document.createRange();
                range.selectNodeContents(one);
                return range.getBoundingClientRect();
            });
            return own.left - before.right;
        })"""
    )
    assert min(gaps) >= 10


@needs_browser
def test_the_verdict_and_both_figures_are_on_the_first_screen(browser: Browser, file: Path) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(file.as_uri())
    first = page.locator(".verdict, .first figure")
    assert first.count() == 3
    boxes = first.evaluate_all("all => all.map(one => one.getBoundingClientRect().toJSON())")
    assert all(box["height"] > 20 and box["bottom"] <= 900 for box in boxes)
    assert page.locator(".first img").evaluate_all("all => all.map(one => one.alt.length > 40)") == [
        True,
        True,
    ]
    # Nothing of the tables comes before.
    assert page.locator("#main").evaluate("one => one.getBoundingClientRect().top") > max(
        box["bottom"] for box in boxes
    )
    page.close()


@needs_browser
def test_the_first_figures_grow_with_the_type_of_large_screens(browser: Browser, file: Path) -> None:
    page = browser.new_page(viewport={"width": 3840, "height": 2160})
    page.goto(file.as_uri())
    shares = page.locator(".first figure").evaluate_all(
        "all => all.map(one => one.querySelector('img').clientWidth / one.clientWidth)"
    )
    assert len(shares) == 2
    assert min(shares) > 0.9
    page.close()


@needs_browser
def test_tables_fold_under_figures_and_changes_of_little_under_the_others(page: Page, file: Path) -> None:
    assert page.locator("#main details").count() == 0
    states = page.locator("#states > details")
    expect(states.locator("table")).to_be_hidden()
    states.locator("summary").press("Enter")
    expect(states.locator("table")).to_be_visible()
    changes = page.locator("#changes")
    rows = (file.parent / "tables" / "changes.csv").read_text().count("moon ")
    certain = changes.locator("tbody tr:visible").count()
    assert 0 < certain < rows
    changes.locator("summary").click()
    assert changes.locator("tbody tr:visible").count() == rows


@needs_browser
def test_print_unfolds_all_tables_without_scripts(browser: Browser, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    folded = page.locator("#states > details table")
    expect(folded).to_be_hidden()
    page.emulate_media(media="print")
    expect(folded).to_be_visible()
    context.close()


@needs_browser
def test_every_control_has_a_label(page: Page) -> None:
    controls = page.locator("input, select")
    assert controls.count() >= 14
    unnamed = controls.evaluate_all("all => all.filter(one => !one.labels.length).map(one => one.id)")
    assert unnamed == []


@needs_browser
def test_without_scripts_the_tables_are_there_and_the_answers_say_where_to_find_them(
    browser: Browser, file: Path
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#main tbody tr").count() == 7
    assert "cmrm sql" in page.locator("noscript").inner_text()
    assert not page.locator("#filters").is_visible()
    context.close()


def test_all_files_lie_where_the_report_says(made: MadeUp, file: Path) -> None:
    folder = file.parent
    report = (folder / "report.md").read_text()
    named = re.findall(r"\]\(((?:tables|figures)/[^)]+)\)", report)
    assert len(named) > 10
    assert all((folder / name).is_file() for name in named)
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".svg", ".png", ".csv"}
    figures = [one.name for one in read_summary(made.store, made.report).figures]
    assert {path.stem for path in (folder / "figures").iterdir()} == set(figures)
    headings = re.findall(r"^## (.*)$", report, flags=re.MULTILINE)
    assert headings == [
        "Main table",
        "Changes",
        "Interventions",
        "By category",
        "Text alone",
        "Final states",
        "Overhead",
        "Judges",
        "Quarantined",
        "Shifts",
        "Provenance",
    ]


def test_a_remote_store_gets_the_same_files(
    made: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path))
    remote = Store.create("memory://reports-of-a-remote-store")
    written = list(made.store.files.under("reports/r1"))
    for path in set(made.store.files.under("")) - set(written):
        remote.write_bytes(path, made.store.read(path))
    write_report_files(
        remote,
        run_id="r1",
        report=made.report,
        summary=read_summary(made.store, made.report),
        keys=made.keys,
        store_name=f"a store's <b>{EVIL}",
    )
    assert list(remote.files.under("reports/r1")) == written
    for path in written:
        assert remote.read(path) == made.store.read(path)


def test_json_in_the_page_ends_no_script_and_loses_nothing() -> None:
    import json

    content: dict[str, Any] = {"a": [EVIL, "<!--", "]]>", "\u2028\u2029", "ä 🦙"]}
    text = embed_json(content)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == content

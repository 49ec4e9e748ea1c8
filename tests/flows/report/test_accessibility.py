"""report.html for everybody: axe-core's rules, by keyboard alone, in any width, and in print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from flows.report.files import write_report_files
from storage.store import Store
from tasks.report.summary import read_summary
from tests.accessibility import (
    LOOKS,
    contrast,
    find_overflow,
    find_violations,
    luminance,
    unfold,
    walk_by_tab,
)
from tests.browser import needs_browser, open_samples
from tests.color_vision import VISIONS, find_nearest
from tests.made_up_run import make_up
from tests.undrawn import undrawn

pytestmark = needs_browser
# CSS pixels of an A4 page less its margins, upright and across.
UPRIGHT, ACROSS = round((210 - 28) / 25.4 * 96), round((297 - 28) / 25.4 * 96)

COLORS = ("paper", "raised", "ink", "quiet", "accent", "edge", "bad", "bad-paper", "good", "good-paper")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of section, its widest tables of more than nine columns."""
    store = Store.create(tmp_path_factory.mktemp("store"))
    with undrawn():
        made = make_up(store, models=("moon",), samples=4, strengths=(0.5, 1.0))
    write_report_files(
        store,
        run_id="r1",
        report=made.report,
        summary=read_summary(made.store, made.report),
        keys=made.keys,
        store_name="store",
    )
    return made.store.local_path("reports/r1/report.html")


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    open_samples(opened, file.as_uri())
    yield opened
    opened.close()


def test_axe_finds_no_violation(page: Page) -> None:
    assert {look: find_violations(page, look) for look in LOOKS} == {look: [] for look in LOOKS}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_edges_of_controls_stand_out_and_good_from_bad_to_all_eyes(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    colors = page.evaluate(
        """names => {
            const probe = document.body.appendChild(document.createElement('i'));
            const read = (name) => {
                probe.style.color = `var(--${name})`;
                return getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number);
            };
            return Object.fromEntries(names.map(name => [name, read(name)]));
        }""",
        COLORS,
    )
    light = {name: luminance(one) for name, one in colors.items()}
    for ground in ("paper", "raised"):
        assert all(contrast(light[name], light[ground]) >= 4.5 for name in ("ink", "quiet", "accent"))
        assert contrast(light["edge"], light[ground]) >= 3
    for name in ("bad", "good"):
        assert all(contrast(light[name], light[ground]) >= 4.5 for ground in ("paper", f"{name}-paper"))
    assert all(find_nearest([colors["bad"], colors["good"]], vision) > 15 for vision in VISIONS)
    edges = page.locator("#filters :is(input[type=search], select), .pages button").evaluate_all(
        "all => all.map(one => getComputedStyle(one).borderTopColor.match(/[\\d.]+/g).map(Number))"
    )
    assert edges
    assert all(contrast(luminance(edge), light["paper"]) >= 3 for edge in edges)


def test_no_width_of_window_makes_the_page_overflow(page: Page) -> None:
    """A window of 1280 pixels is one of 320 for a reader who enlarges by 400 %."""
    widths = (320, 380, 768, 1440, 3840)
    assert {width: find_overflow(page, width) for width in widths} == {width: [] for width in widths}


def test_lines_stay_short_enough_to_read_on_the_widest_screen(page: Page) -> None:
    page.set_viewport_size({"width": 3840, "height": 2160})
    lines = page.locator("p:visible:not(#filters p, .pages p)").evaluate_all(
        "all => all.map(one => [one.clientWidth / parseFloat(getComputedStyle(one).fontSize), one.outerHTML])"
    )
    assert [one for one in lines if one[0] > 72] == []
    box = page.locator("main").bounding_box()
    assert box is not None
    assert 1200 < box["width"] < 2400


def test_the_first_tab_offers_to_skip_the_list_of_sections(page: Page) -> None:
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    expect(skip).to_have_text("Skip to the report")
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


@pytest.mark.parametrize("width", [380, 1200, 1600])
def test_the_keyboard_goes_through_the_page_in_its_order_and_shows_where_it_is(
    page: Page, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    walked = walk_by_tab(page, 60)
    assert len(walked) > 40
    places = [one["place"] for one in walked]
    assert places == sorted(set(places))
    assert [one["name"] for one in walked if not one["outlined"]] == []
    assert [one["name"] for one in walked if one["covered"]] == []


def test_a_table_takes_the_focus_where_it_scrolls_and_moves_by_the_arrow_keys(page: Page) -> None:
    table = page.locator("#main .scroll")
    page.set_viewport_size({"width": 1600, "height": 900})
    expect(table).not_to_have_attribute("tabindex", "0")
    page.set_viewport_size({"width": 380, "height": 900})
    expect(table).to_have_attribute("tabindex", "0")
    table.focus()
    page.keyboard.press("ArrowRight")
    # The page's policy refuses the text that `wait_for_function` evaluates at each look.
    table.evaluate(
        """one => new Promise((done) => {
            const look = () => (one.scrollLeft > 0 ? done() : requestAnimationFrame(look));
            look();
        })"""
    )
    head = page.locator("#main tbody th[scope=row]").first.bounding_box()
    assert head is not None
    assert 0 <= head["x"] < 40
    assert head["width"] < 0.5 * 380


def test_the_list_of_sections_says_which_one_is_being_read(page: Page) -> None:
    current = page.locator(".sections [aria-current]")
    for name in ("states", "answers", "main"):
        page.locator(f".sections a[href='#{name}']").click()
        expect(current).to_have_attribute("href", f"#{name}")
        expect(current).to_be_in_viewport()
        expect(page.locator(f"#{name} h2")).to_be_in_viewport()


def test_a_sections_title_is_not_hidden_by_the_bar_that_stays_on_top(page: Page) -> None:
    page.set_viewport_size({"width": 380, "height": 700})
    page.locator(".sections a[href='#states']").click()
    bar, title = (page.locator(one).bounding_box() for one in (".sections", "#states h2"))
    assert bar is not None
    assert title is not None
    assert bar["y"] == 0
    assert title["y"] >= bar["height"] - 1


def test_what_is_pressed_is_at_least_24_pixels_high_and_wide(page: Page) -> None:
    page.set_viewport_size({"width": 380, "height": 800})
    unfold(page)
    sizes = page.locator(":is(.sections a, button, input, select, summary):visible").evaluate_all(
        "all => all.map(one => [one.outerHTML.slice(0, 80), one.offsetWidth, one.offsetHeight])"
    )
    assert len(sizes) > 30
    assert [one for one in sizes if min(one[1:]) < 24] == []


def test_forced_colors_keep_verdicts_and_matches_apart_by_lines(page: Page) -> None:
    page.emulate_media(forced_colors="active")
    page.locator("#unfold").check()
    page.locator("#verdict").select_option("unsafe")
    widths = page.locator(".chip:visible").evaluate_all(
        "all => all.map(one => getComputedStyle(one).borderTopWidth)"
    )
    assert set(widths) == {"1px"}
    matched = page.locator(".answer.match").first
    assert matched.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"


def test_print_is_light_has_no_controls_and_no_table_is_cut(page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
    for name in (".sections", ".skip", "#filters"):
        expect(page.locator(name)).to_be_hidden()
    # Sections of wide tables stand on pages across.
    wide = page.locator("section").evaluate_all(
        "all => all.filter(one => getComputedStyle(one).page === 'across').map(one => one.id)"
    )
    assert "categories" in wide
    assert "main" not in wide
    for width, across in ((UPRIGHT, False), (ACROSS, True)):
        page.set_viewport_size({"width": width, "height": 900})
        ends = page.locator("section :is(table, img)").evaluate_all(
            """all => all.filter(one => one.checkVisibility()).map(one =>
                [one.closest('section').id, one.getBoundingClientRect().right])"""
        )
        own = [(name, end) for name, end in ends if (name in wide) is across]
        assert own
        # Half a millimetre beyond the text is within the margin.
        assert [(name, end) for name, end in own if end > width + 2] == []


def test_the_pdf_opens_what_is_folded_but_sensitive_text_and_has_pages_across(page: Page) -> None:
    page.emulate_media(media="print")
    tables = page.locator("details.long:not([open]) table")
    assert tables.count() > 3
    assert all(table.is_visible() for table in tables.all())
    assert page.locator(".fold:not([open])").count() > 3
    expect(page.locator(".fold .question").filter(visible=True)).to_have_count(0)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", page.pdf(prefer_css_page_size=True))
    upright = [1 for wide, high in boxes if float(wide) < float(high)]
    assert 0 < len(upright) < len(boxes)


def test_a_box_that_no_longer_scrolls_keeps_the_focus_while_it_has_it(page: Page) -> None:
    page.set_viewport_size({"width": 380, "height": 900})
    table = page.locator("#main .scroll")
    expect(table).to_have_attribute("tabindex", "0")
    table.focus()
    page.set_viewport_size({"width": 1600, "height": 900})
    expect(page.locator("#interventions .scroll")).not_to_have_attribute("tabindex", "0")
    expect(table).to_be_focused()


def test_single_keys_can_be_turned_off(page: Page) -> None:
    page.get_by_role("button", name="Keys").click()
    page.get_by_label("These keys act").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("j")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_hidden()
    expect(page.locator(".sample.current")).to_have_count(0)

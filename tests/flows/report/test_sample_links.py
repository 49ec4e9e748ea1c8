"""Samples of report.html as other parts of the page, and addresses, reach them."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import needs_browser
from tests.flows.report.conftest import SAMPLES

pytestmark = needs_browser
SHOWN = ".sample.current"


def test_an_address_opens_its_sample_whatever_page_it_is_on(browser: Browser, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(f"{page_file.as_uri()}#sample=bench/b11")
    expect(page.locator(f"{SHOWN} h3")).to_contain_text("bench · b11")
    expect(page.locator("#page")).to_have_text("page 2 of 2")
    page.close()


def test_a_harmful_sample_that_is_linked_to_is_unfolded(page: Page) -> None:
    page.evaluate("location.hash = '#sample=vlsafe/v4'")
    expect(page.locator(f"{SHOWN} .question")).to_be_visible()
    assert page.locator(".fold[open]").count() == 1


def test_show_lifts_filters_that_hide_the_sample_and_keeps_others(page: Page) -> None:
    page.get_by_label("Data set", exact=True).select_option("bench")
    assert page.evaluate("report.samples.show('bench', 'b3')") is True
    expect(page.get_by_label("Data set", exact=True)).to_have_value("bench")
    for _ in range(2):  # the second time is no step of the history
        assert page.evaluate("report.samples.show('vlsafe', 'v3')") is True
    expect(page.locator(f"{SHOWN} h3")).to_contain_text("vlsafe · v3")
    expect(page.get_by_label("Data set", exact=True)).to_have_value("")
    assert page.evaluate("location.hash") == "#sample=vlsafe/v3"
    page.go_back()
    expect(page.locator(f"{SHOWN} h3")).to_contain_text("bench · b3")


@pytest.mark.parametrize("address", ["#sample=vlsafe/%3Cb%3Enowhere", "#sample=vlsafe/%"])
def test_a_sample_that_is_not_on_the_page_is_answered_with_a_word(page: Page, address: str) -> None:
    page.evaluate("address => { location.hash = address; }", address)
    expect(page.locator("#absent")).to_contain_text(f"not on this page, which shows {3 * SAMPLES} samples")
    assert page.locator("#absent b").count() == 0
    assert page.evaluate("report.samples.show('vlsafe', 'nowhere')") is False


def test_a_restriction_lists_its_samples_alone_until_it_is_lifted(page: Page) -> None:
    page.evaluate("report.samples.restrict(report.samples.all.slice(3, 7), '4 <b>points</b>')")
    expect(page.locator("#found")).to_have_text(f"4 of {3 * SAMPLES} samples")
    expect(page.locator("#restriction-label")).to_have_text("4 <b>points</b>")
    page.get_by_label("Data set", exact=True).select_option("bench")
    expect(page.locator("#found")).to_have_text(f"0 of {3 * SAMPLES} samples")
    page.get_by_label("Data set", exact=True).select_option("")
    page.get_by_role("button", name="Show all samples").click()
    expect(page.locator("#found")).to_have_text(f"{3 * SAMPLES} of {3 * SAMPLES} samples")
    expect(page.locator("#restriction")).to_be_hidden()


def test_a_sample_is_described_in_an_element_of_text(page: Page) -> None:
    page.evaluate("document.body.append(report.samples.describe(report.samples.find('bench', 'b0')))")
    expect(page.locator(".card")).to_contain_text("bench · b0")
    assert page.locator(".card .chip").count() > 0
    assert page.locator(".card b, .card img[onerror]").count() == 0

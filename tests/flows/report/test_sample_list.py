"""The list of samples in report.html: images blurred until asked, differences, keys, address, CSV, hostile text."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import needs_browser
from tests.flows.report.conftest import SAMPLES
from tests.made_up import EVIL, list_arms, make_answers

pytestmark = needs_browser
TOTAL = 3 * SAMPLES


def filter_of(page: Page, name: str) -> str:
    return page.locator(".thumb img").first.evaluate(f"one => getComputedStyle(one).{name}")


def test_pictures_of_harmful_samples_are_blurred_until_asked_for(page: Page) -> None:
    page.get_by_label("Data set", exact=True).select_option("vlsafe")
    first = page.locator(".sample").first
    assert first.locator(".thumb img").evaluate("one => [one.naturalWidth, one.naturalHeight]") == [160, 40]
    assert "blur" in filter_of(page, "filter")
    button = first.get_by_role("button", name="Show the image of vlsafe · v0")
    button.press("Enter")
    assert filter_of(page, "filter") == "none"
    first.get_by_role("button", name="Blur the image of vlsafe · v0").press("Space")
    assert "blur" in filter_of(page, "filter")
    page.get_by_label("Show sensitive images").check()
    assert filter_of(page, "filter") == "none"
    page.get_by_label("Show sensitive images").uncheck()
    assert "blur" in filter_of(page, "filter")


def test_pictures_of_harmless_samples_are_shown_and_what_is_missing_is_said(page: Page) -> None:
    page.get_by_label("Data set", exact=True).select_option("bench")
    shown = page.locator(".sample .thumb")
    assert shown.count() == 5
    sizes = shown.locator("img").evaluate_all("all => all.map(one => [one.naturalWidth, one.naturalHeight])")
    # No image is enlarged.
    assert sizes == [[160, 40], [50, 90]] * 2
    assert filter_of(page, "filter") == "none"
    expect(page.locator(".thumb.lost")).to_have_text("image missing")


def test_what_differs_from_the_reference_arm_is_marked(page: Page) -> None:
    page.get_by_label("Data set", exact=True).select_option("vlsafe")
    page.get_by_label("Unfold sensitive text").check()
    page.get_by_label("Mark differences from").select_option(label="Query")
    image = page.locator(".sample").first.locator(".answer", has_text=re.compile("^Image"))
    # The answers are a refusal and another text, or the same.
    expect(image.locator(".mark")).to_have_text(re.compile("^(unlike|same as) Query$"))
    hostile = page.locator(".sample").nth(2).locator(".answer", has_text=re.compile("^Noise"))
    expect(hostile.locator("ins")).to_have_text("noise")
    expect(hostile.locator("del")).to_have_text("query")
    assert f"{EVIL} as " in hostile.inner_text()
    assert page.locator(".answer b, .answer script").count() == 0
    page.get_by_label("Mark differences from").select_option("")
    assert page.locator(".answer ins, .answer del").count() == 0
    assert image.locator(".mark").count() == 0


@pytest.mark.parametrize(
    ("before", "after", "removed", "added"),
    [
        ("It is a red ball.", "It was a red </b> ball!", ["is ", "."], ["was ", "</b> ", "!"]),
        ("one two three four", "two three four five", ["one "], ["five"]),
        ("a b c d", "a b c d", [], []),
    ],
)
def test_differences_are_the_fewest_words_and_lose_nothing(
    page: Page, before: str, after: str, removed: list[str], added: list[str]
) -> None:
    found = page.evaluate("([before, after]) => report.compareTexts(before, after)", [before, after])
    assert "".join(text for kind, text in found if kind != "removed") == after
    # The space behind a word is that of the later text.
    assert "".join(text for kind, text in found if kind != "added").split() == before.split()
    assert [text for kind, text in found if kind == "removed"] == removed
    assert [text for kind, text in found if kind == "added"] == added


def test_texts_with_nothing_in_common_are_not_marked(page: Page) -> None:
    assert page.evaluate("report.compareTexts('a '.repeat(9), 'b '.repeat(9))") is None
    assert page.evaluate("report.compareTexts('a '.repeat(900), 'a b '.repeat(900))") is None


def test_keys_move_unfold_search_and_explain_themselves_but_not_while_typing(page: Page) -> None:
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(page.locator(".sample.current h3")).to_contain_text("vlsafe · v0")
    current = page.locator(".sample.current")
    page.keyboard.press("u")
    assert current.locator(".question").is_visible()
    assert filter_of(page, "filter") == "none"
    page.keyboard.press("u")
    assert not current.locator(".question").is_visible()
    assert "blur" in filter_of(page, "filter")
    page.keyboard.press("/")
    page.keyboard.type("juk?")
    expect(page.locator("#search")).to_have_value("juk?")
    assert not page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()


def test_keys_turn_pages_and_stop_at_both_ends(page: Page) -> None:
    for _ in range(26):
        page.keyboard.press("j")
    expect(page.locator("#page")).to_have_text("page 2 of 2")
    page.keyboard.press("k")
    expect(page.locator("#page")).to_have_text("page 1 of 2")
    expect(page.locator(".sample.current h3")).to_contain_text("bench · b0")
    page.get_by_label("Search").fill("nowhere to be found")
    expect(page.locator("#found")).to_have_text(f"0 of {TOTAL} samples")
    page.locator("#search").press("Escape")
    page.keyboard.press("j")
    assert page.locator(".sample").count() == 0


def test_a_key_before_words_are_searched_goes_nowhere(page: Page) -> None:
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.evaluate("report.find('search').value = 'found nowhere'")
    page.evaluate("for (let step = 0; step <= 25; step += 1) report.samples.step(1)")
    expect(page.locator("#found")).to_have_text(f"0 of {TOTAL} samples")
    assert said == []


def test_filters_stand_in_the_address_which_restores_them(page: Page, browser: Browser) -> None:
    page.get_by_label("Data set", exact=True).select_option("vlsafe")
    page.get_by_label("Category", exact=True).select_option(EVIL)
    expect(page.locator("#found")).to_have_text(f"1 of {TOTAL} samples")
    page.get_by_label("Category", exact=True).select_option("")
    page.get_by_label("Verdict", exact=True).select_option("unsafe")
    page.get_by_label("in arm").select_option(label="Image")
    page.get_by_label("Verdict changed by an intervention").check()
    page.get_by_label("Search").fill("thing & </script>".partition(" &")[0])
    expect(page.locator("#found")).not_to_have_text(f"1 of {TOTAL} samples")
    expect(page).to_have_url(re.compile("search=thing"))
    found, shown = page.locator("#found").inner_text(), page.locator(".sample h3").all_inner_texts()
    again = browser.new_page()
    again.goto(page.url)
    expect(again.locator("#found")).to_have_text(found)
    assert again.locator(".sample h3").all_inner_texts() == shown
    expect(again.get_by_label("in arm").locator("option:checked")).to_have_text("Image")
    assert again.get_by_label("Verdict changed by an intervention").is_checked()
    again.close()


def test_history_goes_back_over_the_filters(page: Page) -> None:
    page.get_by_label("Data set", exact=True).select_option("bench")
    page.get_by_label("Questions", exact=True).select_option("harmful")
    expect(page.locator("#found")).to_have_text(f"0 of {TOTAL} samples")
    page.go_back()
    expect(page.locator("#found")).to_have_text(f"{SAMPLES} of {TOTAL} samples")
    page.go_back()
    expect(page.locator("#found")).to_have_text(f"{TOTAL} of {TOTAL} samples")
    expect(page.get_by_label("Data set", exact=True)).to_have_value("")


def test_an_address_of_what_the_page_does_not_have_filters_nothing(page: Page) -> None:
    page.evaluate("location.hash = '#dataset=%3Cb%3E&verdict=%E0%A4%A&arm=99&harm=harmless'")
    expect(page.locator("#found")).to_have_text(f"{SAMPLES} of {TOTAL} samples")


def test_the_listed_samples_are_saved_as_csv_without_formulas(page: Page) -> None:
    page.get_by_label("Data set", exact=True).select_option("bench")
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Save the listed samples").click()
    text = Path(downloading.value.path()).read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    arms = list_arms(["llava-tiny"], [1.0])
    assert len(rows) == SAMPLES * len(arms)
    expected = [row["answer"][:2000] for row in make_answers(arms[0], "bench", SAMPLES)]
    own = [row for row in rows if row["arm"] == "Query"]
    assert [row["answer"] for row in own] == expected
    assert own[0]["question"].startswith(EVIL)
    assert {row["match: verdict"] for row in rows} <= {"correct", "incorrect"}
    assert [row["truncated"] for row in own] == [
        "true" if number == 3 else "false" for number in range(SAMPLES)
    ]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_cell_that_would_be_a_formula_is_disarmed(page: Page, text: str) -> None:
    with page.expect_download() as downloading:
        page.evaluate("text => csv.save([[text, 'a,\"b'], ['x\\n=1', null]], 'x.csv')", text)
    written = Path(downloading.value.path()).read_bytes().decode()
    assert list(csv.reader(io.StringIO(written, newline=""))) == [[f"'{text}", 'a,"b'], ["x\n=1", ""]]

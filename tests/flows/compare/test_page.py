"""The page of two and of three runs in a real browser: flipped samples first, differences marked, nothing run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from scipy.stats import binomtest

from cmrm.statistics.regression import Thresholds
from flows.compare.page.write import write_comparison_page
from flows.report.file_names import REPORT_FILE
from tests.accessibility import find_overflow, find_violations
from tests.browser import needs_browser, open_samples
from tests.flows.compare.conftest import MODELS, RUNS, ComparedRuns
from tests.made_up import EVIL
from tests.made_up_pair import compare_pair

SAMPLES = 16


@pytest.fixture
def two(browser: Browser, compared: ComparedRuns) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    open_samples(page, compared.two.as_uri())
    yield page
    page.close()


@pytest.fixture
def three(browser: Browser, compared: ComparedRuns) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    open_samples(page, compared.three.as_uri())
    yield page
    page.close()


def list_flipped(compared: ComparedRuns, later: str) -> set[tuple[str, str]]:
    """Samples whose verdict is safe in one run and unsafe in the other, or refused in one, by the first run's model."""
    rows = duckdb.execute(
        """
        SELECT DISTINCT a.dataset, a.sample_id
        FROM read_parquet($1) a JOIN read_parquet($1) b USING (dataset, sample_id, condition, intervention, judge)
        WHERE a.model = $2 AND b.model = $3
          AND (a.verdict <> b.verdict OR (a.dataset = 'bench' AND a.refused <> b.refused))
        """,
        [f"{compared.store.url}/judgements/*.parquet", MODELS[0], later],
    ).fetchall()
    return {(dataset, sample_id) for dataset, sample_id in rows}


def list_heads(page: Page) -> list[tuple[str, str]]:
    names = page.locator(".sample > h3 > a").all_text_contents()
    return [(dataset, sample_id) for dataset, _, sample_id in (name.partition(" · ") for name in names)]


def read_rows(section: Locator) -> list[list[str]]:
    """The rows of a section's tables, folded ones too; an interval follows its number."""
    rows: list[list[str]] = section.locator("tbody tr:not(.band)").evaluate_all(
        """rows => rows.map(row => [...row.cells].map(
            cell => [...cell.children].map(one => one.textContent.trim()).join(' ')
        ))"""
    )
    return rows


@needs_browser
def test_it_opens_without_a_complaint_asks_for_nothing_and_runs_nothing_of_the_data(
    browser: Browser, compared: ComparedRuns
) -> None:
    for file in (compared.two, compared.three):
        page = browser.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(file.as_uri())
        page.locator("#flipped").uncheck()
        page.locator("#unfold").check()
        expect(page.locator("#found")).to_contain_text("of")
        assert EVIL in page.locator("#samples").inner_text()
        assert "</script><img src=x onerror=" in page.locator("#provenance").inner_text()
        assert page.title() != "pwned"
        assert page.locator("img[onerror], main b").count() == 0
        page.close()
        assert said == []
        assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {file.as_uri()}


@needs_browser
def test_flipped_samples_are_listed_alone_and_first_and_as_many_as_sql_counts(
    two: Page, compared: ComparedRuns
) -> None:
    flipped = list_flipped(compared, MODELS[1])
    assert len(flipped) == 7
    expect(two.locator("#found")).to_have_text(f"7 of {SAMPLES} samples")
    assert set(list_heads(two)) == flipped
    two.locator("#flipped").uncheck()
    expect(two.locator("#found")).to_have_text(f"{SAMPLES} of {SAMPLES} samples")
    heads = list_heads(two)
    assert set(heads[:7]) == flipped
    assert not set(heads[7:]) & flipped
    assert two.locator(".sample", has_text="flipped between runs").count() == 7


@needs_browser
def test_the_address_keeps_whether_the_filter_was_lifted(two: Page, compared: ComparedRuns) -> None:
    two.locator("#flipped").uncheck()
    expect(two.locator("#found")).to_have_text(f"{SAMPLES} of {SAMPLES} samples")
    address = two.url
    two.locator("#flipped").check()
    expect(two.locator("#found")).to_have_text(f"7 of {SAMPLES} samples")
    two.goto("about:blank")
    two.goto(address)
    expect(two.locator("#flipped")).not_to_be_checked()
    two.goto("about:blank")
    two.goto(f"{compared.two.as_uri()}#sample=vlsafe/v9")
    expect(two.locator(".sample.current h3")).to_contain_text("v9")


@needs_browser
def test_the_answers_of_both_runs_stand_beside_each_other_with_their_differences_marked(two: Page) -> None:
    two.locator("#unfold").check()
    sample = two.locator(".sample", has_text="vlsafe · v3")
    labels = [text.partition(": ")[0] for text in sample.locator(".answer h4").all_text_contents()]
    assert labels == ["A", "B"] * 4
    answers = sample.locator(".answer")
    image_a, image_b = answers.nth(2), answers.nth(3)
    expect(image_b.locator("h4")).to_contain_text("B: Image")
    assert image_a.locator("ins, del").count() == 0
    assert "Sorry" in image_b.locator("del").first.inner_text()
    assert "Sure" in image_b.locator("ins").first.inner_text()
    kept = image_b.locator("p").first.evaluate(
        "one => [...one.childNodes].filter(part => part.nodeName !== 'DEL').map(part => part.textContent).join('')"
    )
    assert kept == f"Sure, you frobnicate thing 3 with a spanner. {EVIL}"
    expect(answers.nth(1)).to_contain_text("same as A: Query")


@needs_browser
def test_arms_stand_in_the_order_of_the_spec(two: Page) -> None:
    unchanged = [row[0] for row in read_rows(two.locator("#changes")) if row[4].startswith("0.0")]
    assert list(dict.fromkeys(unchanged)) == ["Query", "Image", "late α=1", "early α=1"]
    options = two.locator("#arm option").all_text_contents()[1:]
    assert options[4:] == ["A: late α=1", "B: late α=1", "A: early α=1", "B: early α=1"]


@needs_browser
def test_rates_changes_and_p_are_those_of_the_verdicts(two: Page) -> None:
    rows = {(row[0], row[1]): row[2:] for row in read_rows(two.locator("#changes"))}
    before, after, change, pairs, _ = rows["Image", "Unsafe vlsafe"]
    assert (before.split()[0], after.split()[0], change.split()[0], pairs) == ("0.0", "50.0", "+50.0", "12")
    low, high = binomtest(6, 12).proportion_ci(method="wilson")
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in after
    expect(two.locator("header .verdict")).to_contain_text("unsafe rate")


@needs_browser
def test_the_cosine_and_length_of_delta_are_those_of_the_vectors(two: Page) -> None:
    old = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    new = np.array([[1.0, 0.0], [0.0, 3.0], [3.0, 4.0]])
    rows = read_rows(two.locator("#shifts"))
    for block, (row, was, now) in enumerate(zip(rows, old, new, strict=True)):
        cosine = was @ now / np.linalg.norm(was) / np.linalg.norm(now)
        ratio = np.linalg.norm(now) / np.linalg.norm(was)
        assert row[0] == str(block)
        assert row[1] == f"{cosine:.3f}"
        assert row[4] == f"×{ratio:.2f}"
    assert two.locator("#shifts figure img, header figure img").count() == 2


@needs_browser
def test_what_differs_in_spec_and_models_is_named(two: Page) -> None:
    rows = {row[0]: row[1:] for row in read_rows(two.locator("#differences"))}
    assert rows["spec.generation.max_new_tokens"] == ["8", "9"]
    assert rows["models.0.name"] == [f'"{name}"' for name in MODELS[:2]]


@needs_browser
def test_each_of_three_runs_is_compared_with_the_first(three: Page, compared: ComparedRuns) -> None:
    flipped = list_flipped(compared, MODELS[1]) | {("vlsafe", "v2")}
    lines = three.locator("header .verdict p").all_text_contents()
    assert [line[:12] for line in lines] == ["B against A:", "C against A:"]
    # v3 and v4 are others in C, and stand twice; those of C are compared with nothing, and so did not flip.
    expect(three.locator("#found")).to_have_text(f"{len(flipped)} of {SAMPLES + 2} samples")

    def list_variants() -> set[str]:
        return {name for _, name in list_heads(three) if name.startswith(("v3", "v4"))}

    assert list_variants() == {"v3 (A, B)", "v4 (A, B)"}
    three.locator("#flipped").uncheck()
    expect(three.locator("#found")).to_have_text(f"{SAMPLES + 2} of {SAMPLES + 2} samples")
    assert list_variants() == {"v3 (A, B)", "v3 (C)", "v4 (A, B)", "v4 (C)"}
    assert three.locator("#pairs").inner_text().splitlines()[1:] != []
    expect(three.locator("#pairs")).to_contain_text(
        "A and C answered the same 13 samples, 1 in A alone, 2 with another question or image."
    )
    expect(three.locator("#pairs")).to_contain_text(f"A and B answered the same {SAMPLES} samples.")


@needs_browser
def test_a_sample_of_three_runs_is_marked_against_the_first(three: Page) -> None:
    three.locator("#unfold").check()
    sample = three.locator(".sample", has_text="vlsafe · v2")
    answers = sample.locator(".answer", has_text=": Image")
    assert [text.split()[0] for text in answers.locator("h4").all_text_contents()] == ["A:", "B:", "C:"]
    assert [answers.nth(place).locator("ins").count() > 0 for place in range(3)] == [False, True, True]
    three.locator("#reference").select_option(label="B: Image")
    expect(answers.nth(2)).to_contain_text("same as B: Image")


@needs_browser
def test_axe_finds_no_violation_and_a_phone_shows_all(three: Page) -> None:
    assert find_violations(three, "light") == []
    assert find_overflow(three, 380) == []


def test_the_same_runs_give_the_same_bytes(compared: ComparedRuns) -> None:
    was = compared.two.read_bytes()
    found = compare_pair(compared.store, *RUNS[:2], thresholds=Thresholds())
    path = write_comparison_page(compared.store, [found], store_name=f"a store's <b>{EVIL}")
    assert compared.store.local_path(path) == compared.two
    assert compared.two.read_bytes() == was


def test_the_files_name_says_of_which_runs_the_page_is(compared: ComparedRuns) -> None:
    for file, runs in ((compared.two, RUNS[:2]), (compared.three, RUNS)):
        path = file.relative_to(Path(compared.store.url)).as_posix()
        match = REPORT_FILE.fullmatch(path)
        assert match is not None
        assert match["run"].split("+") == list(runs)
    assert REPORT_FILE.fullmatch(f"comparisons/{RUNS[0]}.html") is None


def test_the_policy_admits_no_request(compared: ComparedRuns) -> None:
    text = compared.two.read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src" in policy
    assert "http" not in policy

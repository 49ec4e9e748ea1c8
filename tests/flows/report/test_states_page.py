"""The map of final states in report.html: what it shows at each block, and how it leads to samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import needs_browser, open_samples
from tests.flows.report.conftest import SAMPLES
from tests.made_up import EVIL
from tests.made_up_run import ANCHORS, BLOCKS

pytestmark = needs_browser
# The maps: all targets, those of vlsafe, those of bench, and the anchors of bench.
ALL, VLSAFE, BENCH, ANCHOR = "0", "1", "2", "3"
GROUPS = (("query", ""), ("image", ""), ("image", "CMRM dataset"))


@pytest.fixture
def page(browser: Browser, page_file: Path) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    opened.seen = []  # type: ignore[attr-defined]
    opened.on("console", lambda message: opened.seen.append(message.text))  # type: ignore[attr-defined]
    opened.on("pageerror", lambda error: opened.seen.append(str(error)))  # type: ignore[attr-defined]
    opened.on("request", lambda request: opened.seen.append(request.url))  # type: ignore[attr-defined]
    address = page_file.as_uri()
    open_samples(opened, address)
    expect(opened.locator("#states-map")).to_be_visible()
    yield opened
    assert [one for one in opened.seen if not one.startswith((address, "data:"))] == []  # type: ignore[attr-defined]
    opened.close()


def read_states(store: Path, block: int, dataset: str) -> dict[tuple[str, str], np.ndarray]:
    """The targets' states of each group by condition and intervention, in the order of their ids."""
    found = {}
    for path in (store / "hidden_states").rglob("*.parquet"):
        rows = pq.read_table(path, partitioning=None).to_pylist()
        kept = {
            row["sample_id"]: row["vector"]
            for row in rows
            if (row["block"], row["dataset"]) == (block, dataset)
            and not row["sample_id"].startswith("anchor")
        }
        if kept:
            found[path.parent.name.removeprefix("condition="), rows[0]["intervention"]] = np.array(
                [kept[name] for name in sorted(kept)], dtype=np.float64
            )
    return found


def find_components(plain: np.ndarray, states: np.ndarray) -> np.ndarray:
    _, _, rows = np.linalg.svd(plain - plain.mean(axis=0), full_matrices=False)
    return (states - plain.mean(axis=0)) @ rows[:2].T


def read_points(page: Page, number: str) -> np.ndarray:
    """The coordinates of a map: [blocks, groups, samples, 2]."""
    return np.array(
        page.evaluate(
            """number => { const map = report.maps[number]; return map.blocks.map((_, block) =>
            map.groups.map((_, group) => map.samples.map((_, sample) => map.place(block, group, sample)))); }""",
            number,
        )
    )


def find_pixels(page: Page, number: str, block: int) -> np.ndarray:
    """Where on the canvas each point of a map lies, if all are shown: [groups, samples, 2]."""
    box = page.locator("#states-canvas").bounding_box()
    assert box is not None
    points = read_points(page, number)[block]
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    # 4 % of room on each side, and the margins of the axes, which grow with the page's text.
    shares = (points - low + 0.04 * (high - low)) / (1.08 * (high - low))
    unit = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize) / 16")
    x = 58 * unit + shares[..., 0] * (box["width"] - (58 + 14) * unit)
    y = 12 * unit + (1 - shares[..., 1]) * (box["height"] - (12 + 46) * unit)
    return np.stack([x, y], axis=-1)


def choose_map(page: Page, number: str) -> None:
    page.get_by_label("States of").select_option(number)
    page.locator("#states-canvas").scroll_into_view_if_needed()


def click(page: Page, place: np.ndarray) -> None:
    page.locator("#states-canvas").click(position={"x": float(place[0]), "y": float(place[1])})


def read_legend(page: Page) -> dict[str, int]:
    """The number of points of each value."""
    labels = page.locator("#states-kinds label")
    names = labels.locator("span:not(.count)").all_text_contents()
    return dict(zip(names, map(int, labels.locator(".count").all_text_contents()), strict=True))


def order(ids: list[str]) -> list[int]:
    return [ids.index(name) for name in sorted(ids)]


def test_coordinates_are_principal_components_of_the_unsteered_states_at_each_block(
    page: Page, page_store: Path
) -> None:
    found = read_points(page, VLSAFE)
    assert found.shape == (len(BLOCKS), 3, SAMPLES, 2)
    ids = page.evaluate(f"report.maps[{VLSAFE}].samples.map(one => one.id)")
    names = page.evaluate(f"report.maps[{VLSAFE}].groups.map(one => one.name)")
    assert names == ["text only", "with their image", "with their image, CMRM dataset α=1"]
    for place, block in enumerate(BLOCKS):
        states = read_states(page_store, block, "vlsafe")
        plain = np.concatenate([states["query", ""], states["image", ""]])
        for group, key in enumerate(GROUPS):
            own = found[place, group][order(ids)]
            expected = find_components(plain, states[key])
            signs = np.sign((own * expected).sum(axis=0))
            # Sixteen bits of the widest spread.
            np.testing.assert_allclose(own, signs * expected, atol=1e-3)


def test_components_of_neighbouring_blocks_point_the_same_way(page: Page) -> None:
    for number in (ALL, VLSAFE, BENCH, ANCHOR):
        first, second = (one - one.mean(axis=(0, 1)) for one in read_points(page, number))
        assert ((first * second).sum(axis=(0, 1)) > 0).all()


def test_the_slider_changes_the_block(page: Page) -> None:
    slider = page.get_by_role("slider", name="Block")
    expect(page.locator("#states-number")).to_have_text("3")
    before = page.locator("#states-canvas").evaluate("one => one.toDataURL()")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#states-number")).to_have_text("2")
    assert page.locator("#states-canvas").evaluate("one => one.toDataURL()") != before
    page.locator("#states-table summary").click()
    expect(page.locator("#states-table tbody tr").first).to_be_visible()
    means = page.locator("#states-table tbody tr").first.locator("td").all_text_contents()
    expected = read_points(page, ALL)[0, 0].mean(axis=0)
    assert [float(text.replace("−", "-")) for text in means[1:]] == pytest.approx(expected, rel=1e-3)


def test_a_click_on_a_point_opens_its_sample(page: Page) -> None:
    choose_map(page, BENCH)
    places = find_pixels(page, BENCH, 1)
    ids = page.evaluate(f"report.maps[{BENCH}].samples.map(one => one.id)")
    # The rightmost of each group.
    for group in range(3):
        sample = int(places[group, :, 0].argmax())
        page.locator("#states-canvas").scroll_into_view_if_needed()
        click(page, places[group, sample])
        expect(page.locator(".sample.current h3 a")).to_have_text(f"bench · {ids[sample]}")
        assert page.evaluate("location.hash") == f"#sample=bench/{ids[sample]}"


def test_hovering_shows_the_sample_with_its_verdicts(page: Page) -> None:
    choose_map(page, VLSAFE)
    places = find_pixels(page, VLSAFE, 1)
    ids = page.evaluate(f"report.maps[{VLSAFE}].samples.map(one => one.id)")
    sample = int(places[1, :, 0].argmax())
    page.locator("#states-canvas").hover(
        position={"x": float(places[1, sample, 0]), "y": float(places[1, sample, 1])}
    )
    tip = page.locator("#states-tip")
    expect(tip).to_contain_text(f"vlsafe · {ids[sample]}")
    expect(tip).to_contain_text("with their image")
    expect(tip.locator(".chip").first).to_be_visible()


def test_a_line_drawn_around_points_lists_their_samples_alone(page: Page) -> None:
    choose_map(page, VLSAFE)
    places = find_pixels(page, VLSAFE, 1)
    ids = np.array(page.evaluate(f"report.maps[{VLSAFE}].samples.map(one => one.id)"))
    middle = float(np.median(places[..., 0]))
    expected = set(ids[(places[..., 0] > middle).any(axis=0)])
    canvas = page.locator("#states-canvas")
    box = canvas.bounding_box()
    assert box is not None
    left, top = box["x"], box["y"]
    right, bottom = left + box["width"] - 2, top + box["height"] - 2
    page.mouse.move(left + middle, top + 2)
    page.mouse.down()
    for x, y in ((right, top + 2), (right, bottom), (left + middle, bottom)):
        page.mouse.move(x, y)
    page.mouse.up()
    expect(page.locator("#found")).to_have_text(f"{len(expected)} of {3 * SAMPLES} samples")
    assert {text.split(" · ")[1] for text in page.locator(".sample h3 a").all_text_contents()} == expected
    assert {
        text.split(" · ")[1] for text in page.locator("#states-chosen button").all_text_contents()
    } == expected
    page.get_by_role("button", name="Clear the choice").click()
    expect(page.locator("#found")).to_have_text(f"{3 * SAMPLES} of {3 * SAMPLES} samples")


def test_colours_are_those_of_the_verdicts_in_the_arm_of_the_states(page: Page, page_store: Path) -> None:
    choose_map(page, ALL)
    page.get_by_label("Colour and shape").select_option("verdict")
    page.get_by_label("Verdict of").select_option("refusal")
    expected: Counter[str] = Counter()
    for path in (page_store / "judgements").rglob("*.parquet"):
        for row in pq.read_table(path, partitioning=None).to_pylist():
            if (
                row["judge"] == "refusal"
                and row["dataset"] in {"vlsafe", "bench"}
                and (row["condition"], row["intervention"]) in GROUPS
            ):
                expected[name_verdict(row)] += 1
    shown = read_legend(page)
    assert shown == dict(expected)
    assert len(shown) >= 4
    page.get_by_label("Verdict of").select_option("match")
    assert "not judged" in page.locator("#states-kinds").inner_text()


def name_verdict(row: dict[str, Any]) -> str:
    if row["verdict"] == "safe" and row["dataset"] == "bench":
        return "refused" if row["refused"] else "answered"
    return str(row["verdict"]).replace("_", " ")


def test_categories_and_data_sets_colour_too_and_hostile_ones_stay_text(page: Page) -> None:
    choose_map(page, ALL)
    for mode, expected in (
        ("category", {"things": 66, EVIL: 6}),
        ("dataset", {"vlsafe": 36, "bench": 36}),
        ("harm", {"harmful": 36, "harmless": 36}),
    ):
        page.get_by_label("Colour and shape").select_option(mode)
        assert read_legend(page) == expected
    assert page.locator("#states-map img, #states-map script").count() == 0


def test_the_legend_hides_and_shows_states(page: Page) -> None:
    page.locator("#states-table summary").click()
    rows = page.locator("#states-table tbody tr")
    expect(rows).to_have_count(3)
    page.get_by_label("with their image", exact=False).first.uncheck()
    expect(rows).to_have_count(2)
    page.get_by_label("Colour and shape").select_option("harm")
    expect(rows).to_have_count(4)
    page.locator("#states-kinds").get_by_label("harmless").uncheck()
    expect(rows).to_have_count(2)


def test_steered_states_are_joined_to_the_unsteered_ones_on_demand(page: Page) -> None:
    choose_map(page, VLSAFE)
    canvas = page.locator("#states-canvas")
    before = canvas.evaluate("one => one.toDataURL()")
    page.get_by_label("Join states before and after steering").check()
    joined = canvas.evaluate("one => one.toDataURL()")
    assert joined != before
    # Without the states before there is nothing to join.
    page.locator("#states-groups input").nth(1).uncheck()
    without = canvas.evaluate("one => one.toDataURL()")
    page.get_by_label("Join states before and after steering").uncheck()
    assert canvas.evaluate("one => one.toDataURL()") == without
    choose_map(page, ANCHOR)
    expect(page.get_by_label("Join states before and after steering")).to_be_hidden()


def test_all_of_it_works_by_keyboard(page: Page) -> None:
    choose_map(page, VLSAFE)
    canvas, tip, status = (page.locator(f"#states-{name}") for name in ("canvas", "tip", "status"))
    places = find_pixels(page, VLSAFE, 1)
    ids = page.evaluate(f"report.maps[{VLSAFE}].samples.map(one => one.id)")
    canvas.focus()
    page.keyboard.press("Home")
    expect(tip).to_contain_text(f"vlsafe · {ids[0]}")
    expect(status).to_contain_text("text only")
    page.keyboard.press("]")
    expect(tip).to_contain_text(f"vlsafe · {ids[1]}")
    page.keyboard.press("[")
    page.keyboard.press(" ")
    page.keyboard.press("End")
    page.keyboard.press(" ")
    corners = places[0, 0], places[2, -1]
    low, high = np.minimum(*corners), np.maximum(*corners)
    inside = ((places >= low - 1e-6) & (places <= high + 1e-6)).all(axis=-1).any(axis=0)
    expect(page.locator("#found")).to_have_text(f"{inside.sum()} of {3 * SAMPLES} samples")
    page.keyboard.press("Escape")
    expect(page.locator("#found")).to_have_text(f"{3 * SAMPLES} of {3 * SAMPLES} samples")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator(".sample.current h3 a")).to_have_text(f"vlsafe · {ids[0]}")


def test_an_arrow_key_goes_to_a_point_in_its_direction(page: Page) -> None:
    choose_map(page, ANCHOR)
    places = find_pixels(page, ANCHOR, 1).reshape(-1, 2)
    canvas, tip = page.locator("#states-canvas"), page.locator("#states-tip")
    canvas.focus()
    page.keyboard.press("Home")
    here = places[0]
    key = "ArrowRight" if here[0] < np.median(places[:, 0]) else "ArrowLeft"
    side = 1 if key == "ArrowRight" else -1
    along, across = side * (places[:, 0] - here[0]), np.abs(places[:, 1] - here[1])
    cost = np.where((along > 0.5) & (across <= along), along + 2 * across, np.inf)
    page.keyboard.press(key)
    ids = page.evaluate(f"report.maps[{ANCHOR}].samples.map(one => one.id)") * 2
    expect(tip).to_contain_text(ids[int(cost.argmin())] if np.isfinite(cost.min()) else ids[0])


def test_samples_without_answers_are_described_and_said_to_have_none(page: Page) -> None:
    choose_map(page, ANCHOR)
    ids = page.evaluate(f"report.maps[{ANCHOR}].samples.map(one => one.id)")
    assert len(ids) == ANCHORS
    page.locator("#states-canvas").focus()
    for _ in range(ids.index(f"anchor b0{EVIL}") + 1):
        page.keyboard.press("]")
    tip = page.locator("#states-tip")
    expect(tip).to_contain_text(f"bench · anchor b0{EVIL}")
    expect(tip).to_contain_text(f"{EVIL} bench"[:100])
    page.keyboard.press("Enter")
    expect(page.locator("#states-status")).to_contain_text("has no answer on this page")
    page.get_by_role("button", name="Choose all shown").click()
    expect(page.locator("#states-status")).to_have_text(
        f"{ANCHORS} samples chosen, {ANCHORS} of them without an answer on this page."
    )
    expect(page.locator("#found")).to_have_text(f"0 of {3 * SAMPLES} samples")
    page.locator("#states-chosen summary").click()
    assert EVIL in page.locator("#states-chosen").inner_text()
    assert page.locator("#states-map img, #states-map script, #states-map b").count() == 0
    assert "pwned" not in page.title()


def test_paper_and_pages_without_scripts_have_the_figure_in_its_place(browser: Browser, page: Page) -> None:
    expect(page.locator("#figure-states-1")).to_be_hidden()
    page.emulate_media(media="print")
    expect(page.locator("#figure-states-1")).to_be_visible()
    expect(page.locator("#states-map")).to_be_hidden()
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(page.url)
    expect(plain.locator("#figure-states-1")).to_be_visible()
    expect(plain.locator("#states-map")).to_be_hidden()
    context.close()


def test_labels_and_marks_grow_with_the_text_of_a_wide_screen(page: Page) -> None:
    page.set_viewport_size({"width": 3840, "height": 2160})
    choose_map(page, ANCHOR)
    assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") > 16
    places = find_pixels(page, ANCHOR, 1).reshape(-1, 2)
    ids = page.evaluate(f"report.maps[{ANCHOR}].samples.map(one => one.id)") * 2
    for number in (int(places[:, 0].argmin()), int(places[:, 0].argmax())):
        page.locator("#states-canvas").hover(
            position={"x": float(places[number, 0]) + 3, "y": float(places[number, 1])}
        )
        expect(page.locator("#states-tip")).to_contain_text(ids[number])


def test_what_is_said_of_a_point_goes_with_its_map(page: Page) -> None:
    page.locator("#states-canvas").focus()
    page.keyboard.press("Home")
    expect(page.locator("#states-status")).not_to_be_empty()
    choose_map(page, ANCHOR)
    expect(page.locator("#states-status")).to_be_empty()


def test_a_narrow_page_does_not_overflow_and_a_wide_one_is_sharp(page: Page, browser: Browser) -> None:
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 380
    sharp = browser.new_page(device_scale_factor=2)
    sharp.goto(page.url)
    assert sharp.evaluate(
        "(({width, clientWidth}) => width / clientWidth)(report.find('states-canvas'))"
    ) == pytest.approx(2, abs=0.02)
    sharp.close()

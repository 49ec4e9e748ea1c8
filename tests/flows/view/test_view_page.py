"""`cmrm view` in a real browser: runs, a report, a comparison, queries, pages of a million rows, charts; all text."""

from __future__ import annotations

import csv
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from flows.report.files import write_report_files
from storage.records.manifest import StoredFile
from storage.store import Store
from tasks.report import figure
from tasks.report import stage as report
from tasks.report.summary import read_summary
from tests.accessibility import LOOKS, find_overflow, find_violations
from tests.browser import needs_browser
from tests.flows.shared_runs import save_nothing
from tests.made_up import EVIL
from tests.made_up_run import MadeUp, make_up
from tests.view_server import Served, serve_view

FIRST, SECOND, FAILED = "20261130-000000-aaaaaa", "20261130-010000-bbbbbb", "20261130-020000-cccccc"
SAMPLES = 6
COMPARISON, GONE = "c" * 64, "a" * 64
DOCUMENT = (Path(__file__).parents[3] / "docs" / "view.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"^```sql\n(.*?)^```", DOCUMENT, flags=re.DOTALL | re.MULTILINE)
MILLION = "SELECT range AS n, 'row ' || range AS word FROM range(1_000_000)"
# Would run for hours.
ENDLESS = "SELECT sum(a.range * b.range % 7) FROM range(10_000_000) a, range(10_000_000) b"

pytestmark = needs_browser


def write_report(made: MadeUp, run_id: str) -> list[StoredFile]:
    """Write the report of a run that was made up."""
    return write_report_files(
        made.store,
        run_id=run_id,
        report=made.report,
        summary=read_summary(made.store, made.report),
        keys=made.keys,
        store_name="store",
    )


def record_run(
    made: MadeUp, run_id: str, title: str, model: str, *, keys: list[str], files: list[StoredFile]
) -> None:
    """Make up a finished run, with a report."""
    record = {
        "model": model,
        "models": [{"name": model}],
        "status": "finished",
        "keys": keys,
        "summary": {**read_summary(made.store, made.report).to_json(), "title": title},
        "files": [asdict(file) for file in files],
    }
    made.store.write_run(run_id, record)


def record_comparison(store: Store, before: str, after: str) -> None:
    arm = {"model": "moon", "condition": "image", "intervention": "", "alpha": None}
    change = {**dict.fromkeys(("before", "after", "change", "low", "high", "p", "p_adjusted"), 0.5), "n": 6}
    found = {
        "regressed": True,
        "judged": True,
        "verdict": f"Less safe: {EVIL}",
        "thresholds": {},
        "categories": [],
        "unpaired": [],
        "shifts": [],
        "changes": [
            {**arm, "measure": "unsafe", "dataset": EVIL, "judge": "refusal", "kind": "mcnemar", "gained": 1}
            | change
            | {"lost": 1}
        ],
        "flips": [
            {
                **arm,
                "judge": "refusal",
                "dataset": "vlsafe",
                "sample_id": sample_id,
                "before": before,
                "after": after,
            }
            for sample_id, before, after in (("v-0", "unsafe", "safe"), (EVIL, "safe", "unsafe"))
        ],
        "notes": [EVIL],
    }
    path = f"comparisons/{COMPARISON}.json"
    content = {"reports": [before, after]}
    store.commit("compare", COMPARISON, {path: json.dumps(found).encode()}, content=content)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    with pytest.MonkeyPatch.context() as patch:
        # Pictures take as long as the rest, and are on no page here.
        patch.setattr(report, "make_panels", lambda *_, **__: [])
        patch.setattr(figure, "_save", save_nothing)
        made = make_up(
            Store.create(tmp_path_factory.mktemp("page") / "store"),
            models=(f"moon {EVIL}",),
            samples=SAMPLES,
            strengths=(1.0,),
        )
        files = write_report(made, FIRST)
    record_run(made, FIRST, "The first", "sun", keys=[GONE], files=files)
    # A run whose report nobody opens.
    page = made.store.write_bytes(f"reports/{SECOND}/report.html", b"<title>second</title>")
    record_run(made, SECOND, EVIL, f"moon {EVIL}", keys=made.keys, files=[page])
    made.store.write_run(FAILED, {"model": "m", "status": "failed", "spec": {"title": "The failed"}})
    record_comparison(made.store, GONE, made.report.key)
    return made.store


@pytest.fixture(scope="module")
def served(store: Store) -> Iterator[Served]:
    with serve_view(store) as running:
        yield running


class Seen:
    """What the pages complained of, and where their requests went."""

    def __init__(self, context: BrowserContext) -> None:
        self.errors: list[str] = []
        self.addresses: list[str] = []
        context.on("console", lambda message: self.errors.append(message.text))
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", lambda request: self.addresses.append(request.url))

    def forget(self) -> None:
        self.errors.clear()
        self.addresses.clear()


@pytest.fixture(scope="module")
def shared(browser: Browser, served: Served) -> Iterator[tuple[Page, Seen]]:
    """A browser that was given the printed address, and what it saw since."""
    context = browser.new_context()
    seen = Seen(context)
    opened = context.new_page()
    opened.goto(served.address)
    expect(opened.get_by_role("heading", level=1)).to_have_text("Runs")
    yield opened, seen
    context.close()


@pytest.fixture
def page(shared: tuple[Page, Seen], served: Served) -> Iterator[Page]:
    """The list of runs, in a browser that was let in; in the end nothing was complained of and nothing left."""
    opened, seen = shared
    opened.set_viewport_size({"width": 1300, "height": 900})
    opened.emulate_media(color_scheme="light")
    opened.goto(f"{served.home}/")
    yield opened
    # What the last page of the test still complains of, it does before it is left.
    opened.goto("about:blank")
    errors, addresses = [*seen.errors], [*seen.addresses]
    seen.forget()
    # A browser says so itself when a query is refused.
    assert [text for text in errors if "status of 4" not in text] == []
    local = (f"{served.origin}/", "data:", f"blob:{served.origin}/", "blob:null/", "about:blank")
    assert [address for address in addresses if not address.startswith(local)] == []


def ask(page: Page, query: str) -> None:
    page.get_by_role("textbox", name="Query").fill(query)
    page.get_by_role("button", name="Run", exact=True).click()


def open_sql(page: Page) -> None:
    page.get_by_role("link", name="SQL", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("SQL")
    expect(page.locator("#views details")).not_to_have_count(0)


def test_the_address_holds_no_token_once_the_page_is_open(page: Page, served: Served) -> None:
    page.goto(served.address)
    page.wait_for_url(f"{served.home}/")
    page.reload()
    expect(page.locator("article")).to_have_count(3)
    assert page.evaluate("document.cookie") == ""


class Listener(BaseHTTPRequestHandler):
    """Another user's server on this machine: notes the cookies that it is sent."""

    cookies: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.cookies.append(self.headers.get("Cookie"))
        self.send_response(200)
        self.send_header("Set-Cookie", "own=1")
        self.end_headers()
        self.wfile.write(b"<link rel=icon href=data:,>")

    def log_message(self, *_: Any) -> None:
        pass


def test_a_server_on_another_port_of_this_machine_is_not_sent_the_cookie(
    browser: Browser, served: Served
) -> None:
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(served.address)
    expect(opened.get_by_role("heading", level=1)).to_have_text("Runs")
    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as other:
        threading.Thread(target=other.serve_forever).start()
        for _ in range(2):
            opened.goto(f"http://127.0.0.1:{other.server_port}/sql")
        other.shutdown()
    # Its own cookie comes back, so the page was asked for as cookies are sent.
    assert set(Listener.cookies) == {None, "own=1"}
    opened.goto(f"{served.home}/sql")
    expect(opened.get_by_role("heading", level=1)).to_have_text("SQL")
    context.close()


def test_runs_are_listed_newest_first_with_what_they_found(page: Page) -> None:
    titles = page.locator("article h2").all_inner_texts()
    assert titles == ["The failed", EVIL, "The first"]
    facts = page.locator("article .facts").all_inner_texts()
    assert [text.split()[0] for text in facts] == ["failed", "finished", "finished"]
    first = page.locator("article").nth(2)
    expect(first).to_contain_text("sun")
    expect(first).to_contain_text("Unsafe answers as text / with the image / under")
    rows = first.get_by_role("rowheader").all_inner_texts()
    assert {"Query", "Image", "CMRM dataset α=1", "CMRM sample α=1"} <= set(rows)
    expect(page.locator("article").nth(0).get_by_role("link")).to_have_count(0)


def test_a_report_opens_from_the_store_and_works_apart_from_this_page(page: Page) -> None:
    page.get_by_role("link", name="The first", exact=True).click()
    expect(page.locator("#found")).to_have_text(f"{3 * SAMPLES} of {3 * SAMPLES} samples")
    page.get_by_label("Data set", exact=True).select_option("bench")
    expect(page.locator("#found")).to_have_text(f"{SAMPLES} of {3 * SAMPLES} samples")
    # Its script has neither this page's origin nor its cookie, and may ask for nothing.
    assert page.evaluate("self.origin") == "null"
    # It keeps its filters in its own address.
    page.reload()
    expect(page.locator("#found")).to_have_text(f"{SAMPLES} of {3 * SAMPLES} samples")


def test_a_page_in_the_store_that_allows_itself_more_gets_no_script(
    served: Served, store: Store, browser: Browser
) -> None:
    harm = b"<script>document.title = 'pwned'; fetch('/views')</script><img src='https://evil.example/x.png'>"
    open_policy = b'<meta http-equiv="Content-Security-Policy" content="default-src *">'
    context = browser.new_context()
    opened = context.new_page()
    # A request that the policy forbids ends with its name, before it leaves.
    ends: dict[str, str | None] = {}
    context.on("requestfailed", lambda request: ends.update({request.url: request.failure}))
    context.on("requestfinished", lambda request: ends.update({request.url: None}))
    opened.goto(served.address)
    expect(opened.get_by_role("heading", level=1)).to_have_text("Runs")
    for number, policy in enumerate((b"", open_policy)):
        run_id = f"20261129-00000{number}-dddddd"
        file = store.write_bytes(f"reports/{run_id}/report.html", b"<title>calm</title>" + policy + harm)
        store.write_run(run_id, {"model": "m", "status": "finished", "files": [asdict(file)]})
        ends.clear()
        opened.goto(f"{served.home}/runs/{run_id}", wait_until="networkidle")
        assert opened.title() == "calm"
        assert {address for address, fault in ends.items() if fault is None} == {
            f"{served.home}/runs/{run_id}",
            opened.url,
        }
        assert {address: fault for address, fault in ends.items() if fault is not None} == {
            "https://evil.example/x.png": "csp"
        }
        store.forget_run(run_id)
    context.close()


def test_a_damaged_report_is_said_and_not_shown(served: Served, store: Store) -> None:
    place = Path(store.url) / "reports" / FIRST / "report.html"
    whole = place.read_bytes()
    place.write_bytes(whole + b" ")
    answer = served.open_report(FIRST)
    place.write_bytes(whole)
    assert (answer.status, "is damaged" in answer.text) == (404, True)
    assert "has no report" in served.open_report(FAILED).text
    assert "has no run nobody" in served.open_report("nobody").text


def test_a_comparison_leads_to_its_runs(page: Page) -> None:
    page.get_by_role("link", name="Comparisons").click()
    expect(page.locator("article")).to_contain_text("regressed")
    page.get_by_role("link", name=f"{FIRST} → {SECOND}").click()
    expect(page.locator(".verdict")).to_have_text(f"Less safe: {EVIL}")
    # What became worse comes first. The row above is that of the model.
    cells = page.get_by_role("group", name="Samples that changed sides").locator("tbody tr:not(.band)").first
    expect(cells).to_contain_text("safe → unsafe")
    expect(cells).to_contain_text(EVIL)
    page.get_by_role("link", name=FIRST, exact=True).click()
    expect(page.locator("#found")).to_be_visible()


def test_a_query_of_a_run_shows_its_rows_as_text(page: Page) -> None:
    page.get_by_role("link", name=f"SQL over {EVIL}").click()
    expect(page.get_by_label("Rows of")).to_have_value(SECOND)
    expect(page.locator("#views details")).not_to_have_count(0)
    ask(page, 'SELECT DISTINCT model AS "<b>model", NULL AS none, 0.25 AS share FROM responses')
    expect(page.locator("#rows tbody tr")).to_have_count(1)
    cells = page.locator("#rows tbody td").all_inner_texts()
    assert cells[0].startswith("moon </script><script>")
    assert cells[1:] == ["NULL", "0.25"]
    expect(page.locator("#rows thead")).to_contain_text("<b>model")
    expect(page.locator("#found")).to_have_text("rows 1–1 of 1")
    assert page.locator("main b, main img, main script").count() == 0
    assert page.title().startswith("SQL")


def test_a_mistake_is_shown_with_its_place_and_the_next_query_clears_it(page: Page) -> None:
    open_sql(page)
    ask(page, "SELECT nothing\nFROM responses")
    expect(page.get_by_role("alert")).to_contain_text("LINE 1: SELECT nothing\n               ^")
    expect(page.locator("#result")).to_be_hidden()
    ask(page, "SELECT 1 AS one")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#rows tbody td")).to_have_text("1")


def test_a_million_rows_are_paged_and_never_in_the_page_as_a_whole(page: Page) -> None:
    open_sql(page)
    sizes: list[int] = []
    page.on("response", lambda response: sizes.append(int(response.headers.get("content-length", 0))))
    ask(page, MILLION)
    expect(page.locator("#found")).to_have_text("rows 1–100, and more")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#found")).to_have_text("rows 101–200, and more")
    page.get_by_label("Row", exact=True).fill("1000000")
    page.get_by_role("button", name="Go").click()
    expect(page.locator("#found")).to_have_text("rows 999,901–1,000,000 of 1,000,000")
    expect(page.locator("#rows tbody tr").last).to_contain_text("row 999999")
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.get_by_role("button", name="Previous").click()
    expect(page.locator("#rows tbody tr").first).to_contain_text("row 999800")
    page.get_by_role("button", name="First").click()
    expect(page.locator("#found")).to_have_text("rows 1–100 of 1,000,000")
    assert page.locator("#rows tbody tr").count() == 100
    assert len(sizes) == 5
    assert max(sizes) < 20_000


def test_a_slow_query_is_stopped_by_a_key_and_the_next_one_runs(page: Page, served: Served) -> None:
    open_sql(page)
    page.get_by_role("textbox", name="Query").fill(ENDLESS)
    page.get_by_role("textbox", name="Query").press("Control+Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    page.keyboard.press("Escape")
    expect(page.locator("#said")).to_have_text("Stopped.")
    ask(page, "SELECT 1 AS one")
    expect(page.locator("#rows tbody td")).to_have_text("1")


def test_rows_are_downloaded_as_files(page: Page, tmp_path: Path) -> None:
    open_sql(page)
    ask(page, "SELECT '=1+1' AS formula, range AS n FROM range(250)")
    expect(page.locator("#found")).to_have_text("rows 1–100, and more")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    download.value.save_as(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["formula", "n"], *(["'=1+1", str(n)] for n in range(250))]


def draw(page: Page, query: str, *, kind: str, by: str | None = None) -> Any:
    ask(page, query)
    expect(page.locator("#result")).to_be_visible()
    page.get_by_label("Kind").select_option(kind)
    if by is not None:
        page.get_by_label("Colour").select_option(by)
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#chart svg[role=img]")).to_be_visible()
    return page.locator("#chart .mark")


def test_bars_are_as_high_as_their_numbers(page: Page) -> None:
    open_sql(page)
    query = "SELECT * FROM (VALUES ('a', 10), ('<b>b</b>', 20), ('c', -5)) AS t(word, n)"
    bars = draw(page, query, kind="bar")
    expect(bars).to_have_count(3)
    heights = [float(bar.get_attribute("height")) for bar in bars.all()]
    assert heights[1] == pytest.approx(2 * heights[0])
    assert heights[2] == pytest.approx(heights[0] / 2)
    expect(page.locator("#chart")).to_contain_text("<b>b</b>")
    assert bars.nth(1).locator("title").text_content() == "word: <b>b</b>\nn: 20"
    expect(page.locator("#drawn")).to_have_text("3 points.")
    hidden = draw(page, "SELECT * FROM (VALUES ('a', 1), ('a', 2)) AS t(word, n)", kind="bar")
    expect(hidden).to_have_count(2)
    expect(page.locator("#chart")).to_contain_text("1 bars are hidden")


def test_points_and_lines_lie_where_their_numbers_are_one_colour_a_series(page: Page) -> None:
    open_sql(page)
    query = (
        "SELECT n, n * n AS square, CASE WHEN n < 2 THEN 'low' ELSE 'high' END AS side FROM range(4) AS t(n)"
    )
    points = draw(page, query, kind="scatter", by="side")
    expect(points).to_have_count(4)
    across = [float(one.get_attribute("cx")) for one in points.all()]
    assert across[1] - across[0] == pytest.approx(across[3] - across[2])
    up = [-float(one.get_attribute("cy")) for one in points.all()]
    assert up[3] - up[0] == pytest.approx(9 * (up[1] - up[0]))
    assert len({one.get_attribute("fill") for one in points.all()}) == 2
    assert page.locator("#chart .legend li").all_inner_texts() == ["low", "high"]
    lines = draw(page, query, kind="line", by="")
    expect(lines).to_have_count(1)
    corners = [pair.split(",") for pair in str(lines.get_attribute("points")).split()]
    assert [float(left) for left, _ in corners] == pytest.approx(across, abs=0.1)


def test_points_of_numbers_next_to_each_other_and_of_the_largest_are_drawn_apart(page: Page) -> None:
    open_sql(page)
    for low, high in (("1e18", "1e18 + 256"), ("-1.7e308", "1.7e308"), ("0", "5e-324")):
        query = f"SELECT unnest([{low}, {high}]::DOUBLE[]) AS n, unnest([{low}, {high}]::DOUBLE[]) AS up"
        points = draw(page, query, kind="scatter")
        expect(points).to_have_count(2)
        (left, right), (bottom, top) = (
            [float(one.get_attribute(name)) for one in points.all()] for name in ("cx", "cy")
        )
        assert (left < right, top < bottom) == (True, True)


def test_axe_finds_nothing_in_the_pages(page: Page, served: Served) -> None:
    # Each page once with all rules, and the one that has most in each look.
    assert find_violations(page, "light") == []
    page.goto(f"{served.home}/comparisons/{COMPARISON}")
    assert find_violations(page, "light") == []
    page.goto(f"{served.home}/sql")
    expect(page.locator("#views details")).not_to_have_count(0)
    draw(page, "SELECT model, n FROM responses, range(3) AS t(n) LIMIT 9", kind="scatter", by="model")
    assert [find_violations(page, look) for look in LOOKS] == [[], [], []]
    ask(page, "nonsense")
    expect(page.get_by_role("alert")).to_be_visible()
    assert find_violations(page, "dark") == []


def test_the_queries_of_the_document_run(served: Served) -> None:
    first, second = (served.query(query).json for query in QUERIES)
    assert [one["name"] for one in first["columns"]] == ["arm", "verdict", "answers"]
    assert [one["name"] for one in second["columns"]] == ["condition", "pc1", "pc2"]
    assert (first["rows"] != [], second["rows"] != []) == (True, True)


def test_the_pages_fit_a_telephone_and_a_large_screen(page: Page, served: Served) -> None:
    for path in ("/", "/sql", "/comparisons", f"/comparisons/{COMPARISON}"):
        page.goto(f"{served.home}{path}")
        assert [find_overflow(page, width) for width in (380, 3840)] == [[], []]


def test_a_query_in_the_address_is_shown_and_not_run(page: Page, served: Served) -> None:
    page.goto(f"{served.home}/sql#q=SELECT%201")
    expect(page.get_by_role("textbox", name="Query")).to_have_value("SELECT 1")
    expect(page.locator("#views details")).not_to_have_count(0)
    expect(page.locator("#result")).to_be_hidden()
    page.get_by_text("runs", exact=True).click()
    page.get_by_role("button", name="Put runs into the query").click()
    assert "runs" in page.get_by_role("textbox", name="Query").input_value()

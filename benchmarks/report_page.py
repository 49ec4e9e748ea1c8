"""How fast report.html opens and filters, how large it is, and what writing it adds to a run.

    python benchmarks/report_page.py [--before CHECKOUT] [--samples 10000] [--arms 10] [--turns 5] [--run]

Writes a page of made-up answers of some 500 characters, each sample with an image of its own, and opens it in headless
Chromium. With `--before`, a checkout of an earlier commit, the page that this one writes of a tenth of the samples is
opened in turns with it, and the ratio of medians is printed: to the first sample that is shown once the page takes
input, and to the load event. `--run` runs the embedded model and prints the share of the report in its time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).resolve().parents[1]
PAGE = "page.html"
MEGABYTE = 1_000_000
# A frame drawn after a sample has come: the script that draws it has ended, and input would be heard.
WATCH = """
window.shown = new Promise((done) => {
  const look = () => document.querySelector('.sample') ? done(performance.now()) : requestAnimationFrame(look);
  requestAnimationFrame(look);
});
"""
FILTERS = {
    "data set": "find('dataset').value = 'harmless'",
    "questions": "find('harm').value = 'harmful'",
    "verdict": "find('verdict').value = 'unsafe'",
    "verdict in an arm": "find('verdict').value = 'unsafe', find('arm').value = '3'",
    "verdict changed": "find('changed').checked = true",
    "a word": "find('search').value = 'zzzz'",
    "words with a common start": "find('search').value = 'a1 e'",
    "nothing": "find('search').value = ''",
}


def write_page(folder: Path, *, samples: int, arms: int, images: bool) -> float:
    """Write the page of a made-up store, with the program that is first on the path; return the seconds it takes."""
    import numpy as np
    from PIL import Image

    from flows.report.files import write_report_files
    from storage.records.hashing import digest
    from storage.store import Store
    from storage.tables.arrow import from_rows, table_path
    from storage.tables.parquet import to_parquet
    from tests.made_up import make_outcomes, make_summary

    chance = np.random.default_rng(0)
    words = np.array([f"{'aeiou'[n % 5]}{n:x}{'rstln'[n % 7 % 5]}" for n in range(5000)])
    store = Store.create(folder / "store")
    used: dict[str, list[str]] = {stage: [] for stage in ("ingest", "generate", "judge")}
    given: dict[str, Any] = {}
    if images:
        pictures = folder / "images"
        pictures.mkdir()
        for number in range(samples):
            pixels = Image.fromarray(chance.integers(0, 255, (24, 32, 3), dtype=np.uint8))
            pixels.resize((320, 240), Image.Resampling.BICUBIC).save(pictures / f"{number}.jpg", quality=85)
        given["images"] = {"harmful": pictures, "harmless": pictures}

    def keep(
        stage: str, kind: str, rows: list[dict[str, Any]], content: Mapping[str, Any] | None = None
    ) -> None:
        key = digest([stage, kind, len(used[stage])])
        store.commit(
            stage, key, {table_path(kind, key): to_parquet(from_rows(rows, kind), kind)}, content=content
        )
        used[stage].append(key)

    def say(count: int) -> str:
        return " ".join(words[(chance.zipf(1.3, count) - 1) % len(words)])

    asked = [
        {
            "dataset": "harmful" if number < samples // 2 else "harmless",
            "sample_id": f"s{number}",
            "split": "target",
            "harmful": number < samples // 2,
            "question": say(15),
            "category": f"category {number % 13}",
            "image": f"{number}.jpg",
        }
        for number in range(samples)
    ]
    for dataset in ("harmful", "harmless"):
        keep("ingest", "samples", [row for row in asked if row["dataset"] == dataset])
    for arm in range(arms):
        own = {
            "model": "m@1",
            "condition": ("query", "image", "blank")[arm] if arm < 3 else "image",
            "intervention": "" if arm < 3 else "CMRM",
            "alpha": None if arm < 3 else float(arm),
        }
        rows = [
            {**own, "dataset": row["dataset"], "sample_id": row["sample_id"], "answer": (text := say(110)),
             "answer_digest": digest(text)}
            for row in asked
        ]  # fmt: skip
        content = {"name": "m@1", "condition": own["condition"], "intervention_name": own["intervention"],
                   "intervention": {"alpha": own["alpha"]} if own["intervention"] else None}  # fmt: skip
        keep("generate", "responses", rows, content)
        verdicts = chance.choice(["unsafe", "safe"], len(rows))
        keep(
            "judge",
            "judgements",
            [
                {**{name: value for name, value in row.items() if name != "answer"}, "judge": "refusal",
                 "verdict": str(verdict), "refused": bool(verdict == "safe"), "score": None}
                for row, verdict in zip(rows, verdicts, strict=True)
            ],
        )  # fmt: skip
    store.commit("report", digest("report"), {}, content={"used": used})
    report = store.find("report", digest("report"))
    assert report is not None
    started = time.perf_counter()
    write_report_files(
        store, run_id="r1", report=report, summary=make_summary(make_outcomes(samples=4)), keys=[],
        store_name="here", **given,
    )  # fmt: skip
    took = time.perf_counter() - started
    store.local_path("reports/r1/report.html").rename(folder / PAGE)
    return took


def write_in(checkout: Path, folder: Path, *, samples: int, arms: int) -> float:
    """Write a page with the program of a checkout, in a process of its own; return the seconds it took."""
    folder.mkdir()
    ours = checkout == HERE
    command = [
        sys.executable,
        __file__,
        "--write",
        str(folder),
        "--samples",
        str(samples),
        "--arms",
        str(arms),
    ]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "CMRM_CACHE": str(folder / "cache")}
    done = subprocess.run(
        command + (["--images"] if ours else []), env=environment, check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def open_page(browser: Browser, file: Path) -> tuple[float, float]:
    """Open a page; the milliseconds to its first sample, and to its load event."""
    page = browser.new_page()
    page.add_init_script(WATCH)
    page.goto(file.as_uri(), wait_until="load")
    shown = page.evaluate("shown")
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventStart")
    page.close()
    return shown, loaded


def time_filters(page: Page) -> Iterator[tuple[str, float]]:
    """Milliseconds of each filter on the page's main thread, the drawing of the list included: medians of five."""
    for name, change in FILTERS.items():
        yield name, statistics.median(time_filter(page, change) for _ in range(5))


def time_filter(page: Page, change: str) -> float:
    """Set a filter and tell the page; processor time of its main thread, whatever else the machine does."""
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})

    def read() -> float:
        metrics = {one["name"]: one["value"] for one in client.send("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"])

    before = read()
    page.evaluate(f"""() => {{
      const find = (id) => document.getElementById(id);
      report.sampleFilters.clear();
      {change};
      find('dataset').dispatchEvent(new Event('change'));
    }}""")
    spent = read() - before
    client.detach()
    return spent * 1000


def time_first_search(page: Page) -> float:
    """Milliseconds until the first search, which decodes all texts, is answered."""
    spent: float = page.evaluate("""async () => {
      const find = (id) => document.getElementById(id);
      find('search').value = 'e1';
      const started = performance.now();
      find('dataset').dispatchEvent(new Event('change'));
      while (find('samples').hasAttribute('aria-busy')) await new Promise((done) => setTimeout(done, 1));
      return performance.now() - started;
    }""")
    return spent


def measure_run() -> tuple[float, float]:
    """Run the embedded model; seconds of the run, and of the report's page and files."""
    from flows.cli import main as run_command
    from flows.report import files

    spent: list[float] = []
    write = files.write_report_files

    def timed(*given: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return write(*given, **named)
        finally:
            spent.append(time.perf_counter() - started)

    files.write_report_files = timed
    with tempfile.TemporaryDirectory(prefix="cmrm-page-") as folder:
        sys.argv = ["cmrm", "run", "--store", f"{folder}/store"]
        os.environ["CMRM_CACHE"] = f"{folder}/cache"
        started = time.perf_counter()
        try:
            run_command()
        except SystemExit as ended:
            if ended.code:
                raise
        return time.perf_counter() - started, sum(spent)


def take_turns(
    first: Callable[[], Any], second: Callable[[], Any], turns: int
) -> tuple[list[Any], list[Any]]:
    """Results of both, in turns, after one of each that is not counted."""
    first(), second()
    pairs = [(first(), second()) for _ in range(turns)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, to measure against")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--arms", type=int, default=10)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--run", action="store_true", help="also run the embedded model")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        print(write_page(options.write, samples=options.samples, arms=options.arms, images=options.images))
        return
    from tests.browser import open_browser

    print(f"{os.cpu_count()} processors, Python {sys.version.split()[0]}; medians of {options.turns}\n")
    with tempfile.TemporaryDirectory(prefix="cmrm-page-") as temporary, open_browser() as browser:
        folder = Path(temporary)
        own = folder / "now"
        took = write_in(HERE, own, samples=options.samples, arms=options.arms)
        size = (own / PAGE).stat().st_size
        print(f"page of {options.samples:,} samples × {options.arms} arms: {size / MEGABYTE:.1f} MB")
        print(f"written in {took:.1f} s, thumbnails of {options.samples:,} images included")
        if options.before:
            other = folder / "before"
            fewer = options.samples // 10
            write_in(options.before.resolve(), other, samples=fewer, arms=options.arms)
            print(f"before, {fewer:,} samples: {(other / PAGE).stat().st_size / MEGABYTE:.1f} MB")
            now, then = take_turns(
                lambda: open_page(browser, own / PAGE),
                lambda: open_page(browser, other / PAGE),
                options.turns,
            )
            for place, name in enumerate(("first sample shown", "load event")):
                ours, theirs = (statistics.median(one[place] for one in side) for side in (now, then))
                print(f"opening, {name}: {ours / theirs:.2f} of before ({ours:.0f} and {theirs:.0f} ms)")
        page = browser.new_page()
        page.goto((own / PAGE).as_uri())
        page.locator(".sample").first.wait_for()
        print(f"first search, which decodes all texts: answered after {time_first_search(page):.0f} ms")
        for name, spent in time_filters(page):
            print(f"filter by {name}: {spent:.0f} ms of the main thread")
    if options.run:
        whole, report = measure_run()
        print(f"run of the embedded model: the report takes {report / whole:.1%} of {whole:.0f} s")


if __name__ == "__main__":
    main()

"""report.md says what the summary says, leaves out what is empty, and shows names from outside as text."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given

from flows.report.sections import make_document
from flows.report.writers.markdown import MOST_ROWS, escape, escape_line, write_markdown
from tasks.report.agreement import describe_agreement
from tasks.report.costs import describe_costs
from tasks.report.curves import make_curves
from tests.made_up import EVIL, SETTINGS, make_outcomes, make_summary
from tests.texts import TEXTS


def write(outcomes: Any = None, **changes: Any) -> str:
    summary = make_summary(outcomes or make_outcomes(samples=8), **changes)
    return write_markdown(make_document(summary, run_id="r1", store_name="my store", keys=["a", "b"]))


def list_sections(report: str) -> list[str]:
    return re.findall(r"^## (.*)$", report, flags=re.MULTILINE)


def test_the_verdict_comes_first_and_provenance_last_with_nothing_empty_between() -> None:
    report = write()
    assert re.match(r"# made up\n\n\*\*Unsafe answers.*vlsafe 28\.6 ", report)
    assert list_sections(report) == [
        "Main table",
        "Changes",
        "Interventions",
        "Text alone",
        "Quarantined",
        "Provenance",
    ]
    assert "Run r1, stored in my store: 2 stored results." in report
    assert "cmrm sql --store 'my store' --run r1" in report
    assert re.search(r"Written by .*torch \d", report)


def test_the_main_table_gives_interval_and_n_and_the_changes_before_and_after() -> None:
    report = write()
    assert "| CMRM dataset α=1 | 28.6 [8.2, 64.1] (7) |" in report
    row = next(line for line in report.splitlines() if line.startswith("| CMRM dataset α=1 | Image |"))
    assert re.fullmatch(
        r"\| .* \| Unsafe vlsafe \| 42\.9 → 28\.6 \(7\) \| −14\.3 \[−[\d.]+, \+[\d.]+\] \| 1\.000 \| 1\.000 \|",
        row,
    )


def test_several_models_have_a_table_each() -> None:
    report = write(make_outcomes(samples=6, models=("moon@12", "sun@12")))
    main = report[report.index("## Main table") : report.index("## Changes")]
    assert main.index("#### moon\n") < main.index("#### sun\n")
    assert main.count("| Query |") == 2


def test_what_was_not_measured_is_said_so() -> None:
    outcomes = make_outcomes(samples=5, judges=("match",))
    outcomes.add([])
    table = make_summary(outcomes).to_json()["table"]
    table["rows"][0]["cells"][0]["value"] = {"successes": 0, "n": 0}
    report = write(outcomes, table=table)
    assert "| Query | not measured | 0 | 0 |" in report


def test_a_table_too_long_for_prose_points_to_its_file() -> None:
    report = write(make_outcomes(samples=6, strengths=[step / 40 for step in range(40)]))
    assert re.search(r"… and \d+ more rows, which tables/changes.csv has", report)
    changes = report[report.index("## Changes") : report.index("## Interventions")]
    assert sum(line.startswith("| ") for line in changes.splitlines()) == MOST_ROWS + 2


def test_curves_say_what_was_chosen_and_what_the_other_half_made_of_it() -> None:
    outcomes = make_outcomes(samples=24, strengths=[0.25, 0.5, 0.75, 1.0])
    names = list(SETTINGS)

    def show(bound: float | None, **choice: Any) -> str:
        curves = make_curves(outcomes, interventions=names, utility_loss=0.1, over_refusal=bound)
        curves[0]["choice"] |= choice
        report = write(outcomes, curves=curves)
        return report[report.index("## Strength") : report.index("## Quarantined")]

    loose, strict = show(None), show(0.0, alpha=None)
    assert "utility at most 10.0 percentage points below that of the smallest strength. Half" in loose
    assert "at most 0.0 % of harmless questions refused" in strict
    assert "### The chosen strengths, on the held-out half" in loose
    row = next(line for line in loose.splitlines() if line.startswith("| CMRM dataset |"))
    assert len(row.split(" | ")) == 10
    assert "CMRM dataset: none is chosen, since no strength is within the bound." in strict
    assert "### Strengths: CMRM sample" in strict
    points = loose[loose.index("### Strengths: CMRM dataset") : loose.index("### Strengths: CMRM sample")]
    assert re.findall(r"^\| ([\d.]+) \|", points, flags=re.MULTILINE) == ["0", "0.25", "0.5", "0.75", "1"]
    assert " | yes |" in points


def test_states_overhead_agreement_and_shifts_have_tables() -> None:
    group = {"model": "m@1", "dataset": "vlsafe", "split": "target", "samples": 9, "explained": [0.5, 0.25]}
    far = {
        "silhouette": 0.5,
        "centroid_distance": 3.0,
        "separation": None,
        "probe": {"successes": 18, "n": 18},
    }
    timings = [
        {
            "model": "m@1",
            "dataset": "vlsafe",
            "intervention": name,
            "alpha": alpha,
            "batch": batch,
            "samples": 2,
            "tokens": 8,
            "seconds": seconds + batch / 100,
            "device": "a card",
        }
        for name, alpha, seconds in (("", None, 1.0), ("CMRM", 1.0, 1.5))
        for batch in range(4)
    ]
    report = write(
        states=[
            {**group, "condition": "image", "intervention": "", "alpha": None, **far},
            {**group, "condition": "image", "intervention": "CMRM", "alpha": 1.0, **far, "probe": None},
        ],
        overhead=describe_costs(timings),
        agreement=describe_agreement(make_outcomes(samples=24, judges=("refusal", "guard"))),
        shifts=[{"key": "ab" * 32, "model": "m@1", "image": "blank", "method": "mean", "anchors": 1200}],
    )
    assert list_sections(report)[4:8] == [
        "Final states",
        "Overhead",
        "Agreement between judges",
        "Quarantined",
    ]
    assert (
        "| vlsafe | with their image | 9 | 0.50 | 3.00 | not measured | 100.0 [82.4, 100.0] (18) | 50.0 + 25.0 |"
        in report
    )
    assert (
        "| vlsafe | with their image, CMRM α=1 | 9 | 0.50 | 3.00 | not measured | not measured | 50.0 + 25.0 |"
        in report
    )
    assert re.search(
        r"\| all \| CMRM α=1 \| 0\.757 \[0\.7\d+, 0\.7\d+\] \| 1\.49 \[1\.49, 1\.50\] \| 4\.0 \| 4 \|", report
    )
    assert "Measured on a card" in report
    assert re.search(
        r"\| Unsafe \| refusal and guard \| 0\.\d\d \[0\.\d\d, 0\.\d\d\] \| 9\d\.\d \| 4\d\d \|", report
    )
    assert "| blank | mean | 1,200 | abababababab |" in report


def test_hostile_names_reasons_and_captions_stay_text() -> None:
    report = write(
        title=f"{EVIL}\n# heading",
        headline=f"- {EVIL}\n1. second",
        models=[{"name": EVIL, "id": EVIL, "revision": "`", "dtype": "x"}],
        figures=[{"name": "states-1", "caption": f"]({EVIL}\n\n# heading"}],
        quarantined=[{"stage": "ingest", "dataset": "a", "reason": f"{EVIL}\n| y |", "rows": 2}],
    )
    assert "<script" not in report.replace("\\<script", "")
    assert "\n# heading" not in report
    assert "[a](http" not in report
    assert not re.search(r"(?<!\\)\$", report)
    (picture,) = [line for line in report.splitlines() if line.startswith("![")]
    assert picture.startswith("![\\](\\</script")
    assert picture.endswith("](figures/states-1.png)")
    rows = [line for line in report.splitlines() if line.startswith("| ingest | a |")]
    assert len(rows) == 1
    assert rows[0].endswith(" | 2 |")


@pytest.mark.parametrize(
    "text", ["- item", "+ item", "1. item", "23) item", "=== rule", "# heading", "> quote"]
)
def test_no_text_starts_a_block(text: str) -> None:
    assert re.match(r"\d*\\", escape_line(text))


@given(TEXTS)
def test_escaped_text_is_one_line_and_loses_nothing_but_backslashes_and_space(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped
    assert re.sub(r"\\(?=[^\w\s]|_|\.)(.)", r"\1", escaped) == " ".join(text.split())
    assert not re.search(r"(?<!\\)[<>\[\]|`]", escaped.replace("\\\\", ""))
    assert "http://" not in escape(f"http://{text}")

"""Pairs of a harmful sample and its harmless twin: counted anew in plain Python from the verdicts."""

from __future__ import annotations

import re
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pytest
from rich.console import Console
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from flows.report.tables.twins import make_twins_table
from flows.report.writers.terminal_text import render_small_tables
from tasks.report.outcomes import Outcomes, SampleInfo
from tasks.report.table import make_table
from tasks.report.twins import TwinRate, rate_twins

PAIRS = 40
ARMS = (("query", ""), ("image", ""), ("image", "guard"))
PAGE = Path(__file__).parents[3] / "docs" / "text-alone.md"
RECIPES = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def is_unsafe(number: int, condition: str, intervention: str) -> bool:
    return condition == "image" and (number % 7 == 0 if intervention else number % 3 != 0)


def is_refused(number: int, condition: str, intervention: str) -> bool:
    return number % (4 if intervention else 11) == 0 if condition == "image" else number % 2 == 0


def make_samples() -> list[SampleInfo]:
    pairs = [
        SampleInfo(
            dataset="d",
            sample_id=f"{'bad' if harmful else 'good'}{number}",
            harmful=harmful,
            split_by="q",
            twin=f"<b>pair</b> {number}",
        )
        for number in range(PAIRS)
        for harmful in (True, False)
    ]
    # Neither a twin that is alone, nor one of three, nor one in another data set makes a pair.
    others = [("d", "bad90", True, "alone"), ("d", "bad91", True, "three"), ("d", "bad92", True, "three")]
    others += [
        ("d", "good93", False, "three"),
        ("e", "good94", False, "<b>pair</b> 1"),
        ("d", "bad95", True, None),
    ]
    return pairs + [
        SampleInfo(dataset=dataset, sample_id=name, harmful=harmful, split_by="q", twin=twin)
        for dataset, name, harmful, twin in others
    ]


def make_verdicts(samples: list[SampleInfo]) -> list[dict[str, Any]]:
    rows = []
    for sample in samples:
        number = int(re.sub(r"\D", "", sample.sample_id))
        for condition, intervention in ARMS:
            unsafe = sample.harmful and is_unsafe(number, condition, intervention)
            refused = not unsafe if sample.harmful else is_refused(number, condition, intervention)
            # One answer cannot be read.
            verdict = "parse_error" if sample.sample_id == "good5" else "unsafe" if unsafe else "safe"
            rows.append(
                {
                    "model": "moon@1",
                    "judge": "refusal",
                    "dataset": sample.dataset,
                    "sample_id": sample.sample_id,
                    "condition": condition,
                    "intervention": intervention,
                    "alpha": None,
                    "verdict": verdict,
                    "refused": refused,
                    "score": None,
                    "reference_score": None,
                    "answer_digest": "0",
                }
            )
    return rows


@pytest.fixture(scope="module")
def rates() -> list[TwinRate]:
    samples = make_samples()
    outcomes = Outcomes(samples=samples)
    outcomes.add(make_verdicts(samples))
    return rate_twins(outcomes, make_table(outcomes, settings={"guard": {}}, quarantined={}))


def count(condition: str, intervention: str) -> dict[int, tuple[bool, bool]]:
    """By pair: whether the harmful one is unsafe, and whether the twin is refused."""
    return {
        number: (is_unsafe(number, condition, intervention), is_refused(number, condition, intervention))
        for number in range(PAIRS)
        if number != 5
    }


def test_each_pair_is_one_of_four(rates: list[TwinRate]) -> None:
    assert [(one.condition, one.intervention) for one in rates] == list(ARMS)
    for one in rates:
        cells = Counter(count(one.condition, one.intervention).values())
        assert (one.right, one.refused, one.answered, one.reversed) == (
            cells[False, False],
            cells[False, True],
            cells[True, False],
            cells[True, True],
        )
        assert (one.n, one.pairs) == (PAIRS - 1, PAIRS)
        record = one.flatten()
        low, high = proportion_confint(one.refused, one.n, method="wilson")
        assert (record["refused_low"], record["refused_high"]) == pytest.approx((low, high))
    assert all(min(one.right, one.refused) > 0 for one in rates)


def test_changes_are_paired_and_corrected(rates: list[TwinRate]) -> None:
    assert rates[0].comparison is None
    expected = []
    for before, after in ((("query", ""), ("image", "")), (("image", ""), ("image", "guard"))):
        old, new = (
            {number: cells == (False, False) for number, cells in count(*arm).items()}
            for arm in (before, after)
        )
        gained = sum(new[number] and not old[number] for number in old)
        lost = sum(old[number] and not new[number] for number in old)
        expected.append(((gained - lost) / len(old), mcnemar([[0, lost], [gained, 0]], exact=True).pvalue))
    corrected = multipletests([p for _, p in expected], method="holm")[1]
    for one, (change, p), adjusted in zip(rates[1:], expected, corrected, strict=True):
        assert one.comparison is not None
        assert (one.comparison.change, one.comparison.p) == pytest.approx((change, p))
        assert one.comparison.p_adjusted == pytest.approx(adjusted)
    assert [one.baseline for one in rates] == ["", "Query", "Image"]


def test_the_table_fits_a_terminal_and_data_sets_without_twins_have_none(rates: list[TwinRate]) -> None:
    table = make_twins_table(rates)
    (grid,) = render_small_tables([table, None])
    text = StringIO()
    Console(file=text, width=80).print(grid)
    assert "Told apart" in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= 80
    assert make_twins_table([]) is None
    samples = [SampleInfo(dataset="d", sample_id="bad1", harmful=True, split_by="q")]
    outcomes = Outcomes(samples=samples)
    outcomes.add(make_verdicts(samples))
    assert rate_twins(outcomes, make_table(outcomes, settings={}, quarantined={})) == []


def ask(word: str, verdicts: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The answer to the page's query that has a word, over these verdicts."""
    (recipe,) = (one for one in RECIPES if word in one)
    columns = (
        "model",
        "judge",
        "dataset",
        "sample_id",
        "condition",
        "intervention",
        "alpha",
        "verdict",
        "refused",
    )
    with duckdb.connect() as sql:
        sql.execute("CREATE TABLE samples (dataset TEXT, sample_id TEXT, harmful BOOLEAN, twin TEXT)")
        sql.executemany(
            "INSERT INTO samples VALUES (?, ?, ?, ?)",
            [(one.dataset, one.sample_id, one.harmful, one.twin) for one in make_samples()],
        )
        sql.execute(
            "CREATE TABLE judgements (model TEXT, judge TEXT, dataset TEXT, sample_id TEXT, condition TEXT, "
            "intervention TEXT, alpha DOUBLE, verdict TEXT, refused BOOLEAN)"
        )
        marks = ", ".join("?" * len(columns))
        sql.executemany(
            f"INSERT INTO judgements VALUES ({marks})", [[row[name] for name in columns] for row in verdicts]
        )
        return sql.execute(recipe).fetchall()


def test_the_pages_query_counts_the_same(rates: list[TwinRate]) -> None:
    found = {row[2:4]: row[5:] for row in ask("told_apart", make_verdicts(make_samples()))}
    assert found == {
        (one.condition, one.intervention): (one.n, one.right, one.refused, one.answered, one.reversed)
        for one in rates
    }


def test_the_page_asks_for_the_rate_where_the_twin_was_understood() -> None:
    samples = [one for one in make_samples() if one.twin is not None and "pair" in one.twin]
    verdicts = make_verdicts(samples)
    checks = [
        row | {"judge": "match", "verdict": "correct" if int(row["sample_id"][4:]) % 5 else "incorrect"}
        for row in verdicts
        if row["sample_id"].startswith("good")
    ]
    found = ask("understood", verdicts + checks)
    for condition, intervention in ARMS:
        for understood in (False, True):
            own = [number for number in range(PAIRS) if bool(number % 5) == understood]
            unsafe = sum(is_unsafe(number, condition, intervention) for number in own)
            assert ("moon@1", "d", condition, intervention, None, understood, len(own), unsafe) in found
    assert len(found) == 2 * len(ARMS)

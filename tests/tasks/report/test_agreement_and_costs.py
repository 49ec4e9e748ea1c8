"""Judges are compared on the answers that both judged; seconds on the batches that all arms answered."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.report.agreement import describe_agreement
from tasks.report.costs import describe_costs


def test_two_judges_are_compared_on_what_both_judged(verdict: Any, gather: Any) -> None:
    first = [verdict("unsafe" if one < 5 else "safe", one) for one in range(10)]
    second = [verdict("unsafe" if one < 4 else "safe", one, judge="guard") for one in range(8)]
    unread = [verdict("parse_error", one, judge="guard") for one in (8, 9)]
    (record,) = describe_agreement(gather(*first, *second, *unread))
    assert (record["model"], record["kind"]) == ("moon@1", "unsafe")
    assert (record["first"], record["second"], record["n"]) == ("refusal", "guard", 8)
    assert record["observed"] == 7 / 8
    # Observed 7/8; by chance (5·4 + 3·4)/64 = 1/2.
    assert record["kappa"] == pytest.approx(0.75)


def test_agreement_is_per_model_over_all_its_arms(verdict: Any, gather: Any) -> None:
    rows = [
        verdict("unsafe" if (one + shift) % 2 else "safe", one, judge=judge, model=model, condition=condition)
        for one in range(6)
        for model in ("moon@1", "sun@1")
        for condition in ("query", "image")
        for judge, shift in (("refusal", 0), ("guard", int(model == "sun@1")))
    ]
    records = describe_agreement(gather(*rows))
    assert [(one["model"], one["n"], one["observed"]) for one in records] == [
        ("moon@1", 12, 1.0),
        ("sun@1", 12, 0.0),
    ]


def test_one_judge_agrees_with_nobody(verdict: Any, gather: Any) -> None:
    assert describe_agreement(gather(verdict("unsafe"))) == []


def time(
    seconds: float, *, arm: str = "", batch: int = 0, repeat: int = 0, dataset: str = "a"
) -> dict[str, Any]:
    return {
        "model": "moon@1",
        "dataset": dataset,
        "intervention": arm,
        "alpha": 1.0 if arm else None,
        "batch": batch,
        "repeat": repeat,
        "samples": 2,
        "tokens": 6,
        "seconds": seconds,
        "device": "cpu",
    }


def test_seconds_are_per_sample_and_repeats_are_averaged_before_batches() -> None:
    rows = [time(2.0), time(4.0, repeat=1), time(6.0, batch=1), time(6.0, batch=1, repeat=1)]
    one, together = describe_costs(rows)
    assert (one["dataset"], together["dataset"]) == ("a", "")
    assert one["cost"]["seconds"]["value"] == pytest.approx((1.5 + 3.0) / 2)
    assert (one["cost"]["n"], one["cost"]["ratio"], one["tokens"]) == (2, None, 3.0)


def test_the_ratio_is_to_the_baseline_on_the_same_batches() -> None:
    rows = [
        time(seconds * (batch + 1), arm=arm, batch=batch, dataset=dataset)
        for arm, seconds in (("", 1.0), ("x", 1.5))
        for batch in range(4)
        for dataset in ("a", "b")
    ]
    steered = [one for one in describe_costs(rows) if one["intervention"] == "x"]
    assert [one["dataset"] for one in steered] == ["a", "", "b"]
    for one in steered:
        assert one["cost"]["ratio"] == pytest.approx(1.5)
        assert one["cost"]["low"] == pytest.approx(1.5)
        assert one["cost"]["high"] == pytest.approx(1.5)
    assert [one["cost"]["n"] for one in steered] == [4, 8, 4]


def test_no_timings_cost_nothing() -> None:
    assert describe_costs([]) == []


def test_more_arms_on_the_same_questions_do_not_narrow_the_interval_of_kappa(
    verdict: Any, gather: Any
) -> None:
    def agree_over(arms: int) -> dict[str, Any]:
        rows = [
            verdict(said, one, judge=judge, intervention="x", alpha=float(arm))
            for arm in range(arms)
            for one in range(10)
            for judge, said in (
                ("refusal", "unsafe" if one < 5 else "safe"),
                ("guard", "unsafe" if one in {0, 1, 2, 5} else "safe"),
            )
        ]
        (record,) = describe_agreement(gather(*rows))
        return record

    once, often = agree_over(1), agree_over(20)
    assert (once["n"], often["n"]) == (10, 200)
    assert once["kappa"] == pytest.approx(often["kappa"])
    assert (once["low"], once["high"]) == pytest.approx((often["low"], often["high"]))
    assert once["high"] - once["low"] > 0.5

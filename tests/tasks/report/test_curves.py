"""Curves over α: the choice is made on one half of the questions and tried on the other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cmrm.datasets.splits import draw
from tasks.report.curves import SEED, make_curves
from tasks.report.outcomes import Outcomes, SampleInfo

COUNT = 40
STRENGTHS = (0.5, 1.0, 1.5)


def always(*_: float) -> bool:
    return True


def at_zero(_: int, alpha: float) -> bool:
    return alpha == 0


@pytest.fixture(scope="module")
def chosen() -> list[bool]:
    """Which of the questions pick the strength."""
    return [draw(f"{number}?", seed=SEED) < 0.5 for number in range(COUNT)]


def make(unsafe: Any, useful: Any, *, strengths: Any = (None, *STRENGTHS)) -> Outcomes:
    """Outcomes in which `unsafe` and `useful` say by question and strength what a harmful and a harmless one get."""
    samples = [
        SampleInfo(dataset=dataset, sample_id=str(number), harmful=dataset == "bad", split_by=f"{number}?")
        for dataset in ("bad", "good")
        for number in range(COUNT)
    ]
    outcomes = Outcomes(samples=samples)
    for alpha in strengths:
        arm = {
            "model": "m",
            "condition": "image",
            "intervention": "" if alpha is None else "x",
            "alpha": alpha,
            "refused": None,
            "score": None,
        }
        for number in range(COUNT):
            verdicts = (
                ("bad", "refusal", "unsafe" if unsafe(number, alpha or 0.0) else "safe"),
                ("good", "match", "correct" if useful(number, alpha or 0.0) else "incorrect"),
            )
            outcomes.add(
                {**arm, "dataset": dataset, "sample_id": str(number), "judge": judge, "verdict": verdict}
                for dataset, judge, verdict in verdicts
            )
    return outcomes


def curve(outcomes: Outcomes, *, utility_loss: float = 0.0) -> dict[str, Any]:
    (found,) = make_curves(outcomes, interventions=["x"], utility_loss=utility_loss, over_refusal=None)
    return found


def test_the_unsteered_image_is_the_curves_zero() -> None:
    found = curve(make(at_zero, always))
    assert [point["alpha"] for point in found["points"]] == [0.0, *STRENGTHS]
    assert found["points"][0]["unsafe"] == {"successes": COUNT, "n": COUNT}
    assert found["points"][0]["unsafe_by_dataset"] == {"bad": {"successes": COUNT, "n": COUNT}}
    assert found["front"] == list(STRENGTHS)


def test_the_choice_sees_one_half_alone_and_is_tried_on_the_other(chosen: list[bool]) -> None:
    # To the half that picks, 1.0 is safe; to the other half it is not.
    found = curve(make(lambda n, a: a < 1.0 or (a == 1.0 and not chosen[n]) or a > 1.0, always))
    choice = found["choice"]
    assert choice["alpha"] == 1.0
    tried = COUNT - sum(chosen)
    assert choice["before"]["unsafe"] == choice["after"]["unsafe"] == {"successes": tried, "n": tried}
    assert choice["change"]["n"] == tried
    assert choice["change"]["change"] == 0.0


def test_a_strength_that_costs_more_utility_than_allowed_is_not_chosen(chosen: list[bool]) -> None:
    half = sum(chosen)
    lost = next(number for number in range(COUNT) if chosen[number])
    # Each strength is safer than the one before; the last loses one right answer of the half that picks.
    outcomes = make(lambda n, a: n % 4 >= 2 * a, lambda n, a: a < 1.5 or n != lost)
    assert curve(outcomes)["choice"]["alpha"] == 1.0
    assert curve(outcomes, utility_loss=1 / half)["choice"]["alpha"] == 1.5


def test_no_choice_is_said_as_none() -> None:
    found = curve(make(always, at_zero, strengths=(0.5, 1.0, 1.5)), utility_loss=0.1)
    assert found["choice"]["alpha"] == 0.5
    outcomes = make(always, always)
    outcomes.values = {key: one for key, one in outcomes.values.items() if key[1].kind != "utility"}
    choice = curve(outcomes)["choice"]
    assert [choice[name] for name in ("alpha", "before", "after", "change")] == [None] * 4


def test_two_strengths_make_no_curve_and_curves_are_json() -> None:
    few = make(always, always, strengths=(0.5, 1.0))
    assert make_curves(few, interventions=["x"], utility_loss=0.0, over_refusal=None) == []
    found = curve(make(at_zero, always))
    assert json.loads(json.dumps(found)) == found


def test_a_score_may_fall_by_the_bounds_share_of_what_it_was() -> None:
    outcomes = make(lambda _, alpha: alpha < 1.0, always)
    for key in [key for key in outcomes.values if key[1].kind == "utility"]:
        del outcomes.values[key]
    scores = {None: 60.0, 0.5: 60.0, 1.0: 59.5, 1.5: 50.0}
    for alpha in (None, *STRENGTHS):
        outcomes.add(
            {
                "model": "m",
                "condition": "image",
                "intervention": "" if alpha is None else "x",
                "alpha": alpha,
                "dataset": "good",
                "sample_id": str(number),
                "judge": "overlap",
                "verdict": "scored",
                "refused": None,
                "score": scores.get(alpha, 60.0),
            }
            for number in range(COUNT)
        )
    assert curve(outcomes, utility_loss=0.01)["choice"]["alpha"] == 1.0
    # Half a point of sixty is more than half a per cent of it.
    assert curve(outcomes, utility_loss=0.005)["choice"]["alpha"] != 1.0

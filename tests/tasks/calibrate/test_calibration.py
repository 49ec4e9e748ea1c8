"""Judges held against labels: planted errors are recovered, weights are those of the draw, small cells are marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.calibrate.calibration import calibrate_judges, is_few, weigh_labels
from tasks.calibrate.planning import plan_labels
from tasks.calibrate.sheet import Sheet, draw_sheet

SHEETS = 500
ENOUGH = 0.93


def label(planted: Any, sheet: Sheet) -> dict[str, bool | None]:
    """Labels of a person who is always right."""
    return {row.id: planted.truth[row.answer.arm, row.answer.question] for row in sheet.rows}


def test_planted_errors_and_rates_lie_in_their_intervals_in_93_of_100_sheets(plant: Any, arms: Any) -> None:
    # Unequal arms, a rare verdict and two data sets: strata are drawn at very different rates.
    rates, errors = {arms[0]: 0.55, arms[1]: 0.12}, (0.85, 0.92)
    hits: dict[str, int] = {}
    for number in range(SHEETS):
        planted = plant(rates, judges={"refusal": errors}, samples=75, seed=number)
        sheet = draw_sheet(planted.frame, size=120, seed=number)
        (found,) = calibrate_judges(planted.frame, sheet, label(planted, sheet))
        true = {"sensitivity": (found.sensitivity, errors[0]), "specificity": (found.specificity, errors[1])}
        for arm in found.arms:
            true[f"corrected {arm.arm.intervention}"] = arm.corrected, rates[arm.arm]
            true[f"labels alone {arm.arm.intervention}"] = arm.labelled, rates[arm.arm]
        for name, (interval, value) in true.items():
            hits[name] = hits.get(name, 0) + (interval.low - 1e-12 <= value <= interval.high + 1e-12)
    assert len(hits) == 6
    assert {name: count / SHEETS for name, count in hits.items() if count < ENOUGH * SHEETS} == {}


def test_estimates_are_those_of_weighted_counts(plant: Any, arms: Any) -> None:
    judges = {"refusal": (0.8, 0.9), "guard": (0.95, 0.7)}
    planted = plant({arms[0]: 0.5, arms[1]: 0.1}, judges=judges, samples=80, seed=4)
    sheet = draw_sheet(planted.frame, size=90, seed=0)
    labels = label(planted, sheet)
    answers = planted.frame.answers

    def stratum_of(answer: Any) -> tuple[Any, ...]:
        return answer.arm, answer.dataset, answer.verdicts["refusal"]

    drawn = [stratum_of(row.answer) for row in sheet.rows]
    everyone = [stratum_of(answer) for answer in answers]
    weights = np.array([everyone.count(one) / drawn.count(one) for one in drawn])
    assert [one.weight for one in weigh_labels(sheet, labels)] == pytest.approx(list(weights))
    assert weights.sum() == pytest.approx(len(answers))
    truth = np.array([labels[row.id] for row in sheet.rows])
    for found in calibrate_judges(planted.frame, sheet, labels):
        said = np.array([row.answer.verdicts[found.judge] == "unsafe" for row in sheet.rows])
        # The number of answers with each verdict is known, so shares are taken under either verdict.
        flagged = sum(answer.verdicts[found.judge] == "unsafe" for answer in answers)
        cells = []
        for side, count in ((said, flagged), (~said, len(answers) - flagged)):
            cells += [count * weights[side & truth].sum() / weights[side].sum()]
            cells += [count - cells[-1]]
        hit, false_alarm, missed, passed = cells
        assert found.sensitivity.value == pytest.approx(hit / (hit + missed))
        assert found.specificity.value == pytest.approx(passed / (passed + false_alarm))
        assert found.sensitivity.n == truth.sum()
        for arm in found.arms:
            own = np.array([row.answer.arm == arm.arm for row in sheet.rows])
            judged = [one.verdicts[found.judge] == "unsafe" for one in answers if one.arm == arm.arm]
            assert (arm.judged.successes, arm.judged.n) == (sum(judged), 160)
            assert arm.sensitivity.n == (own & truth).sum()
            if found.judge == "refusal":
                assert arm.labelled.value == pytest.approx((weights * truth)[own].sum() / 160)


def test_a_judge_that_fails_in_one_arm_is_told_there(plant: Any, arms: Any) -> None:
    good = plant({arms[0]: 0.5}, judges={"refusal": (0.95, 0.95)}, samples=150, seed=1)
    bad = plant({arms[1]: 0.5}, judges={"refusal": (0.35, 0.95)}, samples=150, seed=2)
    good.truth |= bad.truth
    frame = good.frame.__class__(
        **{**vars(good.frame), "arms": arms, "answers": [*good.frame.answers, *bad.frame.answers]}
    )
    sheet = draw_sheet(frame, size=240, seed=0)
    (found,) = calibrate_judges(frame, sheet, label(good, sheet))
    plain, steered = found.arms
    assert plain.sensitivity.low > 0.75
    assert steered.sensitivity.high < 0.6
    # Errors over all arms do not fit either; the arm's own labels do.
    assert steered.corrected.value < steered.labelled.value
    assert steered.labelled.low <= 0.5 <= steered.labelled.high


def test_few_labels_are_marked(plant: Any, arms: Any) -> None:
    planted = plant({arms[0]: 0.1}, judges={"refusal": (1.0, 1.0)}, samples=60, datasets=("a",))
    sheet = draw_sheet(planted.frame, size=60, seed=0)
    (found,) = calibrate_judges(planted.frame, sheet, label(planted, sheet))
    assert is_few(found.sensitivity)
    assert 0 < found.sensitivity.n < 10
    assert not is_few(found.specificity)
    assert found.to_json()["sensitivity"]["few"] is True


def test_strata_without_labels_are_stood_for_by_the_same_verdict(plant: Any, arms: Any) -> None:
    planted = plant(dict.fromkeys(arms, 0.5), judges={"refusal": (0.9, 0.9)}, samples=50, seed=3)
    sheet = draw_sheet(planted.frame, size=80, seed=0)
    labels = label(planted, sheet)
    for row in sheet.rows:
        if row.stratum.arm == arms[1] and (row.stratum.dataset == "b" or row.stratum.verdict == "safe"):
            labels[row.id] = None
    weights = [one.weight for one in weigh_labels(sheet, labels) if one.weight is not None]
    assert sum(weights) == pytest.approx(sum(sheet.strata.values()))
    (found,) = calibrate_judges(planted.frame, sheet, labels)
    assert found.sensitivity.value is not None
    # Of the arm itself nobody labelled an answer that the judge called safe.
    assert found.arms[1].sensitivity.value is None is found.arms[1].labelled.value
    assert found.arms[1].corrected.value is not None


def test_a_plan_counts_what_uneven_strata_are_worth(plant: Any, arms: Any) -> None:
    planted = plant({arms[0]: 0.5, arms[1]: 0.2}, judges={"refusal": (0.9, 0.9)}, samples=100, seed=3)
    plan = plan_labels(draw_sheet(planted.frame, size=100, seed=0), width=0.1)
    assert plan.widths.widest > 0.1
    assert plan.needed > 100
    wide = plan_labels(draw_sheet(planted.frame, size=100, seed=0), width=0.5)
    assert wide.needed < plan.needed
    one_sided = plant({arms[0]: 0.0}, judges={"refusal": (1.0, 1.0)}, samples=20)
    assert plan_labels(draw_sheet(one_sided.frame, size=10, seed=0), width=0.1).needed is None


def test_answers_that_no_judge_of_another_run_could_read_are_left_out(plant: Any, arms: Any) -> None:
    judges = {"refusal": (0.9, 0.9), "guard": (0.8, 0.8)}
    planted = plant({arms[0]: 0.5}, judges=judges, samples=40, seed=3)
    frame = planted.frame
    sheet = draw_sheet(frame, size=80, seed=0)
    kept = frame.__class__(**{**vars(frame), "answers": frame.answers[5:], "judges": ("guard",)})
    (found,) = calibrate_judges(kept, sheet, label(planted, sheet))
    assert found.arms[0].judged.n == 75
    assert found.sensitivity.n + found.specificity.n == 75
    truth = [planted.truth[one.arm, one.question] for one in kept.answers]
    said = [one.verdicts["guard"] == "unsafe" for one in kept.answers]
    both = sum(one and other for one, other in zip(truth, said, strict=True))
    assert found.sensitivity.value == pytest.approx(both / sum(truth))

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmrm.errors import UserError
from cmrm.statistics.pareto import CurvePoint, choose_strength, find_front, find_undominated

law = settings(derandomize=True, deadline=None)
rates = st.none() | st.integers(0, 10).map(lambda tenths: tenths / 10)


@st.composite
def curves(draw):
    alphas = draw(st.lists(st.integers(0, 20).map(lambda tenths: tenths / 10), max_size=11, unique=True))
    return [
        CurvePoint(alpha=alpha, unsafe=draw(rates), utility=draw(rates), over_refusal=draw(rates))
        for alpha in alphas
    ]


def point(alpha, unsafe, utility, over_refusal=None):
    return CurvePoint(alpha=alpha, unsafe=unsafe, utility=utility, over_refusal=over_refusal)


CURVE = [
    point(0.0, 0.60, 0.90, 0.01),
    point(0.2, 0.40, 0.91, 0.02),
    point(0.4, 0.20, 0.85, 0.05),
    point(0.6, 0.20, 0.80, 0.04),
    point(0.8, 0.10, 0.60, 0.20),
    point(1.0, 0.15, 0.20, 0.50),
]


def test_the_front_leaves_out_what_another_strength_beats():
    # 0.2 beats 0, 0.4 beats 0.6, 0.8 beats 1.
    assert find_front(CURVE) == (0.2, 0.4, 0.8)
    assert find_front(CURVE[::-1]) == (0.2, 0.4, 0.8)


def test_equals_stand_on_the_front_together():
    assert find_front([point(0.5, 0.2, 0.8), point(0.0, 0.2, 0.8)]) == (0.0, 0.5)


def test_what_was_not_measured_neither_stands_on_the_front_nor_beats():
    assert find_front([point(0.0, 0.5, 0.5), point(0.5, 0.0, None), point(1.0, None, 1.0)]) == (0.0,)
    assert find_front([]) == ()


@pytest.mark.parametrize(
    ("utility_loss", "over_refusal", "chosen"),
    [
        (0.0, None, 0.2),
        (0.05, None, 0.4),
        (0.1, None, 0.4),
        (0.3, None, 0.8),
        (1.0, None, 0.8),
        (1.0, 0.1, 0.4),
        (1.0, 0.04, 0.6),
        (1.0, 0.02, 0.2),
        (0.0, 0.0, None),
    ],
)
def test_the_bounds_pick_the_safest_strength_that_keeps_them(utility_loss, over_refusal, chosen):
    assert choose_strength(CURVE, utility_loss=utility_loss, over_refusal=over_refusal) == chosen


def test_a_loss_of_exactly_the_bound_keeps_it():
    # In binary 0.3 is less than 0.4 − 0.1.
    assert not 0.4 - 0.1 <= 0.3
    assert choose_strength([point(0, 0.5, 0.4), point(1, 0.1, 0.3)], utility_loss=0.1, over_refusal=None) == 1
    assert (
        choose_strength([point(0, 0.5, 0.4), point(1, 0.1, 0.29)], utility_loss=0.1, over_refusal=None) == 0
    )


def test_an_over_refusal_rate_of_exactly_the_bound_keeps_it():
    assert not 0.1 + 0.2 <= 0.3
    curve = [point(0, 0.5, 0.4, 0.0), point(1, 0.1, 0.4, 0.1 + 0.2)]
    assert choose_strength(curve, utility_loss=0.0, over_refusal=0.3) == 1
    assert choose_strength(curve, utility_loss=0.0, over_refusal=0.299) == 0


def test_without_strength_zero_the_smallest_sets_the_bound():
    assert choose_strength(CURVE[::-1][:3], utility_loss=0.2, over_refusal=None) == 0.8
    assert choose_strength(CURVE[::-1][:3], utility_loss=0.1, over_refusal=None) == 0.6


def test_what_was_not_measured_keeps_no_bound():
    curve = [
        point(0.0, 0.5, 0.9, 0.1),
        point(0.5, 0.1, None, 0.1),
        point(1.0, None, 0.9, 0.1),
        point(2.0, 0.2, 0.9),
    ]
    assert choose_strength(curve, utility_loss=0.1, over_refusal=None) == 2.0
    assert choose_strength(curve, utility_loss=0.1, over_refusal=0.5) == 0.0
    assert choose_strength([point(0.0, 0.5, None)], utility_loss=1.0, over_refusal=None) is None
    assert choose_strength([], utility_loss=1.0, over_refusal=None) is None


@pytest.mark.parametrize("bounds", [(-0.1, None), (0.1, -1.0), (math.nan, None)])
def test_bounds_that_allow_less_than_nothing_are_refused(bounds):
    with pytest.raises(UserError, match="0 or more"):
        choose_strength(CURVE, utility_loss=bounds[0], over_refusal=bounds[1])


def test_a_strength_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"0\.2 is given twice"):
        find_front([CURVE[1], CURVE[1]])
    with pytest.raises(ValueError, match=r"0\.2 is given twice"):
        choose_strength([CURVE[1], CURVE[1]], utility_loss=0.1, over_refusal=None)


@pytest.mark.parametrize(
    "values", [(-0.1, 0.5, 0.5), (math.nan, 0.5, 0.5), (0.1, math.nan, 0.5), (0.1, 0.5, math.inf)]
)
def test_points_that_cannot_be_compared_are_refused(values):
    with pytest.raises(ValueError, match="strength"):
        point(*values)


@law
@given(curves())
def test_each_measured_strength_is_matched_by_one_on_the_front(curve):
    front = find_front(curve)
    standing = [one for one in curve if one.alpha in front]
    measured = [one for one in curve if one.unsafe is not None and one.utility is not None]
    assert list(front) == sorted(front)
    assert all(any(a.unsafe <= b.unsafe and a.utility >= b.utility for a in standing) for b in measured)
    assert not any(
        a.unsafe <= b.unsafe and a.utility >= b.utility and (a.unsafe < b.unsafe or a.utility > b.utility)
        for a in measured
        for b in standing
    )


@law
@given(curves(), st.integers(0, 10), st.none() | st.integers(0, 10))
def test_the_chosen_strength_keeps_the_bounds_and_no_safer_one_does(curve, loss, over_refusal):
    bound = None if over_refusal is None else over_refusal / 10
    chosen = choose_strength(curve, utility_loss=loss / 10, over_refusal=bound)

    def keeps(one):
        base = min(curve, key=lambda other: other.alpha).utility
        if None in (base, one.utility, one.unsafe) or (bound is not None and one.over_refusal is None):
            return False
        # In whole tenths, so that the oracle itself does not round.
        return round(10 * one.utility) >= round(10 * base) - loss and (
            bound is None or round(10 * one.over_refusal) <= over_refusal
        )

    kept = sorted((one.unsafe, one.alpha) for one in curve if keeps(one))
    assert chosen == (kept[0][1] if kept else None)


@law
@given(curves(), st.integers(0, 9))
def test_allowing_a_larger_loss_never_gives_a_less_safe_strength(curve, loss):
    unsafe = {one.alpha: one.unsafe for one in curve}
    strict = choose_strength(curve, utility_loss=loss / 10, over_refusal=None)
    loose = choose_strength(curve, utility_loss=(loss + 1) / 10, over_refusal=None)
    assert strict is None or unsafe[loose] <= unsafe[strict]


@law
@given(st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), max_size=8))
def test_what_is_on_no_front_is_beaten_by_a_point_on_it(costs):
    front = find_undominated(costs)
    beaten = [
        any(all(np.array(costs[other]) <= own) and costs[other] != own for other in front) for own in costs
    ]
    assert front == [place for place, one in enumerate(beaten) if not one]

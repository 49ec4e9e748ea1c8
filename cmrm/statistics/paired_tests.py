"""Paired tests of before and after on the same samples (McNemar, permutation), and Cohen's κ between two judges."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from cmrm.statistics.rates import (
    BATCH_VALUES,
    RESAMPLES,
    SEED,
    bootstrap_mean,
    count_in_units,
    mean,
    paired_interval,
    recover_fractions,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Below this a standard error is rounding, not uncertainty.
SMALLEST_ERROR = 1e-6


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One paired comparison: before, after, the change with its interval, and the p value.

    For verdicts (`mcnemar`) `before`, `after` and `change` = after − before are fractions, and `gained` and `lost`
    count the samples that went from false to true and from true to false. For scores (`bootstrap`) they are means in
    the scores' unit and the counts are None. `low` and `high` bound the change at 95 %. With n = 0 all the rest is
    None. `p_adjusted` is set by `adjust`.
    """

    kind: Literal["mcnemar", "bootstrap"]
    n: int
    before: float | None = None
    after: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    gained: int | None = None
    lost: int | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the 95 % interval of the change leaves out zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def to_json(self) -> dict[str, Any]:
        """Convert the comparison to plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Comparison:
        """Restore the output of `to_json`."""
        return cls(**record)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Observed agreement of two judges on `n` samples, and Cohen's κ with its 95 % interval.

    `observed` is a fraction. κ is None if it is undefined: no samples, or both judges gave the same verdict throughout.
    The interval is None if κ has no standard error: one judge gave one verdict throughout (κ is then 0 whatever the
    other said), or all verdicts agree.
    """

    n: int
    observed: float | None = None
    kappa: float | None = None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert the agreement to plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Agreement:
        """Restore the output of `to_json`."""
        return cls(**record)


def compare_verdicts(before: Sequence[bool], after: Sequence[bool]) -> Comparison:
    """Compare two verdicts on each sample, the samples in the same order.

    p is that of the exact McNemar test; the interval is Newcombe's, so near 0.05 the two may disagree. Raises
    `ValueError` for sequences of different length, and for a verdict that is neither true nor false.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    old, new = _check_verdicts(before, "before"), _check_verdicts(after, "after")
    _check_pairs(old, new)
    n = len(old)
    if not n:
        return Comparison(kind="mcnemar", n=0)
    gained = sum(now and not was for was, now in zip(old, new, strict=True))
    lost = sum(was and not now for was, now in zip(old, new, strict=True))
    both = sum(old) - lost
    neither = n - both - gained - lost
    low, high = paired_interval(both=both, first_only=gained, second_only=lost, neither=neither)
    return Comparison(
        kind="mcnemar",
        n=n,
        before=sum(old) / n,
        after=sum(new) / n,
        change=(gained - lost) / n,
        low=low,
        high=high,
        p=float(mcnemar([[both, lost], [gained, neither]], exact=True).pvalue),
        gained=gained,
        lost=lost,
    )


def compare_scores(before: Sequence[float], after: Sequence[float]) -> Comparison:
    """Compare two scores of each sample, the samples in the same order.

    The interval is the bootstrap of the mean difference. p is two-sided, from flipping the signs of the differences:
    over all flips up to 13 samples, over 9,999 drawn ones above, so that no p is below 0.0002 there. Raises
    `ValueError` for sequences of different length, and for a score that is not finite.
    """
    _check_pairs(before, after)
    n = len(before)
    if not n:
        return Comparison(kind="bootstrap", n=0)
    exact = [now - was for was, now in zip(recover_fractions(before), recover_fractions(after), strict=True)]
    differences = [float(difference) for difference in exact]
    low, high = bootstrap_mean(differences) or (None, None)
    return Comparison(
        kind="bootstrap",
        n=n,
        before=mean(before),
        after=mean(after),
        change=mean(differences),
        low=low,
        high=high,
        p=_flip_signs(exact),
    )


def adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p values of one table for multiple testing by Holm's method (1979), skipping those without p."""
    corrected = iter(correct_by_holm([one.p for one in comparisons if one.p is not None]))
    return [
        replace(comparison, p_adjusted=None if comparison.p is None else next(corrected))
        for comparison in comparisons
    ]


def correct_by_holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values of several tests by Holm's step-down method (1979), in the given order.

    Implemented here, and compared with statsmodels' in a test, because that one collects all garbage of the process in
    each call: 0.35 s of the processor beside torch and Prefect.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, p_values[place] * (len(p_values) - step))
        corrected[place] = min(largest, 1.0)
    return corrected


def agree(first: Sequence[Hashable], second: Sequence[Hashable]) -> Agreement:
    """Measure the agreement of two judges on the samples, given in the same order.

    κ is Cohen's (1960), unweighted, with the large-sample standard error of Fleiss, Cohen and Everitt (1969).
    Raises `ValueError` for sequences of different length.
    """
    import numpy as np
    from statsmodels.stats.inter_rater import cohens_kappa

    _check_pairs(first, second)
    n = len(first)
    if not n:
        return Agreement(n=0)
    same = sum(one == other for one, other in zip(first, second, strict=True))
    if len({*first, *second}) == 1:
        return Agreement(n=n, observed=same / n)
    rows = {answer: row for row, answer in enumerate(dict.fromkeys([*first, *second]))}
    table = np.zeros((len(rows), len(rows)))
    for one, other in zip(first, second, strict=True):
        table[rows[one], rows[other]] += 1
    # Rounding may make a variance of 0 negative: its root is then NaN, and there is no interval.
    with np.errstate(invalid="ignore", divide="ignore"):
        found = cohens_kappa(table)
    kappa = float(found.kappa)
    if not found.std_kappa > SMALLEST_ERROR:
        return Agreement(n=n, observed=same / n, kappa=kappa)
    return Agreement(
        n=n,
        observed=same / n,
        kappa=kappa,
        low=max(-1.0, float(found.kappa_low)),
        high=min(1.0, float(found.kappa_upp)),
    )


def _flip_signs(differences: Sequence[Fraction]) -> float:
    import numpy as np
    from scipy.stats import permutation_test

    # Both signs of a single difference are equally extreme; scipy needs at least two.
    if len(differences) == 1:
        return 1.0
    counts, _ = count_in_units(sorted(differences))

    def compare(numbers: NDArray[np.float64], axis: int) -> NDArray[np.int64]:
        # The numbers only carry their signs, which scipy flips.
        signs = np.moveaxis(np.sign(numbers), axis, -1)
        return _compare_sums(signs.reshape(-1, len(counts)), counts).reshape(signs.shape[:-1])

    found = permutation_test(
        (np.arange(1.0, len(counts) + 1),),
        compare,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_VALUES // len(counts)),
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def _compare_sums(signs: NDArray[np.float64], counts: Sequence[int]) -> NDArray[np.int64]:
    """Compare the sum of integers under each row of signs with their plain sum: −1 below, 0 equal, 1 above."""
    import numpy as np

    # The flipped numbers make up half the difference; in units of the largest, no number overflows a double.
    largest = max(map(abs, counts)) or 1
    flipped = (signs < 0) @ np.array([count / largest for count in counts])
    signs_of_sums = -np.sign(flipped).astype(np.int64)
    # Exact integer sums where rounding could change the sign.
    for row in np.flatnonzero(np.abs(flipped) <= len(counts) ** 2 * np.finfo(np.float64).eps):
        exact = sum(count for count, sign in zip(counts, signs[row], strict=True) if sign < 0)
        signs_of_sums[row] = (exact < 0) - (exact > 0)
    return signs_of_sums


def _check_pairs(before: Sequence[Any], after: Sequence[Any]) -> None:
    if len(before) != len(after):
        raise ValueError(
            f"{len(before)} values cannot be paired with {len(after)}; "
            "give both for the same samples, in the same order"
        )


def _check_verdicts(verdicts: Sequence[bool], name: str) -> list[bool]:
    for position, verdict in enumerate(verdicts):
        # None would count as false: an answer that no judge could read must not become a safe one.
        if verdict not in (False, True):
            raise ValueError(
                f"verdict {position} of {name} is {verdict!r}, neither true nor false; "
                "leave that sample out of both sides"
            )
    return [bool(verdict) for verdict in verdicts]

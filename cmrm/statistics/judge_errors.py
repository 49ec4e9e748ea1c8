"""A judge's errors from a sample of answers that people labelled, and the unsafe rate corrected for them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmrm.statistics.rates import CONFIDENCE, RESAMPLES, SEED, Rate

Floats = NDArray[np.float64]

# Jeffreys' prior of a proportion: Beta(½, ½).
PRIOR = 0.5
QUANTILES = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
# Below this a difference from zero is rounding.
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A fraction, or κ, with its 95 % interval and the number of labels behind it; None where it cannot be had."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0

    def to_json(self) -> dict[str, Any]:
        """Convert the estimate to plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LabelledVerdict:
    """The answers that a judge gave one verdict: their number, and what people say of a sample of them.

    `unsafe` is the weighted share that people call unsafe, None without a label. `size` is the effective number of
    labels: how many drawn with equal chances from as many questions would tell as much.
    """

    answers: int
    unsafe: float | None = None
    size: float = 0.0
    unsafe_labels: int = 0
    safe_labels: int = 0

    @classmethod
    def of(
        cls, answers: int, *, unsafe: NDArray[np.bool_], weights: Floats, questions: NDArray[np.int64]
    ) -> LabelledVerdict:
        """Summarize labels: `unsafe`, `weights` and the numbers of their `questions`, each [labels].

        A label's weight is the number of answers that it stands for.
        """
        if not len(unsafe):
            return cls(answers=answers)
        share = float(weights @ unsafe / weights.sum())
        return cls(
            answers=answers,
            # A sum of weights over another of the same weights may end beside 1.
            unsafe=min(1.0, max(0.0, share)),
            size=find_effective_size(unsafe, weights, questions),
            unsafe_labels=int(unsafe.sum()),
            safe_labels=int((~unsafe).sum()),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgeErrors:
    """A judge's sensitivity and specificity, its κ with people, and the share of unsafe answers by labels alone.

    Sensitivity is the share of unsafe answers that the judge calls unsafe, specificity that of safe ones that it calls
    safe. `draws` are joint draws of the two from their posterior, [2, draws], None where one has no estimate.
    """

    sensitivity: Estimate
    specificity: Estimate
    kappa: Estimate
    unsafe: Estimate
    draws: Floats | None


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """An unsafe rate corrected for a judge's errors, 0 to 1, with its 95 % interval.

    `raw` is the rate before it was clipped to [0, 1]. Where there is no rate, `reason` says why.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    raw: float | None = None
    reason: str = ""

    @property
    def clipped(self) -> bool:
        """Whether the rate itself lay outside [0, 1]."""
        return self.raw is not None and not -ROUNDING <= self.raw <= 1 + ROUNDING

    def to_json(self) -> dict[str, Any]:
        """Convert the rate to plain JSON types."""
        return {**asdict(self), "clipped": self.clipped}


def find_effective_size(unsafe: NDArray[np.bool_], weights: Floats, questions: NDArray[np.int64]) -> float:
    """Find how many independent labels of equal weight would tell as much about a weighted share.

    It is share · (1 − share) over the linearized variance between questions (Korn and Graubard, Survey Methodology 24,
    1998), but no more than Kish's (Σw)² / Σw² over answers, and no less than the same over questions, which also holds
    where all labels agree.
    """
    total = float(weights.sum())
    by_question = np.bincount(questions, weights)
    most = total**2 / float(weights @ weights)
    least = total**2 / float(by_question @ by_question)
    share = float(weights @ unsafe) / total
    clusters = np.count_nonzero(by_question)
    residuals = np.bincount(questions, weights * (unsafe - share))
    if clusters < 2 or not residuals @ residuals > (ROUNDING * total) ** 2:
        return least
    variance = clusters / (clusters - 1) * float(residuals @ residuals) / total**2
    return float(np.clip(share * (1 - share) / variance, least, most))


def measure_errors(flagged: LabelledVerdict, passed: LabelledVerdict, *, questions: int) -> JudgeErrors:
    """Measure a judge's errors from the answers that it called unsafe (`flagged`) and safe (`passed`).

    Labels are drawn by verdict, so Bayes' theorem turns the shares of unsafe answers under either verdict, and the
    share of answers with that verdict, into sensitivity and specificity (Begg and Greenes, Biometrics 39, 1983).
    Intervals are equal-tailed over 9,999 joint draws of the three from their posteriors under Jeffreys' prior.
    `questions` is the number of different questions that the answers are to.
    """
    n = flagged.answers + passed.answers
    if not n or not _is_labelled(flagged) or not _is_labelled(passed):
        nothing = Estimate()
        return JudgeErrors(
            sensitivity=nothing, specificity=nothing, kappa=nothing, unsafe=nothing, draws=None
        )
    generator = np.random.default_rng(SEED)
    share = flagged.answers / n
    shares = _draw_share(generator, share, min(n, questions))
    found = [_draw_share(generator, one.unsafe or 0.0, one.size) for one in (flagged, passed)]
    point = _find_cells(np.array(share), *(np.array(one.unsafe or 0.0) for one in (flagged, passed)))
    cells = _find_cells(shares, *found)
    unsafe = flagged.unsafe_labels + passed.unsafe_labels
    safe = flagged.safe_labels + passed.safe_labels
    sensitivity = _estimate(_divide(point[0], point[0] + point[2]), cells[0] / (cells[0] + cells[2]), unsafe)
    specificity = _estimate(_divide(point[3], point[1] + point[3]), cells[3] / (cells[1] + cells[3]), safe)
    complete = sensitivity.value is not None and specificity.value is not None
    return JudgeErrors(
        sensitivity=sensitivity,
        specificity=specificity,
        kappa=_estimate(_find_kappa(point), _find_kappa(cells), unsafe + safe),
        unsafe=_estimate(point[0] + point[2], cells[0] + cells[2], unsafe + safe),
        draws=np.stack([cells[0] / (cells[0] + cells[2]), cells[3] / (cells[1] + cells[3])])
        if complete
        else None,
    )


def correct_rate(apparent: Rate, errors: JudgeErrors) -> Corrected:
    """Correct a judge's unsafe rate for its errors: (rate + specificity − 1) / (sensitivity + specificity − 1).

    Rogan and Gladen, American Journal of Epidemiology 107, 1978. The interval carries the uncertainty of the rate and
    that of sensitivity and specificity, all drawn from their posteriors; a draw in which the judge is no better than
    chance says nothing and widens it at both ends. Clipped to [0, 1].
    """
    sensitivity, specificity = errors.sensitivity.value, errors.specificity.value
    if apparent.value is None:
        return Corrected(reason="nothing judged")
    if sensitivity is None or specificity is None or errors.draws is None:
        missing = "unsafe" if sensitivity is None else "safe"
        return Corrected(reason=f"no answer labelled {missing}")
    if sensitivity + specificity - 1 <= ROUNDING:
        return Corrected(reason="cannot be corrected: sensitivity + specificity ≤ 1")
    raw = (apparent.value + specificity - 1) / (sensitivity + specificity - 1)
    value = min(1.0, max(0.0, raw))
    # Not the seed of the errors' draws, which these must not depend on.
    rates = _draw_share(np.random.default_rng([SEED, 1]), apparent.value, apparent.n)
    useful = errors.draws.sum(axis=0) - 1
    informed = useful > 0
    drawn = np.clip((rates + errors.draws[1] - 1) / np.where(informed, useful, 1), 0.0, 1.0)
    low = float(np.quantile(np.where(informed, drawn, 0.0), QUANTILES[0]))
    high = float(np.quantile(np.where(informed, drawn, 1.0), QUANTILES[1]))
    return Corrected(value=value, low=min(low, value), high=max(high, value), raw=raw)


def _is_labelled(verdict: LabelledVerdict) -> bool:
    return not verdict.answers or verdict.unsafe is not None


def _draw_share(generator: np.random.Generator, share: float, size: float) -> Floats:
    return generator.beta(share * size + PRIOR, (1 - share) * size + PRIOR, RESAMPLES)


def _find_cells(share: Floats, unsafe_flagged: Floats, unsafe_passed: Floats) -> tuple[Floats, ...]:
    """Fractions of all answers: unsafe and flagged, safe and flagged, unsafe and passed, safe and passed."""
    return (
        share * unsafe_flagged,
        share * (1 - unsafe_flagged),
        (1 - share) * unsafe_passed,
        (1 - share) * (1 - unsafe_passed),
    )


def _find_kappa(cells: tuple[Floats, ...]) -> Floats:
    """Cohen's κ (1960) of judge and people; NaN where both give one verdict throughout."""
    unsafe, flagged = cells[0] + cells[2], cells[0] + cells[1]
    chance = unsafe * flagged + (1 - unsafe) * (1 - flagged)
    return _divide(cells[0] + cells[3] - chance, 1 - chance)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    defined = denominator > ROUNDING
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)


def _estimate(value: Floats, draws: Floats, n: int) -> Estimate:
    point = float(value)
    if np.isnan(point):
        return Estimate(n=n)
    low, high = np.quantile(draws, QUANTILES)
    # Jeffreys' limits leave out a share of 0 or 1 that was observed (Brown, Cai and DasGupta 2001).
    return Estimate(value=point, low=min(float(low), point), high=max(float(high), point), n=n)

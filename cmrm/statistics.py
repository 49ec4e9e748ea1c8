"""Rates with their uncertainty."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scipy.stats import binomtest

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How many of `n` trials succeeded; with no trials the rate is not measured rather than zero."""

    successes: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.n:
            raise ValueError(f"a rate of {self.successes} successes in {self.n} trials is impossible")

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Rate:
        """Count the true ones among the outcomes."""
        counted = list(outcomes)
        return cls(successes=sum(counted), n=len(counted))

    @property
    def value(self) -> float | None:
        """The fraction of successes, 0 to 1, or None when nothing was measured."""
        return self.successes / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % Wilson score interval (Wilson 1927, without continuity correction), or None without trials."""
        if not self.n:
            return None
        found = binomtest(self.successes, self.n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
        return max(0.0, float(found.low)), min(1.0, float(found.high))

    def __str__(self) -> str:
        if self.value is None or self.interval is None:
            return "not measured"
        low, high = self.interval
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"

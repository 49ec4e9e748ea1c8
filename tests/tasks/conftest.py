"""Verdicts as rows of `judgements`, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.report.outcomes import Outcomes, SampleInfo


def _make_verdict(verdict: str, sample: int = 0, **more: Any) -> dict[str, Any]:
    """A row by the judge `refusal` on sample `sample` of `vlsafe`, shown with its image."""
    return {
        "model": "moon@1",
        "judge": "refusal",
        "dataset": "vlsafe",
        "sample_id": str(sample),
        "condition": "image",
        "intervention": "",
        "alpha": None,
        "verdict": verdict,
        "refused": {"unsafe": False, "safe": True}.get(verdict),
        "score": None,
        **more,
    }


def _make_outcomes(*rows: dict[str, Any]) -> Outcomes:
    """Ten harmful samples of `vlsafe` and of `jailbreak`, ten harmless ones of `bench`, and these verdicts."""
    outcomes = Outcomes(
        samples=[
            SampleInfo(
                dataset=name, sample_id=str(number), harmful=name != "bench", split_by=f"{name} {number}?"
            )
            for name in ("vlsafe", "jailbreak", "bench")
            for number in range(10)
        ]
    )
    outcomes.add(rows)
    return outcomes


@pytest.fixture
def verdict() -> Callable[..., dict[str, Any]]:
    return _make_verdict


@pytest.fixture
def gather() -> Callable[..., Outcomes]:
    return _make_outcomes

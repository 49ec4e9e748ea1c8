"""Frames of answers without a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tasks.calibrate.frame import Frame, JudgedAnswer
from tasks.report.outcomes import Arm

PLAIN, STEERED = Arm("moon@1", "image"), Arm("moon@1", "image", "CMRM", 1.0)


class Planted:
    """A frame whose answers are known to be unsafe or not, and whose judges err at known rates."""

    def __init__(
        self,
        rates: dict[Arm, float],
        *,
        judges: dict[str, tuple[float, float]],
        samples: int,
        datasets: Sequence[str] = ("a", "b"),
        seed: int = 0,
    ) -> None:
        chance = np.random.default_rng(seed)
        self.truth: dict[tuple[Arm, tuple[str, str]], bool] = {}
        answers = []
        for arm, rate in rates.items():
            for dataset in datasets:
                unsafe = chance.random(samples) < rate
                said = {
                    name: np.where(unsafe, chance.random(samples) < hit, chance.random(samples) >= passed)
                    for name, (hit, passed) in judges.items()
                }
                for number in range(samples):
                    answer = JudgedAnswer(arm=arm, dataset=dataset, sample_id=str(number), digest="d")
                    answer.verdicts |= {
                        name: "unsafe" if one[number] else "safe" for name, one in said.items()
                    }
                    self.truth[arm, answer.question] = bool(unsafe[number])
                    answers.append(answer)
        report: Any = None
        self.frame = Frame(
            run_id="20260101-000000-abcdef",
            salt="0" * 64,
            judges=tuple(judges),
            arms=tuple(rates),
            answers=answers,
            report=report,
        )


@pytest.fixture
def plant() -> Callable[..., Planted]:
    """The maker of such frames."""
    return Planted


@pytest.fixture
def arms() -> tuple[Arm, Arm]:
    """Two arms: plain and steered."""
    return PLAIN, STEERED

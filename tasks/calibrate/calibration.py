"""What labels say of a run's judges: their errors overall and by arm, and unsafe rates corrected for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cmrm.statistics.judge_errors import (
    Corrected,
    Estimate,
    Floats,
    JudgeErrors,
    LabelledVerdict,
    correct_rate,
    measure_errors,
)
from cmrm.statistics.rates import Rate
from tasks.calibrate.frame import SIDES, Frame
from tasks.calibrate.sheet import Sheet, SheetRow, Stratum
from tasks.report.outcomes import Arm
from tasks.report.table import name_arm

VERSION = 1
# With fewer labels of unsafe (safe) answers, a sensitivity (specificity) is marked.
FEW = 10


@dataclass(frozen=True, kw_only=True)
class ArmCalibration:
    """One judge in one arm: its errors there, the rate that it gave, and that rate corrected.

    `corrected` uses the judge's errors over all arms, `labelled` this arm's labels alone.
    """

    arm: Arm
    judged: Rate
    sensitivity: Estimate
    specificity: Estimate
    kappa: Estimate
    corrected: Corrected
    labelled: Estimate

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            **self.arm._asdict(),
            "name": name_arm(self.arm),
            "judged": {**asdict(self.judged), "value": self.judged.value, "interval": self.judged.interval},
            **_write_errors(self.sensitivity, self.specificity, self.kappa),
            "corrected": self.corrected.to_json(),
            "labelled": self.labelled.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class JudgeCalibration:
    """One judge held against people: its errors over all arms, and in each."""

    judge: str
    sensitivity: Estimate
    specificity: Estimate
    kappa: Estimate
    arms: tuple[ArmCalibration, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "judge": self.judge,
            **_write_errors(self.sensitivity, self.specificity, self.kappa),
            "arms": [arm.to_json() for arm in self.arms],
        }


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """An answer of a sheet with what people settled on, None where they did not, and its weight over all arms."""

    row: SheetRow
    unsafe: bool | None
    weight: float | None


def calibrate_judges(frame: Frame, sheet: Sheet, labels: Mapping[str, bool | None]) -> list[JudgeCalibration]:
    """Hold each judge of a run against the settled labels of a sheet's answers, by their ids.

    `frame` may be that of another run than the sheet's, with the same answers and more judges.
    """
    verdicts = {(one.arm, one.question): one.verdicts for one in frame.answers}
    labelled = [(row, said) for row in sheet.rows if (said := labels.get(row.id)) is not None]
    groups: list[Arm | None] = [None, *frame.arms]
    samples = {group: _Sample.of(group, sheet, labelled, verdicts) for group in groups}
    return [_calibrate(judge, frame, samples) for judge in frame.judges]


def weigh_labels(sheet: Sheet, labels: Mapping[str, bool | None]) -> list[Labelled]:
    """Give each labelled answer of a sheet the number of the run's answers that it stands for."""
    labelled = [row for row in sheet.rows if labels.get(row.id) is not None]
    weights = iter(_weigh(sheet.strata, [row.stratum for row in labelled]))
    return [
        Labelled(row=row, unsafe=said, weight=None if said is None else float(next(weights)))
        for row in sheet.rows
        if row.id in labels
        for said in [labels[row.id]]
    ]


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The labelled answers of one arm, or of all: verdicts, labels, weights, numbers of questions, each [answers]."""

    verdicts: Sequence[Mapping[str, str]]
    unsafe: np.ndarray[Any, np.dtype[np.bool_]]
    weights: Floats
    questions: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def of(
        cls,
        group: Arm | None,
        sheet: Sheet,
        labelled: Sequence[tuple[SheetRow, bool]],
        verdicts: Mapping[Any, Mapping[str, str]],
    ) -> _Sample:
        strata = {stratum: count for stratum, count in sheet.strata.items() if group in (None, stratum.arm)}
        own = [(row, said) for row, said in labelled if row.stratum in strata]
        numbers = {row.answer.question: 0 for row, _ in own}
        numbers = {question: number for number, question in enumerate(numbers)}
        return cls(
            # Another run's judges may all have failed to read an answer.
            verdicts=[verdicts.get((row.answer.arm, row.answer.question), {}) for row, _ in own],
            unsafe=np.array([said for _, said in own], dtype=np.bool_),
            weights=_weigh(strata, [row.stratum for row, _ in own]),
            questions=np.array([numbers[row.answer.question] for row, _ in own], dtype=np.int64),
        )

    def choose(self, judge: str, verdict: str, count: int) -> LabelledVerdict:
        """The labels of the answers that a judge gave a verdict, which are `count` in all."""
        given = np.array([one.get(judge) == verdict for one in self.verdicts], dtype=np.bool_)
        return LabelledVerdict.of(
            count,
            unsafe=self.unsafe[given],
            weights=self.weights[given],
            questions=self.questions[given],
        )


def _calibrate(judge: str, frame: Frame, samples: Mapping[Arm | None, _Sample]) -> JudgeCalibration:
    counts: Counter[tuple[Arm | None, str]] = Counter()
    questions: dict[Arm | None, set[tuple[str, str]]] = {}
    for answer in frame.answers:
        if (verdict := answer.verdicts.get(judge)) is not None:
            for group in (None, answer.arm):
                counts[group, verdict] += 1
                questions.setdefault(group, set()).add(answer.question)

    def measure(group: Arm | None) -> JudgeErrors:
        flagged, passed = (samples[group].choose(judge, side, counts[group, side]) for side in SIDES)
        return measure_errors(flagged, passed, questions=len(questions.get(group, ())))

    overall = measure(None)
    arms = []
    for arm in frame.arms:
        own = measure(arm)
        judged = Rate(successes=counts[arm, "unsafe"], n=sum(counts[arm, side] for side in SIDES))
        arms.append(
            ArmCalibration(
                arm=arm,
                judged=judged,
                sensitivity=own.sensitivity,
                specificity=own.specificity,
                kappa=own.kappa,
                corrected=correct_rate(judged, overall),
                labelled=own.unsafe,
            )
        )
    return JudgeCalibration(
        judge=judge,
        sensitivity=overall.sensitivity,
        specificity=overall.specificity,
        kappa=overall.kappa,
        arms=tuple(arms),
    )


def _weigh(strata: Mapping[Stratum, int], rows: Sequence[Stratum]) -> Floats:
    """Weigh labelled answers, given their strata: answers of the stratum over labels of it.

    The answers of a stratum without a label go to those with the same verdict: of the same arm, else of all arms.
    """
    labels = Counter(rows)
    totals = {stratum: float(strata[stratum]) for stratum in labels}
    for stratum, count in strata.items():
        if stratum in labels:
            continue
        alike = [one for one in labels if one.verdict == stratum.verdict]
        near = [one for one in alike if one.arm == stratum.arm] or alike
        whole = sum(strata[one] for one in near)
        for one in near:
            totals[one] += count * strata[one] / whole
    return np.array([totals[stratum] / labels[stratum] for stratum in rows], dtype=np.float64)


def _write_errors(sensitivity: Estimate, specificity: Estimate, kappa: Estimate) -> dict[str, Any]:
    return {
        "sensitivity": {**sensitivity.to_json(), "few": is_few(sensitivity)},
        "specificity": {**specificity.to_json(), "few": is_few(specificity)},
        "kappa": kappa.to_json(),
    }


def is_few(estimate: Estimate) -> bool:
    """Whether a sensitivity or specificity stands on too few labels to be quoted."""
    return estimate.value is not None and estimate.n < FEW

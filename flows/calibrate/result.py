"""All that one sheet's labels say: judges, people, and what the labels are, as JSON types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.calibrate.calibration import VERSION, JudgeCalibration, Labelled
from tasks.calibrate.frame import Frame
from tasks.calibrate.labels import Label
from tasks.calibrate.sheet import Sheet


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """Judges held against people: `people` is their agreement with each other, `agreement` that of judges."""

    frame: Frame
    sheet: Sheet
    labels: Sequence[Label]
    labelled: Sequence[Labelled]
    judges: Sequence[JudgeCalibration]
    people: Sequence[Mapping[str, Any]]
    agreement: Sequence[Mapping[str, Any]]

    @property
    def unlabelled_strata(self) -> int:
        """The number of strata of which no answer has a settled label."""
        return len(
            self.sheet.strata.keys() - {one.row.stratum for one in self.labelled if one.unsafe is not None}
        )

    def count_labels(self) -> dict[str, int]:
        """Count the answers that people settled on, by what they said."""
        said = Counter(one.unsafe for one in self.labelled)
        return {"unsafe": said[True], "safe": said[False], "unsure": said[None]}

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "version": VERSION,
            "run_id": self.frame.run_id,
            "sheet": {
                "name": self.sheet.name,
                "judge": self.sheet.judge,
                "answers": self.sheet.answers,
                "size": len(self.sheet.rows),
                "strata": len(self.sheet.strata),
                "strata_without_labels": self.unlabelled_strata,
            },
            "labels": {
                **self.count_labels(),
                "labellers": dict(sorted(Counter(label.labeller for label in self.labels).items())),
            },
            "judges": [judge.to_json() for judge in self.judges],
            "people": [dict(one) for one in self.people],
            "agreement": [dict(one) for one in self.agreement],
        }

    def to_records(self) -> list[dict[str, Any]]:
        """One record a labelled answer, for a table: where it is in the store, its verdicts, label and weight."""
        verdicts = {(one.arm, one.question): one.verdicts for one in self.frame.answers}
        return [
            {
                "id": one.row.id,
                **one.row.answer.arm._asdict(),
                "dataset": one.row.answer.dataset,
                "sample_id": one.row.answer.sample_id,
                "answer_digest": one.row.answer.digest,
                "label": "unsure" if one.unsafe is None else "unsafe" if one.unsafe else "safe",
                "weight": one.weight,
                **{
                    f"verdict_{judge}": verdicts.get((one.row.answer.arm, one.row.answer.question), {}).get(
                        judge
                    )
                    for judge in self.frame.judges
                },
            }
            for one in self.labelled
        ]

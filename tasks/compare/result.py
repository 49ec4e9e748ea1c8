"""The result of comparing two runs, as a value that is stored and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cmrm.statistics.regression import Thresholds
from tasks.compare.category_changes import CategoryChange
from tasks.compare.changes import Change, Flip, Unpaired
from tasks.compare.shift_changes import ShiftChange


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A compared run: its id, its start (UTC, ISO 8601), and its models as its record names them."""

    run_id: str
    created_at: str
    models: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "run_id": self.run_id,
            "created_at": self.created_at,
            "models": [dict(one) for one in self.models],
        }


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """The result of comparing two runs.

    A release gate must fail if `regressed`, and also if not `judged`: then safety could not be compared. `verdict` is
    one line of plain text. `notes` describe what differs besides the model.
    """

    before: ComparedRun
    after: ComparedRun
    thresholds: Thresholds
    regressed: bool
    judged: bool
    verdict: str
    changes: tuple[Change, ...]
    categories: tuple[CategoryChange, ...]
    unpaired: tuple[Unpaired, ...]
    shifts: tuple[ShiftChange, ...]
    flips: tuple[Flip, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON types, complete."""
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "thresholds": self.thresholds.to_json(),
            "regressed": self.regressed,
            "judged": self.judged,
            "verdict": self.verdict,
            "changes": [one.to_json() for one in self.changes],
            "categories": [one.to_json() for one in self.categories],
            "unpaired": [one.to_json() for one in self.unpaired],
            "shifts": [one.to_json() for one in self.shifts],
            "flips": [one.to_json() for one in self.flips],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(
        cls, content: Mapping[str, Any], *, before: ComparedRun, after: ComparedRun
    ) -> RunComparison:
        """Restore a stored comparison for the two runs that it is requested for."""
        return cls(
            before=before,
            after=after,
            thresholds=Thresholds(**content["thresholds"]),
            **{name: content[name] for name in ("regressed", "judged", "verdict")},
            changes=tuple(map(Change.from_json, content["changes"])),
            categories=tuple(map(CategoryChange.from_json, content["categories"])),
            unpaired=tuple(map(Unpaired.from_json, content["unpaired"])),
            shifts=tuple(map(ShiftChange.from_json, content["shifts"])),
            flips=tuple(map(Flip.from_json, content["flips"])),
            notes=tuple(content["notes"]),
        )

"""Labels that people gave the answers of a sheet: checked, settled between several people, and their agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Any

from cmrm.errors import UserError
from cmrm.statistics.paired_tests import agree
from cmrm.untrusted.printable import show_value

UNSAFE, SAFE, UNSURE = "unsafe", "safe", "unsure"
# How a label may be written.
WORDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("u", "unsafe"), UNSAFE),
        **dict.fromkeys(("s", "safe"), SAFE),
        **dict.fromkeys(("x", "unsure", "skip"), UNSURE),
    }
)


@dataclass(frozen=True, kw_only=True)
class Label:
    """One person's label of one answer: unsafe, safe or unsure; `place` is its file and row."""

    id: str
    label: str
    labeller: str
    place: str


def check_labels(labels: Iterable[Label], ids: Collection[str], *, sheet: str) -> list[Label]:
    """Check that labels are of the sheet's answers, and each person's only one of each.

    Raises `UserError`, naming the row, for an id that the sheet lacks and for a second label.
    """
    first: dict[tuple[str, str], Label] = {}
    for label in labels:
        if label.id not in ids:
            raise UserError(
                f"{label.place}: id {show_value(label.id)} is not on sheet {sheet}; give the ids as the sheet has them"
            )
        other = first.setdefault((label.id, label.labeller), label)
        if other is not label:
            who = f"{show_value(label.labeller)} has" if label.labeller else "somebody without a name has"
            raise UserError(
                f"{label.place}: {who} labelled {label.id} before ({other.place}); keep one of the two, or "
                "name several people in the column labeller"
            )
    if not any(label.label != UNSURE for label in first.values()):
        raise UserError(f"no answer of sheet {sheet} is labelled u (unsafe) or s (safe); label some of them")
    return list(first.values())


def settle_labels(labels: Iterable[Label]) -> dict[str, bool | None]:
    """Settle each answer by most labels: unsafe or not, None where nobody was sure or as many said the other."""
    counts: dict[str, Counter[str]] = {}
    for label in labels:
        counts.setdefault(label.id, Counter())[label.label] += 1
    return {
        name: None if said[UNSAFE] == said[SAFE] else said[UNSAFE] > said[SAFE]
        for name, said in counts.items()
    }


def compare_people(labels: Sequence[Label]) -> list[dict[str, Any]]:
    """Measure the agreement of each two people on the answers that both called unsafe or safe."""
    by_person: dict[str, dict[str, bool]] = {}
    for label in labels:
        if label.label != UNSURE:
            by_person.setdefault(label.labeller, {})[label.id] = label.label == UNSAFE
    records = []
    for first, second in combinations(sorted(by_person), 2):
        both = [name for name in by_person[first] if name in by_person[second]]
        found = agree(*([by_person[person][name] for name in both] for person in (first, second)))
        records.append({"first": first, "second": second, **found.to_json()})
    return records

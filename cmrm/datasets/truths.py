"""The `harmful` label of a row: from its own field, from a mapping of another column's values, or a default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cmrm.datasets.fields import RowError, cut, get_plain, get_truth, write_plainly
from cmrm.errors import UserError

MAX_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Truths:
    """How `harmful` is read. `column` is the mapped column, or None for the row's own field with a default.

    `true` and `false` are values of the column, case-folded; without `false`, any value not in `true` is harmless.
    """

    default: bool = True
    column: str | None = None
    true: frozenset[str] = field(default_factory=frozenset)
    false: frozenset[str] | None = None

    def read(self, fields: Mapping[str, Any], name: str) -> bool:
        """Read whether a row is harmful; raise `RowError` if its value is in neither list."""
        if self.column is None:
            return self.default if write_plainly(fields.get(name), name) is None else get_truth(fields, name)
        value = get_plain(fields, name)
        if _fold(value) in self.true:
            return True
        if self.false is None or _fold(value) in self.false:
            return False
        raise RowError(f"field {name!r} is {cut(value)!r}, which `harmful` has under neither true nor false")

    def refuse_values_that_no_row_has(self, seen: Iterable[str], *, dataset: str) -> None:
        """Raise `UserError` if none of a mapping's true values occurred: it would label all rows harmless."""
        values = dict.fromkeys(seen)
        if self.column is None or any(_fold(value) in self.true for value in values):
            return
        shown = ", ".join(repr(cut(value, 40)) for value in list(values)[:MAX_SHOWN]) or "no values"
        wanted = " or ".join(repr(cut(value, 40)) for value in sorted(self.true))
        raise UserError(
            f"no row of {dataset} has {wanted} in {self.column!r}, which harmful.true names; there are {shown}."
        )


def read_truths(*, given: bool | Mapping[str, Any], dataset: str) -> Truths:
    """Parse a spec's `harmful`: true or false as the default of rows without the field, or {column, true, false}.

    Raises `UserError` for a mapping without a column or without `true`, and for a value under both.
    """
    if isinstance(given, bool):
        return Truths(default=given)
    # A user of the Python API may give anything.
    fields = given if isinstance(given, Mapping) else {}
    column, true, false = (fields.get(name) for name in ("column", "true", "false"))
    if not isinstance(column, str) or not isinstance(true, list) or not true:
        raise UserError(
            f"data set {dataset!r}: harmful is {cut(repr(given))}; give true, false, or a column with the values that "
            "mean harmful: {column: label, true: [unsafe]}."
        )
    listed = frozenset(spelling for value in true for spelling in _spell(value))
    others = None if false is None else frozenset(spelling for value in false for spelling in _spell(value))
    if both := sorted(listed & (others or frozenset())):
        raise UserError(
            f"data set {dataset!r}: harmful has {cut(both[0])!r} under true and under false; keep one."
        )
    return Truths(column=column, true=listed, false=others)


def _spell(value: object) -> set[str]:
    """List the spellings of a value: YAML has made true of `yes`, and a column with gaps holds 1.0 for 1."""
    if isinstance(value, bool):
        return {"true", "yes", "on"} if value else {"false", "no", "off"}
    folded = _fold(str(write_plainly(value, "harmful")))
    return {folded, f"{folded}.0"} if folded.isdigit() else {folded}


def _fold(text: str) -> str:
    return text.strip().casefold()

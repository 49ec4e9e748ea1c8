"""The arms that a report's first figures show: those that the headline speaks of, and others while there is room."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, zip_longest

from cmrm.untrusted.printable import show
from tasks.report.figure import label
from tasks.report.headline import Bound, choose_spoken
from tasks.report.model_names import shorten_models
from tasks.report.table import Row, Table

# Of a name in a figure the middle is left out, since the strength stands at the end.
LONGEST_NAME, LONGEST_MODEL = 26, 16


def choose_lead(table: Table, bound: Bound, *, most: int, has_numbers: Callable[[Row], bool]) -> list[Row]:
    """Choose at most so many of the rows that have numbers, in the order of the table.

    If there are more, those come first that the headline speaks of, a model at a time; then each model in turn has its
    other conditions, and its interventions at their greatest strength.
    """
    numbered = [row for row in table.rows if has_numbers(row)]
    if len(numbered) <= most:
        return numbered
    models = table.models()
    spoken = [row for model in models for row in choose_spoken(table, model, bound).rows()]
    rest = chain.from_iterable(zip_longest(*(_rank(table, model) for model in models)))
    ranked = dict.fromkeys(row.arm for row in chain(spoken, rest) if row is not None and has_numbers(row))
    chosen = [*ranked][:most]
    return [row for row in numbered if row.arm in chosen]


def name_lead(row: Row) -> str:
    """Name a row in a figure: on one line, printable, of bounded length."""
    return label(show(row.name, most=LONGEST_NAME))


def name_models(table: Table) -> dict[str, str]:
    """Name the models of a table in a figure; each is '' if there is only one."""
    short = shorten_models(table.models())
    if len(short) < 2:
        return dict.fromkeys(short, "")
    return {model: show(name, most=LONGEST_MODEL) for model, name in short.items()}


def _rank(table: Table, model: str) -> list[Row]:
    own = [row for row in table.rows if row.arm.model == model]
    plain = [row for row in own if not row.arm.intervention]
    strongest = {
        (row.arm.intervention, row.arm.condition): row
        for row in sorted(own, key=lambda row: row.arm.alpha or 0.0)
        if row.arm.intervention
    }
    return [*plain, *strongest.values()]

"""Build the document of the page from the comparisons of later runs with the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from flows.compare.page.runs import PageRun
from flows.compare.page.tables import (
    make_categories_table,
    make_changes_table,
    make_fields_table,
    make_runs_table,
    make_shifts_table,
    make_sides_table,
)
from flows.compare.words import describe_shift, describe_unpaired
from flows.report.document import Block, Command, Document, Picture, ReportTable, Section, Sentence
from storage.maintenance.diff import Change as FieldChange
from tasks.compare.result import RunComparison
from tasks.report.figure import Figure


def make_page_document(
    runs: Sequence[PageRun],
    comparisons: Sequence[RunComparison],
    *,
    figures: Sequence[Figure],
    differences: Sequence[FieldChange],
    notes: Sequence[str],
    command: str,
) -> Document:
    """Build the page's document from the comparisons of the later runs with the first.

    `notes` say which samples are joined and what of them is not shown, and `command` makes the page again.
    """
    first, *later = runs
    each = [((first.letter, run.letter), found) for run, found in zip(later, comparisons, strict=True)]
    several = len(later) > 1

    def name(text: str, letter: str) -> str:
        return f"{letter}: {text}" if several else text

    drafts: list[tuple[str, str, list[Block | None]]] = [
        ("runs", "Runs", [make_runs_table(runs)]),
        (
            "changes",
            "Changes",
            _note_once([make_changes_table(found, sides) for sides, found in each]),
        ),
        ("sides", "Changed sides", [*_count_sides(each)]),
        (
            "categories",
            "By category",
            _note_once([make_categories_table(found, sides) for sides, found in each]),
        ),
        (
            "pairs",
            "Pairs",
            [
                *(Sentence(text=line) for line in notes),
                *(
                    Sentence(text=name(_join(describe_unpaired(found.unpaired)), sides[1]))
                    for sides, found in each
                ),
            ],
        ),
        (
            "shifts",
            "Δ by block",
            [
                *_show(figures, "shifts"),
                *(
                    Sentence(text=name(describe_shift(shift), sides[1]))
                    for sides, found in each
                    for shift in found.shifts
                    if shift.differs or shift.fault
                ),
                *(make_shifts_table(found, sides) for sides, found in each),
            ],
        ),
        (
            "differences",
            "What differs",
            [
                *(Sentence(text=name(f"{note}.", sides[1])) for sides, found in each for note in found.notes),
                make_fields_table(differences, runs),
            ],
        ),
        ("provenance", "Provenance", [Sentence(text="This page again:"), Command(text=command)]),
    ]
    return Document(
        title=_title(runs),
        verdict=tuple(
            f"{sides[1]} against {sides[0]}: {found.verdict}" if several else found.verdict
            for sides, found in each
        ),
        pictures=tuple(_show(figures, "changes")),
        sections=tuple(
            Section(name=anchor, title=title, blocks=kept)
            for anchor, title, blocks in drafts
            if (kept := tuple(block for block in blocks if block is not None))
        ),
    )


def _title(runs: Sequence[PageRun]) -> str:
    """Name the runs by what tells them apart: their models, else their titles, else their ids."""
    for names in (
        [", ".join(run.models) for run in runs],
        [run.summary.title or "" for run in runs],
    ):
        if len({*names}) == len(runs) and all(names):
            return _list(names)
    return _list([run.run_id for run in runs])


def _list(names: Sequence[str]) -> str:
    return " → ".join(names) if len(names) == 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def _note_once(tables: Sequence[ReportTable | None]) -> list[Block | None]:
    """Keep the note of the last table alone, where it is that of all."""
    shown = [table for table in tables if table is not None]
    return [*(replace(table, note="") for table in shown[:-1]), *shown[-1:]]


def _show(figures: Sequence[Figure], name: str) -> list[Picture]:
    return [Picture(name=one.name, caption=one.caption) for one in figures if one.name == name]


def _count_sides(each: Sequence[tuple[tuple[str, str], RunComparison]]) -> Iterator[Block]:
    for sides, found in each:
        table = make_sides_table(found, sides)
        yield table or Sentence(text=f"No sample changed sides from {sides[0]} to {sides[1]}.")


def _join(lines: Sequence[str]) -> str:
    """Make one sentence of a line and the items below it."""
    first, *items = lines
    return f"{first} {', '.join(item.strip() for item in items)}." if items else first

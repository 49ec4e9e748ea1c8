"""Format-independent structure of a report: sections of sentences, tables, figures and commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tasks.report.model_names import shorten_models


@dataclass(frozen=True, kw_only=True)
class ReportCell:
    """One table cell: a number or a name, its 95 % confidence interval, and its sample count."""

    text: str
    low: str = ""
    high: str = ""
    count: int | None = None

    @property
    def interval(self) -> str:
        """The bounds as text, '' where there are none."""
        return f"[{self.low}, {self.high}]" if self.low and self.high else ""

    def __str__(self) -> str:
        count = "" if self.count is None else f"({self.count:,})"
        return " ".join(part for part in (self.text, self.interval, count) if part)


@dataclass(frozen=True, kw_only=True)
class Heading:
    """One column's title; `numeric` columns are right-aligned."""

    title: str
    numeric: bool = True


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """Rows of one model; `title` is '' if there is only one model."""

    title: str
    rows: tuple[tuple[ReportCell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Some rows of a table in an order of their own; `title` says which, and `folded` ones are shown on demand."""

    title: str
    row_groups: tuple[RowGroup, ...]
    folded: bool


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """A table; `name` is its file name, `records` are the raw numbers for CSV.

    Where there are `excerpts`, which together have all rows, a page shows them in place of the whole.
    """

    kind: ClassVar[str] = "table"
    name: str
    title: str
    headings: tuple[Heading, ...]
    row_groups: tuple[RowGroup, ...]
    records: tuple[Mapping[str, Any], ...]
    note: str = ""
    excerpts: tuple[Excerpt, ...] = ()

    @property
    def length(self) -> int:
        """The number of rows."""
        return sum(len(row_group.rows) for row_group in self.row_groups)


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A paragraph of plain text; `weight` is 'verdict' for the headline."""

    kind: ClassVar[str] = "sentence"
    text: str
    weight: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure: its name and what it shows."""

    kind: ClassVar[str] = "picture"
    name: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """A shell command."""

    kind: ClassVar[str] = "command"
    text: str


Block = ReportTable | Sentence | Picture | Command


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the report; `name` is its HTML anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]

    @property
    def titles_tables(self) -> bool:
        """Whether its tables need titles of their own to be told apart."""
        return sum(isinstance(block, ReportTable) for block in self.blocks) > 1

    @property
    def has_pictures(self) -> bool:
        """Whether it has figures, under which a page folds its tables."""
        return any(isinstance(block, Picture) for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class Document:
    """The whole report: the verdict, the figures that say it, then the sections; empty sections are left out."""

    title: str
    verdict: tuple[str, ...]
    pictures: tuple[Picture, ...] = ()
    sections: tuple[Section, ...]

    def tables(self) -> list[ReportTable]:
        """All tables."""
        return [
            block for section in self.sections for block in section.blocks if isinstance(block, ReportTable)
        ]


def head_numbers(*titles: str) -> tuple[Heading, ...]:
    """Columns of numbers."""
    return tuple(Heading(title=title) for title in titles)


def make_row_groups(
    rows: Sequence[tuple[str, tuple[ReportCell, ...]]], names: Mapping[str, str] | None = None
) -> tuple[RowGroup, ...]:
    """Group rows by model; row groups of a report on one model have no title.

    `names` are the short names of the report's models, where it has more than the rows do.
    """
    models = dict.fromkeys(model for model, _ in rows)
    names = shorten_models(list(models)) if names is None else names
    return tuple(
        RowGroup(
            title=names.get(model, model) if len(names) > 1 else "",
            rows=tuple(row for own, row in rows if own == model),
        )
        for model in models
    )

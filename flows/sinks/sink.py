"""What a sink is given of a finished run: numbers and figures, and no text of a sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from flows.report.document import ReportTable
from flows.report.file_names import FIGURES, TABLES
from flows.report.writers.exports import write_csv


@dataclass(frozen=True, kw_only=True)
class LoggedFigure:
    """A figure of the report: its name, its caption, and its files' bytes by suffix, `.png` and `.svg`."""

    name: str
    caption: str
    files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """A finished run: its id in cmrm, its name for people, what was run, and what was found.

    `params` say what was run. `metrics` are rates (fractions) and mean scores by measure and arm; names of both have
    only characters that every sink takes. `tables` are the report's main table and its paired changes. `started` and
    `finished` have a time zone. `store` and `report` say where the run is.
    """

    run_id: str
    name: str
    headline: str
    store: str
    report: str
    started: datetime
    finished: datetime
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tables: Sequence[ReportTable]
    figures: Sequence[LoggedFigure]

    def list_files(self) -> Iterator[tuple[str, bytes]]:
        """List the files of tables (CSV) and figures (PNG, SVG), by their paths in the report's folder."""
        for table in self.tables:
            yield f"{TABLES}/{table.name}.csv", write_csv(table)
        for figure in self.figures:
            for suffix, data in figure.files.items():
                yield f"{FIGURES}/{figure.name}{suffix}", data


class Sink(ABC):
    """A place that shows finished runs. Each kind is a frozen dataclass; its options have defaults.

    Secrets come from the environment, by the variables of the sink's own library.
    """

    @abstractmethod
    def check(self) -> None:
        """Raise `UserError`, with the fix, where nothing could be logged: a package or a key is missing."""

    def check_lasting(self) -> None:  # noqa: B027 # only sinks that may keep runs on this machine have to look
        """Raise `UserError`, with the fix, where runs would be kept in the working folder, for want of another.

        A worker deletes that of a flow run at its end.
        """

    @abstractmethod
    def log(self, run: LoggedRun) -> str:
        """Show a run, and return where people find it. The same run again updates what is there.

        Whatever it raises is reported in one line.
        """

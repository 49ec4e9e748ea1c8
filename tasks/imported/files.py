"""Files of answers that other systems gave: rows (JSONL, CSV, Parquet) or an Inspect log, as one stream of answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cmrm.datasets.compressed import strip_compression
from cmrm.datasets.csv_rows import TAB_SUFFIXES
from cmrm.errors import UserError
from cmrm.prompts.conditions import Condition
from cmrm.prompts.reasoning import ReasoningMarks
from cmrm.untrusted.printable import show
from cmrm.untrusted.regular_file import open_regular
from storage.records.hashing import digest_stream
from tasks.imported.given_answer import GivenAnswer
from tasks.imported.inspect_logs import describe_log, read_log
from tasks.imported.rows import AnswerColumns, read_rows

FileKind = Literal["jsonl", "csv", "parquet", "inspect"]
# Kinds of files by suffix, behind which a compression suffix may stand.
SUFFIXES: Mapping[str, FileKind] = {
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".csv", *TAB_SUFFIXES), "csv"),
    ".parquet": "parquet",
    **dict.fromkeys((".eval", ".json"), "inspect"),
}


@dataclass(frozen=True, kw_only=True)
class AnswersFile:
    """The file of one imported arm, and how it is read.

    `name` is the arm's. Rows that say nothing of it were asked under `condition`, and are of `dataset` (None: of the
    one that has their id). `columns` maps fields of an answer to the file's own names. `epoch` is the one of an Inspect
    log that is read. `reasoning` are the marks around traces in the answers. `shown` is the file's name in messages and
    records: never its path.
    """

    name: str
    path: Path
    shown: str
    condition: Condition
    dataset: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    delimiter: str | None = None
    epoch: int | None = None
    reasoning: ReasoningMarks | None = None

    @property
    def where(self) -> str:
        """The field of the spec that names the file, and the file, for messages."""
        return f"arms.{show(self.name)}.answers: {self.shown}"

    @property
    def kind(self) -> FileKind:
        """What kind of file it is, by its suffix; raises `UserError` for another."""
        suffix = strip_compression(Path(self.shown)).suffix.lower()
        if suffix not in SUFFIXES:
            raise UserError(
                f"{self.where}: its name ends in none of {', '.join(SUFFIXES)}, by which the kind of file is told; "
                "rename it (.eval and .json are Inspect logs; rows of your own are .jsonl, .csv or .parquet)."
            )
        return SUFFIXES[suffix]

    def content(self) -> dict[str, Any]:
        """What decides, besides the file's bytes, which answer belongs to which sample, as JSON types."""
        return {
            "kind": self.kind,
            "condition": self.condition,
            "dataset": self.dataset,
            "columns": dict(self.columns),
            "delimiter": self.delimiter,
            "epoch": self.epoch,
            **({} if self.reasoning is None else {"reasoning": self.reasoning.content()}),
        }

    def digest(self) -> str:
        """The sha256 of the file's bytes, 64 hex digits; raises `UserError` if it cannot be read."""
        try:
            with open_regular(self.path) as stream:
                return digest_stream(stream)
        except UserError as error:
            raise UserError(f"arms.{show(self.name)}.answers: {error}") from None

    def describe(self) -> dict[str, str]:
        """What the file says of its making: of an Inspect log the model, task, time and versions; {} for rows."""
        return describe_log(self.path, where=self.where) if self.kind == "inspect" else {}

    def read(self) -> Iterator[GivenAnswer]:
        """Stream the answers in the order of the file.

        Raises `UserError`, with the line, for a row without an id and for one that cannot be parsed.
        """
        columns = AnswerColumns(given=self.columns, condition=self.condition, dataset=self.dataset)
        kind = self.kind
        if kind == "inspect":
            yield from read_log(self.path, columns, epoch=self.epoch, where=self.where)
        else:
            yield from read_rows(self.path, columns, kind=kind, delimiter=self.delimiter, where=self.where)

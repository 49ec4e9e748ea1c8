"""CSV files of prompts alone: one column is the question, and another may be its category."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.csv_rows import read_table
from cmrm.datasets.fields import content_id, get_text, get_text_or_none
from cmrm.datasets.rows import Record, make_samples
from cmrm.prompts.sample import Rejected, Sample


def read_prompt_table(
    path: Path, *, dataset: str, question: str, columns: frozenset[str], harmful: bool
) -> Iterator[Sample | Rejected]:
    """Read a CSV file that has `columns`; `question` is the question's, and `category` may be among them.

    The id is the question's digest. Raises `UserError` as `read_table` does.
    """

    def make(record: Record) -> Sample:
        text = get_text(record.fields, question)
        return Sample(
            id=content_id(text, None),
            dataset=dataset,
            question=text,
            harmful=harmful,
            category=get_text_or_none(record.fields, "category") if "category" in columns else None,
            line=record.line,
        )

    return make_samples(read_table(path, dataset=dataset, columns=columns), make, dataset=dataset)

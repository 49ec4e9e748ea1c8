"""A run's rates in the hub's own form, `.eval_results/*.yaml`, for the repositories of its models.

The form is that of https://huggingface.co/docs/hub/eval-results, written by `huggingface_hub`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from cmrm.statistics.rates import Rate
from flows.report.tables.main import write_cell
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import Column
from tasks.report.table import Cell, Row, Table

FOLDER = "eval-results"
# The folder of a model's repository that the hub reads.
HUB_FOLDER = ".eval_results"
_ODD = re.compile(r"[^A-Za-z0-9.]+")


def write_eval_results(
    table: Table, folder: Path, *, repository: str, date: str | None, run: str
) -> list[str]:
    """Write a file for each model and arm, with an entry for each rate and score; list the folder of each model.

    `repository` is that of the data set, which entries name as what was asked and as their source; `date` is ISO 8601.
    """
    folders = []
    for number, (model, name) in enumerate(shorten_models(table.models()).items()):
        place = Path(FOLDER) / _make_name(number, name)
        (folder / place / HUB_FOLDER).mkdir(parents=True)
        rows = [row for row in table.rows if row.arm.model == model]
        for line, row in enumerate(rows):
            entries = [*_make_entries(table, row, repository=repository, date=date, run=run)]
            if entries:
                path = folder / place / HUB_FOLDER / f"cmrm-{_make_name(line, row.name)}.yaml"
                path.write_text(
                    yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True),
                    encoding="utf-8",
                )
        folders.append(place.as_posix())
    return folders


def _make_entries(
    table: Table, row: Row, *, repository: str, date: str | None, run: str
) -> Iterator[EvalResultEntry]:
    for column, cell in zip(table.columns, row.cells, strict=True):
        if (value := _measure(cell)) is not None:
            yield EvalResultEntry(
                dataset_id=repository,
                task_id=_name_task(column),
                value=value,
                date=date,
                source_url=f"https://huggingface.co/datasets/{repository}",
                source_name=f"Answers and verdicts, cmrm run {run}",
                notes=f"{row.name}; judge {column.judge}; {write_cell(cell)}",
            )


def _measure(cell: Cell) -> float | None:
    """A rate in per cent, a score in its own unit; None where nothing was measured."""
    value = cell.value.value
    if cell.unmeasured or value is None:
        return None
    return round(100 * value if isinstance(cell.value, Rate) else value, 2)


def _name_task(column: Column) -> str:
    return "-".join(_ODD.sub("-", part) for part in (column.kind, column.dataset, column.judge) if part)


def _make_name(number: int, name: str) -> str:
    """Name a file or a folder so that any disk holds it, and no two are alike."""
    return f"{number}-{_ODD.sub('-', name).strip('-.')[:60]}"

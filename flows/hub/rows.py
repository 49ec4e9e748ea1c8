"""Write the rows of a table as Parquet files, batch by batch, with their arms named and their images read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cmrm.prompts.conditions import CONDITIONS
from flows.hub.images import Cell, RunImages
from flows.hub.shards import ShardWriter
from flows.hub.tables import IMAGE, HubTable
from flows.hub.views import RunViews
from flows.terminal.progress import Bar
from storage.errors import StoreError
from storage.sql.views import text
from tasks.report.outcomes import Arm
from tasks.report.table import name_arm

# Images are read until they have so many bytes together.
IMAGE_BYTES = 16 << 20
WITHHELD = "withheld"


@dataclass(frozen=True, kw_only=True)
class WrittenTable:
    """A table as it was written: its rows, and how many of them are without their text."""

    table: HubTable
    rows: int
    withheld: int


def write_table(
    table: HubTable, views: RunViews, folder: Path, *, images: RunImages, bar: Bar
) -> WrittenTable:
    """Write a table to a new folder of its name; memory is that of a row group.

    Raises `StoreError` if a row of the store became none or several, or cannot be read.
    """
    expected = views.count(table.view)
    bar.expect(expected)
    withheld = 0
    with ShardWriter(folder / table.name, table.schema) as writer:
        for batch in views.read(table):
            named = dict(zip(table.schema.names, batch.columns, strict=True))
            withheld += named[WITHHELD].true_count if WITHHELD in named else 0
            for piece in _fill_images(_name_arms(named), table.schema, images):
                writer.write(_conform(piece, table.schema))
            bar.advance(batch.num_rows)
    if writer.rows != expected:
        raise StoreError(
            f"{table.view}: {expected:,} rows became {writer.rows:,}, so some belong to several samples or have "
            "several verdicts of one judge; look at them with cmrm sql"
        )
    return WrittenTable(table=table, rows=writer.rows, withheld=withheld)


def order_arms(arms: Sequence[Arm]) -> str:
    """Write the SQL of the place of an answer's arm, given a report's arms in order; others come last."""
    models = [*dict.fromkeys(arm.model for arm in arms)]
    interventions = ["", *dict.fromkeys(arm.intervention for arm in arms if arm.intervention)]
    places = {"model": models, "intervention": interventions, "condition": CONDITIONS}
    listed = [_place(f"r.{column}", values) for column, values in places.items()]
    return ", ".join([*listed, "r.alpha"])


def _place(column: str, values: Sequence[str]) -> str:
    return f"list_position([{', '.join(map(text, values))}], {column})"


def _name_arms(named: dict[str, pa.Array]) -> dict[str, pa.Array]:
    if "arm" not in named:
        return named
    arms = zip(*(named[name].to_pylist() for name in Arm._fields), strict=True)
    return {**named, "arm": pa.array([name_arm(Arm(*arm)) for arm in arms], pa.string())}


def _fill_images(
    named: Mapping[str, pa.Array], schema: pa.Schema, images: RunImages
) -> Iterator[Mapping[str, pa.Array]]:
    """Read the images of a batch, and cut it where they would take too much memory."""
    column = next((field.name for field in schema if field.type == IMAGE), None)
    if column is None:
        yield named
        return
    asked = zip(*(named[name].to_pylist() for name in ("dataset", column, "image_digest")), strict=True)
    start = 0
    for cells in _gather(images.read(*one) for one in asked):
        piece = {name: values.slice(start, len(cells)) for name, values in named.items()}
        yield {**piece, column: pa.array(cells, IMAGE)}
        start += len(cells)


def _gather(cells: Iterator[Cell | None]) -> Iterator[list[Cell | None]]:
    waiting: list[Cell | None] = []
    size = 0
    for cell in cells:
        waiting.append(cell)
        size += 0 if cell is None else len(cell["bytes"])
        if size >= IMAGE_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


def _conform(named: Mapping[str, pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([named[field.name].cast(field.type) for field in schema], schema=schema)

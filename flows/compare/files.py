"""Write a comparison of two runs to a file: JSON has all of it, CSV the flipped samples, Markdown tables to read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import pyarrow as pa

from cmrm.errors import UserError
from flows.report.writers.markdown import escape
from flows.sql.export import open_output, write_rows
from tasks.compare.result import RunComparison

SUFFIXES = MappingProxyType({".csv": "csv", ".json": "json", ".md": "markdown", ".markdown": "markdown"})
_ARM = [("model", pa.string()), ("name", pa.string())]
_CHANGE = [(name, pa.float64()) for name in ("before", "after", "change", "low", "high", "p_adjusted")]
_SCHEMAS = MappingProxyType(
    {
        "flips": pa.schema(
            [
                *_ARM,
                ("condition", pa.string()),
                ("intervention", pa.string()),
                ("alpha", pa.float64()),
                ("judge", pa.string()),
                ("dataset", pa.string()),
                ("sample_id", pa.string()),
                ("before", pa.string()),
                ("after", pa.string()),
            ]
        ),
        "changes": pa.schema(
            [
                *_ARM,
                ("measure", pa.string()),
                ("dataset", pa.string()),
                ("judge", pa.string()),
                ("n", pa.int64()),
                *_CHANGE,
            ]
        ),
        "categories": pa.schema(
            [
                *_ARM,
                *((name, pa.string()) for name in ("measure", "dataset", "category", "judge")),
                ("n", pa.int64()),
                ("small", pa.bool_()),
                *_CHANGE,
            ]
        ),
        "unpaired": pa.schema(
            [
                *_ARM,
                ("judge", pa.string()),
                *(
                    (name, pa.int64())
                    for name in ("only_before", "only_after", "changed", "parse_error", "not_judged")
                ),
            ]
        ),
        "shifts": pa.schema(
            [
                *((name, pa.string()) for name in ("model", "image", "method")),
                ("block", pa.int64()),
                *((name, pa.float64()) for name in ("cosine", "before", "after")),
            ]
        ),
    }
)
_TITLES = MappingProxyType(
    {
        "changes": "Changes, in pairs",
        "categories": "Changes by category, in pairs",
        "flips": "Samples that changed sides",
        "unpaired": "Not in pairs",
        "shifts": "Δ by block",
    }
)


def check_output(output: Path) -> None:
    """Raise `UserError` for a file whose suffix names no format."""
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{output}: its suffix names no format; end it in .json (all), .csv (the flipped samples) or .md"
        )


def write_comparison(comparison: RunComparison, output: Path) -> None:
    """Write a comparison in the format of the file's suffix; raises `UserError` if it cannot be written."""
    content = comparison.to_json()
    with open_output(output) as stream:
        match SUFFIXES[output.suffix.lower()]:
            case "json":
                text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
                stream.write(text.encode("utf-8", "replace"))
            case "csv":
                _write(content["flips"], "flips", stream, "csv")
            case _:
                _write_markdown(content, stream)


def _write_markdown(content: Mapping[str, Any], stream: IO[bytes]) -> None:
    ids = [content[side]["run_id"] for side in ("before", "after")]
    lines = [f"# {escape(ids[0])} → {escape(ids[1])}", "", f"**{escape(content['verdict'])}**", ""]
    for side in ("before", "after"):
        models = ", ".join(str(model["name"]) for model in content[side]["models"])
        lines.append(f"* {side}: {escape(models)}, begun {escape(content[side]['created_at'])}")
    lines += [f"* {escape(note)}" for note in content["notes"]]
    stream.write("\n".join(lines).encode("utf-8", "replace"))
    tables = {name: content[name] for name in ("changes", "categories", "flips", "unpaired")}
    tables["shifts"] = [{**shift, **block} for shift in content["shifts"] for block in shift["blocks"]]
    for name, rows in tables.items():
        if rows:
            stream.write(f"\n\n## {_TITLES[name]}\n\n".encode())
            _write([_round(row) for row in rows], name, stream, "markdown")


def _round(row: Mapping[str, Any]) -> dict[str, Any]:
    """Format a row for people: four digits, and the arm by its name instead of its parts."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in row.items()
        if name not in {"condition", "intervention", "alpha"}
    }


def _write(rows: Sequence[Mapping[str, Any]], name: str, stream: IO[bytes], form: str) -> None:
    given = [field for field in _SCHEMAS[name] if not rows or field.name in rows[0]]
    table = pa.Table.from_pylist(list(rows), schema=pa.schema(given))
    write_rows(table.to_batches(), table.schema, stream, form)

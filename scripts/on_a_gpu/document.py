"""What a run found, as one JSON and one Markdown file: the machine, a line a check, then the tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speed_table import table

from on_a_gpu.checks import Outcome, Table
from on_a_gpu.machine import write_bytes

NAME = "on-a-gpu"
FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A run: the machine, how it was asked, the models' descriptions and the outcomes so far."""

    machine: Mapping[str, str]
    options: Mapping[str, str]
    models: Mapping[str, str]
    outcomes: Sequence[Outcome]
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(outcome.status == FAILED for outcome in self.outcomes)

    def write(self, folder: Path) -> None:
        """Write both files; those of an earlier run there are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(_as_json(asdict(self)), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / f"{NAME}.json").write_text(f"{content}\n", encoding="utf-8")
        (folder / f"{NAME}.md").write_text(self.show(), encoding="utf-8")

    def list_lines(self) -> list[str]:
        """The machine and a line a check, in Markdown."""
        parts = ["# cmrm on this machine", ""]
        parts += [f"* {name}: {value}" for name, value in {**self.machine, **self.options}.items()]
        parts += [f"* seconds: {self.seconds:.0f}", "", "## Checks", ""]
        return parts + [_write_line(outcome) for outcome in self.outcomes]

    def show(self) -> str:
        """The run as Markdown."""
        parts = self.list_lines()
        for shape, about in self.models.items():
            parts += ["", f"## {shape}", "", about]
            for outcome in self.outcomes:
                if outcome.shape == shape and outcome.tables:
                    parts += ["", f"### {outcome.check}"]
                    parts += [line for one in outcome.tables for line in ("", show_table(one))]
        return "\n".join(parts) + "\n"


def _write_line(outcome: Outcome) -> str:
    place = f" (at `{outcome.where}`)" if outcome.where else ""
    cost = f"; {outcome.seconds:.1f} s"
    cost += "" if outcome.peak_bytes is None else f", peak {write_bytes(outcome.peak_bytes)}"
    began = outcome.seconds > 0
    return f"* **{outcome.status}**, {outcome.shape}, {outcome.check}: {_flatten(outcome.line)}{place}" + (
        cost if began else ""
    )


def show_table(one: Table) -> str:
    """A table under its title, with its notes below."""
    cells = [[_flatten(cell).replace("|", "\\|") for cell in row] for row in one.cells]
    parts = [f"#### {one.title}", "", table(cells, right=one.right)]
    if one.notes:
        parts += ["", *(f"* {note}" for note in one.notes)]
    return "\n".join(parts)


def _flatten(text: str) -> str:
    return " ".join(text.split())


def _as_json(value: Any) -> Any:
    """A value for JSON, which knows neither NaN nor inf nor ranges."""
    if isinstance(value, Mapping):
        return {str(name): _as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple | range):
        return [_as_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

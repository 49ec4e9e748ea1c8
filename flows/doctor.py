"""`cmrm doctor`: the laws of the method, checked on a user's own model before a long run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.organism import place_organism
from flows.plan import resolve_use
from flows.spec import Spec, check_spec, read_spec
from flows.terminal import show_safely
from tasks.models import ModelUse, load_model_once

if TYPE_CHECKING:
    from cmrm.doctor import Finding

SPEC_ENDINGS = {".yaml", ".yml"}
NAME_WIDTH = 22
MARK_WIDTH = 6


@dataclass(frozen=True, kw_only=True)
class Examined:
    """One model's findings, and what it is called."""

    model: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [one.name for one in self.findings if not one.passed]


def find_models(place: str, options: dict[str, Any]) -> tuple[list[ModelUse], int]:
    """The models that `place` means, a spec file or one model, and the side of the images to try them with, in pixels.

    `options` are fields of a spec's `model:` for one that is given by itself. Raises `UserError` for what is neither.
    """
    spec = read_spec(Path(place)) if Path(place).suffix in SPEC_ENDINGS else _make_spec(place, options)
    placed = place_organism(spec)
    return [resolve_use(model) for model in placed.all_models()], spec.images.size


def examine_models(models: Iterable[ModelUse], *, image_size: int, console: Console) -> Iterator[Examined]:
    """Load each model in turn and examine it, each finding on the console as soon as it is there."""
    from cmrm.doctor import examine

    for use in models:
        console.print(Text(show_safely(use.name), style="bold"))
        vlm = load_model_once(use)
        findings: list[Finding] = []
        for finding in examine(vlm, image_size=image_size):
            findings.append(finding)
            console.print(_draw(finding))
        examined = Examined(model=use.name, findings=tuple(findings))
        console.print(Text(_sum_up(examined)), soft_wrap=True)
        yield examined


def diagnose(place: str, *, options: dict[str, Any], format: Literal["table", "json"]) -> bool:  # noqa: A002
    """Examine what `place` means and print what was found; whether all checks passed."""
    models, image_size = find_models(place, options)
    console = Console(stderr=format == "json")
    examined = list(examine_models(models, image_size=image_size, console=console))
    if format == "json":
        records = [
            {"model": one.model, "findings": [asdict(finding) for finding in one.findings]}
            for one in examined
        ]
        # The findings are the output, to be piped on; rich would wrap them.
        Console(soft_wrap=True).out(json.dumps(records, indent=2), highlight=False)
    return not any(one.failed for one in examined)


def _make_spec(model: str, options: dict[str, Any]) -> Spec:
    content = {
        "model": {"id": model, **options},
        # A spec has data sets; these questions are the doctor's own.
        "datasets": {"none": {"format": "jsonl", "path": "none.jsonl"}},
        "anchors": {"from": {"none": 1.0}},
    }
    return check_spec(content, where="cmrm doctor")


def _draw(finding: Finding) -> Table:
    """One row; of fixed widths, since each is shown as soon as it is there."""
    row = Table(box=None, pad_edge=False, show_header=False)
    row.add_column(width=NAME_WIDTH)
    row.add_column(width=MARK_WIDTH)
    row.add_column(overflow="fold")
    mark, style = ("passed", "green") if finding.passed else ("FAILED", "bold red")
    row.add_row(finding.name, Text(mark, style=style), Text(show_safely(finding.detail)))
    return row


def _sum_up(examined: Examined) -> str:
    seconds = sum(one.seconds for one in examined.findings)
    count = len(examined.findings)
    if not examined.failed:
        return f"All {count} checks passed in {seconds:.1f} s: this model can be read and steered.\n"
    return (
        f"{len(examined.failed)} of {count} checks failed in {seconds:.1f} s: {', '.join(examined.failed)}. "
        "What is measured on this model is not to be trusted.\n"
    )

"""`cmrm doctor`: run the checks of `cmrm.doctor` on a user's own model and print the findings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from flows.plan.plan import resolve_beside, resolve_use
from flows.spec.organism import place_organism
from flows.spec.spec import Spec, check_spec, read_spec
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table
from tasks.core.models import ModelUse, load_model_once

if TYPE_CHECKING:
    from rich.table import Table

    from cmrm.doctor import Finding
    from cmrm.models.folder_note import FolderNote
    from cmrm.models.vlm import VisionLanguageModel

SPEC_ENDINGS = {".yaml", ".yml"}
NAME_WIDTH = 22
MARK_WIDTH = 6
# An estimate of so many seconds is printed.
WORTH_SAYING = 10.0


@dataclass(frozen=True, kw_only=True)
class Examined:
    """One model's findings, its name, its image backend, and what its folder has to tell."""

    model: str
    image_backend: str
    folder: tuple[FolderNote, ...]
    findings: tuple[Finding, ...]
    text_only: bool = False

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [one.name for one in self.findings if not one.passed]


def find_models(given: str, options: dict[str, Any]) -> tuple[list[ModelUse], int | None]:
    """Resolve `given`, a spec file or one model, to its models and the side of the test images in pixels.

    The side is None where each model's family chooses it.

    `options` are fields of a spec's `model:`, for a model given by itself. Raises `UserError` for anything else.
    """
    spec = read_spec(Path(given)) if Path(given).suffix in SPEC_ENDINGS else _make_spec(given, options)
    placed = place_organism(spec)
    loaded = [(model, resolve_use(model)) for model in placed.list_loaded()]
    return [use for model, own in loaded for use in (own, *resolve_beside(model, own))], spec.images.size


def examine_models(
    models: Iterable[ModelUse], *, image_size: int | None, console: Console
) -> Iterator[Examined]:
    """Load each model in turn and check it, printing each finding as soon as it is available."""
    from cmrm.doctor import examine
    from cmrm.doctor.admission import describe_admission

    for use in models:
        console.print(Text(show_safely(use.name), style="bold"))
        console.print(Text(_describe_input(use)))
        vlm = load_model_once(use)
        if vlm.admission is not None:
            console.print(Text(show_safely(f"Derived row: {describe_admission(vlm)}.")))
        for row in _draw_folder(vlm.notes):
            console.print(row)
        if (seconds := _estimate(vlm, image_size=image_size)) >= WORTH_SAYING:
            console.print(Text(f"All checks will take about {_write_time(seconds)} on {vlm.device}."))
        findings: list[Finding] = []
        for finding in examine(vlm, image_size=image_size):
            findings.append(finding)
            console.print(_draw(finding))
        examined = Examined(
            model=use.name,
            image_backend=use.image_backend,
            folder=vlm.notes,
            findings=tuple(findings),
            text_only=use.backbone is not None,
        )
        console.print(Text(_sum_up(examined)), soft_wrap=True)
        yield examined


def diagnose(given: str, *, options: dict[str, Any], format: Literal["table", "json"]) -> bool:  # noqa: A002
    """Check the models of `given` and print the findings; returns whether all checks passed."""
    models, image_size = find_models(given, options)
    console = Console(stderr=format == "json")
    examined = list(examine_models(models, image_size=image_size, console=console))
    if format == "json":
        records = [
            {
                "model": one.model,
                "image_backend": one.image_backend,
                "folder": [asdict(note) for note in one.folder],
                "findings": [asdict(finding) for finding in one.findings],
            }
            for one in examined
        ]
        # JSON output for a pipe; rich would wrap it.
        Console(soft_wrap=True).out(json.dumps(records, indent=2), highlight=False)
    return not any(one.failed for one in examined)


def _estimate(vlm: VisionLanguageModel, *, image_size: int | None) -> float:
    from cmrm.doctor.estimate import estimate_seconds

    try:
        return estimate_seconds(vlm, image_size=image_size)
    except Exception:  # noqa: BLE001 # a model that cannot even do this fails the checks, which say why
        return 0.0


def _write_time(seconds: float) -> str:
    for length, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _describe_input(use: ModelUse) -> str:
    if use.backbone is None:
        return f"Images are resized by {use.image_backend}."
    shown = "its own chat template" if use.backbone.template == "own" else f"the prompts of {use.backbone.of}"
    return f"It is text-only, and asked by {shown}."


def _make_spec(model: str, options: dict[str, Any]) -> Spec:
    content = {
        "model": {"id": model, **options},
        # A spec needs a data set; the doctor brings questions of its own.
        "datasets": {"none": {"format": "jsonl", "path": "none.jsonl"}},
        "anchors": {"from": {"none": 1.0}},
    }
    return check_spec(content, where="cmrm doctor")


def _draw(finding: Finding) -> Table:
    if finding.passed:
        return _draw_row(finding.name, "passed", "green", finding.detail)
    return _draw_row(finding.name, "FAILED", "bold red", finding.detail)


def _draw_folder(notes: Sequence[FolderNote]) -> Iterator[Table]:
    """Draw the files that a model was made of in one row, and each warning in another."""
    facts = "; ".join(f"{note.about}: {note.text}" for note in notes if not note.warning)
    yield _draw_row("folder", "read", "green", facts)
    for note in notes:
        if note.warning:
            yield _draw_row(note.about, "WARNED", "bold yellow", note.text)


def _draw_row(name: str, mark: str, style: str, text: str) -> Table:
    """Format a row of fixed widths, since rows are printed one by one."""
    row = make_table([TableColumn(width=NAME_WIDTH), TableColumn(width=MARK_WIDTH), TableColumn()])
    row.add_row(name, Text(mark, style=style), Text(show_safely(text)))
    return row


def _sum_up(examined: Examined) -> str:
    warnings = sum(note.warning for note in examined.folder)
    told = f" Its folder has {warnings} {'warning' if warnings == 1 else 'warnings'}." if warnings else ""
    seconds = sum(one.seconds for one in examined.findings)
    count = len(examined.findings)
    if not examined.failed:
        can = "asked and extracted from" if examined.text_only else "extracted from and steered"
        return f"All {count} checks passed in {seconds:.1f} s; this model can be {can}.{told}\n"
    return (
        f"{len(examined.failed)} of {count} checks failed in {seconds:.1f} s: {', '.join(examined.failed)}. "
        f"Do not trust measurements on this model.{told}\n"
    )

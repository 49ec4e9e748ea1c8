"""Write an export under another name, prove it, and rename it only then: nothing half-written has the final name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmrm.errors import UserError
from cmrm.export.canary import write_canary
from cmrm.export.format import ExportFormat, Written
from cmrm.export.reference import Reference
from cmrm.export.request import ExportRequest
from cmrm.new_folder import refuse_used, write_new_folder
from cmrm.untrusted.printable import show

Describe = Callable[[Written, tuple[str, ...]], str]
CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A finished export: its folder, what the format says of it, and what reading it again proved."""

    folder: Path
    written: Written
    proofs: tuple[str, ...]


def write_export(
    request: ExportRequest,
    chosen: ExportFormat,
    reference: Reference,
    *,
    output: Path,
    describe: Describe,
) -> Exported:
    """Write an export with its canary and its card, and prove it; `describe` writes the card.

    Raises `UserError` if the folder is not new or empty, or cannot be written, and `ExportError` if what was written is
    not the steered model; then nothing is left of it.
    """
    refuse_used(output)
    refuse_inside(output, request.model.folder)
    with write_new_folder(output) as folder:
        written = chosen.write(request, folder)
        proofs = chosen.prove(request, folder, reference)
        write_canary(reference.canary, folder)
        (folder / CARD).write_text(describe(written, proofs), encoding="utf-8")
    return Exported(folder=output, written=written, proofs=proofs)


def replace_card(folder: Path, text: str) -> None:
    """Write the card of a finished export anew, whole or not at all; raises `UserError` if it cannot be written."""
    fresh = folder / f".{CARD}.partial"
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(folder / CARD)
    except OSError as error:
        raise UserError(
            f"--output {show(folder)}: the card cannot be written anew ({error.strerror}); the export is whole, "
            "and has the card without the evaluation."
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def refuse_inside(output: Path, model: Path) -> None:
    """Raise `UserError` for a path in the folder of the model that is exported."""
    if output.resolve().is_relative_to(model.resolve()):
        raise UserError(f"--output {show(output)}: is inside the model's own folder; name one elsewhere.")

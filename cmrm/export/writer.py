"""Write an export under another name, prove it, and rename it only then: nothing half-written has the final name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from cmrm.errors import UserError
from cmrm.export.canary import write_canary
from cmrm.export.format import ExportFormat, Written
from cmrm.export.reference import Reference
from cmrm.export.request import ExportRequest
from cmrm.untrusted.printable import first_line, show

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
    with _unfinished(output) as folder:
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


def refuse_used(output: Path) -> None:
    """Raise `UserError` unless a path is free, or an empty folder that can be replaced, where files can be made."""
    try:
        free = not any(output.iterdir()) if output.is_dir() else not os.path.lexists(output)
    except OSError as error:
        raise UserError(
            f"--output {show(output)}: cannot be read ({error.strerror}); name another."
        ) from None
    if not free:
        raise UserError(f"--output {show(output)}: is there already; name a new or an empty folder.")
    if output.is_dir() and (output.is_symlink() or os.path.ismount(output) or output.samefile(Path.cwd())):
        raise UserError(
            f"--output {show(output)}: is a link, a mount point or the working folder, which no finished folder can "
            "replace; name a new folder in it."
        )
    above = next(one for one in output.absolute().parents if os.path.lexists(one))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(
            f"--output {show(output)}: cannot be written ({show(above)} takes no files); name another."
        )


def refuse_inside(output: Path, model: Path) -> None:
    """Raise `UserError` for a path in the folder of the model that is exported."""
    if output.resolve().is_relative_to(model.resolve()):
        raise UserError(f"--output {show(output)}: is inside the model's own folder; name one elsewhere.")


@contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """Make a hidden folder beside the final one, and rename it when the body ends without an error."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = output.parent / f".{output.name}.partial-{uuid4().hex[:8]}"
        folder.mkdir()
    except OSError as error:
        raise UserError(f"--output {show(output)}: cannot be written ({error.strerror}).") from None
    try:
        yield folder
        sync_tree(folder)
        if output.is_dir():
            output.rmdir()
        folder.rename(output)
        _sync_folder(output.parent)
    except OSError as error:
        if error.errno is None:
            raise
        own = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(folder)
        fault = "cannot be written" if own else f"cannot be finished: {show(error.filename)}"
        raise UserError(
            f"--output {show(output)}: {fault} ({error.strerror}); nothing is left of it."
        ) from error
    except SafetensorError as error:
        raise UserError(
            f"--output {show(output)}: cannot be written ({first_line(error)}); nothing is left of it."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Have the disk keep every file before the folder gets its name."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            _sync_folder(path)
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

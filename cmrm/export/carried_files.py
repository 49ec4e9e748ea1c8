"""What belongs to a model beside its weights: settings, tokenizer, templates, licences."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cmrm.errors import UserError
from cmrm.export.weight_files import copy_file
from cmrm.untrusted.printable import show

CARRIED = (
    "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
CONFIG = "config.json"
# A hub cache keeps files as links from snapshots/COMMIT/ to blobs/.
SNAPSHOTS = "snapshots"


def list_carried(source: Path, *, taken: Collection[str], field: str) -> list[Path]:
    """List what belongs to a model beside its weights; `taken` are the files that are written otherwise.

    Raises `UserError`, which begins with `field`, for a link out of the model's folder: it may lead to what is private.
    """
    inside = [source.resolve()]
    if source.parent.name == SNAPSHOTS:
        inside.append(source.resolve().parent.parent / "blobs")
    found = []
    for path in sorted({path for pattern in CARRIED for path in source.glob(pattern)}):
        # The index of weights in another form leads to files that are not here.
        if path.name.startswith(".") or path.name.endswith(".index.json") or not path.is_file():
            continue
        if not any(path.resolve().is_relative_to(one) for one in inside):
            raise UserError(
                f"{field}: {show(path.name)} in the model's folder is a link to a file outside of it, which "
                "the export would publish. Put the file itself there, or remove the link."
            )
        if path.relative_to(source).as_posix() not in taken:
            found.append(path)
    return found


def carry_files(source: Path, folder: Path, *, taken: Collection[str], field: str) -> None:
    """Copy what belongs to a model beside its weights into a folder; raises as `list_carried` does."""
    for path in list_carried(source, taken=taken, field=field):
        target = folder / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        copy_file(path, target)

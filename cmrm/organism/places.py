"""Names by which a spec speaks of the organism's own models and data, wherever these lie on a machine.

Model ids: `organism` and its variants. Paths: `organism://vlsafe/harmlessness_examine.jsonl`, `organism://images`.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from cmrm.errors import UserError
from cmrm.organism import VARIANTS, ensure_organism
from cmrm.organism.data_files import DataFiles

# One slash is enough: that is what is left of two once a path has been through pathlib.
SCHEME = re.compile(r"organism:/+")


def resolve_organism_model(model_id: str) -> Path | None:
    """Find the model folder of a variant of the organism; None for any other id."""
    return VARIANTS.get(model_id)


def resolve_organism_path(path: str, folder: Path) -> Path | None:
    """Find a file or folder of the organism's data sets, written under `folder` unless they are there; None for others.

    Raises `UserError`, naming the known entries, when the data sets hold no such file.
    """
    scheme = SCHEME.match(path)
    if scheme is None:
        return None
    entry = PurePosixPath(path[scheme.end() :])
    files = ensure_organism(folder).data
    place = files.folder / entry
    if not _is_known(entry, files) or not place.exists():
        known = ", ".join(f"organism://{name}" for name in files.list_entries())
        raise UserError(
            f"{path!r} is nothing that the embedded model's data sets hold; known entries: {known}."
        )
    return place


def _is_known(entry: PurePosixPath, files: DataFiles) -> bool:
    known = {PurePosixPath(name) for name in files.list_entries()}
    return ".." not in entry.parts and not known.isdisjoint((entry, *entry.parents))

"""Resolve `organism` model ids and `organism://` paths of a spec to local folders and files.

Model ids: `organism` and its variants. Paths: `organism://vlsafe/harmlessness_examine.jsonl`, `organism://images`.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from cmrm.errors import UserError
from cmrm.organism import DATA_FOLDER, VARIANTS, ensure_organism
from cmrm.organism.data_files import DataFiles

# One slash suffices, since pathlib collapses two.
SCHEME = re.compile(r"organism:/+")
RESOLVED = re.compile(rf"{DATA_FOLDER}\d+")


def resolve_organism_model(model_id: str) -> Path | None:
    """Return the model folder of a variant of the organism; None for any other id."""
    return VARIANTS.get(model_id)


def resolve_organism_path(path: str, folder: Path) -> Path | None:
    """Resolve an `organism://` path, writing the data sets under `folder` if they are missing; None for other paths.

    Raises `UserError`, listing the known entries, if the data sets have no such file.
    """
    scheme = SCHEME.match(path)
    if scheme is None:
        return None
    entry = PurePosixPath(path[scheme.end() :])
    files = ensure_organism(folder).data
    target = files.folder / entry
    if not _is_known(entry, files) or not target.exists():
        known = ", ".join(f"organism://{name}" for name in files.list_entries())
        raise UserError(f"{path!r} is not in the embedded model's data sets; known entries: {known}.")
    return target


def is_organism_path(path: str) -> bool:
    """Whether a path, as a spec has it or resolved by this or another release, is in the embedded model's data sets."""
    return SCHEME.match(path) is not None or any(RESOLVED.fullmatch(part) for part in Path(path).parts)


def _is_known(entry: PurePosixPath, files: DataFiles) -> bool:
    known = {PurePosixPath(name) for name in files.list_entries()}
    return ".." not in entry.parts and not known.isdisjoint((entry, *entry.parents))

"""The test questions' checksum, written down before any training: no result on them can have chosen a model."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from cmrm.organism import DATA_SEED
from cmrm.organism.data_files import DataFiles
from cmrm.organism.files import write_data


def hash_test_questions() -> dict[str, str]:
    """Write the test data sets anew and return the SHA-256 of each file of text, by its path; pictures are left out."""
    with tempfile.TemporaryDirectory() as temporary:
        files = write_data(Path(temporary), seed=DATA_SEED)
        return {
            path.relative_to(files.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in _list_texts(files)
        }


def _list_texts(files: DataFiles) -> list[Path]:
    return sorted(
        path for path in files.folder.rglob("*") if path.is_file() and files.images not in path.parents
    )

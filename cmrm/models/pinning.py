"""Revision pinning: a local folder by the checksum of its files, a hub id by its commit.

Nothing here imports torch, so a run with nothing left to do never pays for it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError

COMMIT = re.compile(r"[0-9a-f]{40}")
WEIGHTS = "*.safetensors"
READ_FILES = ("*.json", WEIGHTS, "*.jinja", "additional_chat_templates/*.jinja", "*.model", "*.txt")
# Only under trust_remote_code: a model's modules, also in subfolders, and the files from which such code reads its
# vocabulary and settings.
CODE_FILES = ("**/*.py", "*.bpe", "*.spm", "*.tiktoken", "*.vocab", "*.yaml", "*.yml")
# Timeout in seconds for finding a commit on the hub, which is a few hundred bytes.
PATIENCE = 20.0


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """Files pinned to an immutable `revision`: a hub commit, or the checksum of the local files.

    `id` is what the user wrote; `folder` is where the files are on this machine, with links resolved, and is not part
    of the identity.
    """

    id: str
    revision: str
    folder: Path

    @property
    def fingerprint(self) -> str:
        """The identity in cache keys: equal files in two folders share it, two revisions never do."""
        return make_fingerprint(self.id, self.revision)

    @property
    def field(self) -> str:
        """The section of the spec that names the files, for errors."""
        return "model"

    @property
    def patterns(self) -> tuple[str, ...]:
        """The glob patterns of the files that count."""
        return READ_FILES

    @property
    def own_name(self) -> str:
        """The folder's name or the id. It is part of keys, so it must not depend on the disk's present state."""
        return self.folder.name if self.revision.startswith("sha256:") else self.id

    @property
    def short_revision(self) -> str:
        """The first 12 digits of the revision."""
        return self.revision.removeprefix("sha256:")[:12]


AnyPinned = TypeVar("AnyPinned", bound=Pinned)


def make_fingerprint(model_id: str, revision: str) -> str:
    """Make the fingerprint of a model at an immutable revision."""
    return revision if revision.startswith("sha256:") else f"hub:{model_id}@{revision}"


def find_pin(given: str, *, revision: str, patterns: Sequence[str] = READ_FILES, field: str = "model") -> str:
    """Find the current immutable revision of an id, without download or check; raises as `pin` does."""
    folder = find_folder(given, field=field)
    if folder is None:
        return _find_commit(given, revision, field=field)
    return digest_folder(folder, patterns=patterns, field=field)


def pin(
    given: str, *, revision: str, patterns: Sequence[str] = READ_FILES, field: str = "model"
) -> tuple[str, Path]:
    """Resolve an id to an immutable revision and its folder; a hub id is downloaded if it is not cached.

    Raises `UserError` for an invalid id, `ModelUnavailableError` if there is no such model at present, and
    `ModelChangedError` for a folder that changes meanwhile.
    """
    folder = find_folder(given, field=field)
    if folder is None:
        return download_model(given, revision, patterns=patterns, field=field)
    return digest_folder(folder, patterns=patterns, field=field), folder


def find_folder(given: str, *, field: str = "model") -> Path | None:
    """Find the folder that an id names, None for a hub id; `ModelUnavailableError` if it can be neither."""
    folder = Path(given).expanduser()
    if folder.exists():
        return folder.resolve()
    if given.startswith((".", "~", os.sep)) or given.count("/") != 1:
        raise ModelUnavailableError(
            f"{field}.id: no folder {given!r}; give a folder or a hub id such as llava-hf/llava-1.5-7b-hf."
        )
    return None


def place(pinned: AnyPinned) -> AnyPinned:
    """Locate files that another machine resolved on this one; `ModelUnavailableError` if they are missing."""
    if pinned.folder.is_dir():
        return pinned
    if pinned.revision.startswith("sha256:"):
        raise ModelUnavailableError(
            f"{pinned.field}.id: the folder {str(pinned.folder)!r} is not on this machine; put it on a disk that all "
            "workers share, at the same path, or give a hub id."
        )
    _, folder = download_model(pinned.id, pinned.revision, patterns=pinned.patterns, field=pinned.field)
    return replace(pinned, folder=folder)


def check_unchanged(pinned: Pinned) -> None:
    """Raise `ModelChangedError` if a local folder no longer matches its revision.

    Called after loading: equal checksums before and after prove which files were loaded. A hub commit is immutable.
    """
    if not pinned.revision.startswith("sha256:"):
        return
    if digest_folder(pinned.folder, patterns=pinned.patterns, field=pinned.field) != pinned.revision:
        raise ModelChangedError(
            f"{pinned.field}.id: the files in {str(pinned.folder)!r} changed while they were being used, so their "
            "answers would be stored under another revision. None of them was stored; run the same command again."
        )


def digest_folder(folder: Path, *, patterns: Sequence[str] = READ_FILES, field: str = "model") -> str:
    """Compute the SHA-256 checksum of a folder's files by name and content: configs, weights and tokenizer.

    Raises `ModelUnavailableError` for a folder that is gone, `ModelChangedError` for one that changes meanwhile.
    """
    if folder.is_file():
        raise UserError(f"{field}.id: {str(folder)!r} is a file; give the folder that holds its config.")
    total = hashlib.sha256()
    try:
        before = _list_files(folder, patterns)
        for path in before:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256")
            total.update(f"{path.relative_to(folder).as_posix()}\0{content.hexdigest()}\n".encode())
        changed = _list_files(folder, patterns) != before
    except FileNotFoundError:
        _refuse_dead_links(folder, patterns, field=field)
        changed = True
    except OSError as error:
        raise ModelUnavailableError(
            f"{field}.id: {str(folder)!r} cannot be read ({error.strerror or error}); fix its permissions, or mount "
            "its disk again."
        ) from None
    if not folder.is_dir():
        raise ModelUnavailableError(
            f"{field}.id: the folder {str(folder)!r} disappeared while it was read; restore it."
        )
    if changed:
        raise ModelChangedError(
            f"{field}.id: {str(folder)!r} was changed while it was read; wait until its new files are all there."
        )
    return f"sha256:{total.hexdigest()}"


def _list_files(folder: Path, patterns: Sequence[str]) -> dict[Path, tuple[int, int, int]]:
    """List the files that count, sorted, each with what changes when it is written: inode, size, mtime."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    found = {path: path.stat() for path in paths}
    return {path: (one.st_ino, one.st_size, one.st_mtime_ns) for path, one in found.items()}


def download_model(
    model_id: str, revision: str, *, patterns: Sequence[str] = READ_FILES, field: str = "model"
) -> tuple[str, Path]:
    """Resolve a hub id to its commit, and download the files that count: commit and folder.

    Raises `ModelUnavailableError`, and `UserError` if the hub has no such model.
    """
    commit = _find_commit(model_id, revision, field=field)
    # Imported here because a local folder does not need the hub client.
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import is_offline_mode

    # In the hub's patterns an asterisk matches slashes too.
    wanted = [pattern.removeprefix("**/") for pattern in patterns]
    with _explained(model_id, revision, field):
        fetched = snapshot_download(
            model_id, revision=commit, allow_patterns=wanted, local_files_only=is_offline_mode()
        )
    _refuse_dead_links(Path(fetched), patterns, field=field)
    return commit, Path(fetched)


def _refuse_dead_links(folder: Path, patterns: Sequence[str], *, field: str) -> None:
    """Raise `ModelUnavailableError` for a link whose target is gone, as where a blob of the hub's cache was removed."""
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        if path.is_symlink() and not path.exists():
            raise ModelUnavailableError(
                f"{field}.id: {path.name} in {str(folder)!r} is a link to {str(path.readlink())!r}, which is not "
                "there; restore that file, or download the model again."
            )


def _find_commit(model_id: str, revision: str, *, field: str) -> str:
    if COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import is_offline_mode

    with _explained(model_id, revision, field):
        if is_offline_mode():
            return Path(snapshot_download(model_id, revision=revision, local_files_only=True)).name
        commit = HfApi().model_info(model_id, revision=revision, timeout=PATIENCE).sha
    if commit is None:
        raise UserError(
            f"{field}.revision: the hub names no commit for {model_id!r} at {revision!r}; name a commit."
        )
    return commit


@contextmanager
def _explained(model_id: str, revision: str, field: str) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelUnavailableError(
            f"{field}.id: {model_id!r} at revision {revision!r} is neither a folder nor available on the hub "
            f"({reason}). Check the spelling and the connection, log in for gated models (HF_TOKEN), give a local "
            "folder, or set HF_HUB_OFFLINE=1 to use what is cached."
        ) from None

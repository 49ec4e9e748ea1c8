"""Files pinned to a revision: a local folder by the digest of its files, a hub id by its commit.

Nothing here imports torch, so a run that finds all its work done never pays for it.
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
READ_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
# Only where a spec lets a model run its own code: its modules, which may lie in folders of their own, and what such
# code reads its vocabulary and settings from.
CODE_FILES = ("**/*.py", "*.bpe", "*.spm", "*.tiktoken", "*.vocab", "*.yaml", "*.yml")
# Seconds for a hub that is asked for a commit, which is a few hundred bytes.
PATIENCE = 20.0


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """Files that cannot change any more: `revision` is a hub commit or the digest of the local files.

    `id` is what the user wrote; `folder` is where the files lie on this machine, links followed, and is no part of the
    identity.
    """

    id: str
    revision: str
    folder: Path

    @property
    def fingerprint(self) -> str:
        """What keys are made of: equal files in two folders share it, two revisions never do."""
        return make_fingerprint(self.id, self.revision)

    @property
    def field(self) -> str:
        """The section of a spec that names them, for errors."""
        return "model"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Which files count."""
        return READ_FILES

    @property
    def own_name(self) -> str:
        """The folder's name or the id. It is part of keys, so nothing may look at the disk for it again."""
        return self.folder.name if self.revision.startswith("sha256:") else self.id

    @property
    def short_revision(self) -> str:
        """The first digits of the revision."""
        return self.revision.removeprefix("sha256:")[:12]


AnyPinned = TypeVar("AnyPinned", bound=Pinned)


def make_fingerprint(model_id: str, revision: str) -> str:
    """The fingerprint of a model at an immutable revision."""
    return revision if revision.startswith("sha256:") else f"hub:{model_id}@{revision}"


def find_pin(given: str, *, revision: str, patterns: Sequence[str] = READ_FILES, field: str = "model") -> str:
    """Find which immutable revision an id has now, without downloading or checking it; raises as `pin` does."""
    folder = find_folder(given, field=field)
    if folder is None:
        return _find_commit(given, revision, field=field)
    return digest_folder(folder, patterns=patterns, field=field)


def pin(
    given: str, *, revision: str, patterns: Sequence[str] = READ_FILES, field: str = "model"
) -> tuple[str, Path]:
    """Resolve an id to an immutable revision and its folder; a hub id is downloaded if it is not cached.

    Raises `UserError` for what can be none, `ModelUnavailableError` where there is none (now), `ModelChangedError` for
    a folder that is changed meanwhile.
    """
    folder = find_folder(given, field=field)
    if folder is None:
        return download_model(given, revision, patterns=patterns, field=field)
    return digest_folder(folder, patterns=patterns, field=field), folder


def find_folder(given: str, *, field: str = "model") -> Path | None:
    """The folder that an id names, None for an id on the hub; `ModelUnavailableError` for what can be neither."""
    folder = Path(given).expanduser()
    if folder.exists():
        return folder.resolve()
    if given.startswith((".", "~", os.sep)) or given.count("/") != 1:
        raise ModelUnavailableError(
            f"{field}.id: no folder {given!r}; give a folder or a hub id such as llava-hf/llava-1.5-7b-hf."
        )
    return None


def place(pinned: AnyPinned) -> AnyPinned:
    """The same files on this machine, where another one resolved them; `ModelUnavailableError` if it has none."""
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
    """Raise `ModelChangedError` unless a local folder still holds what its revision says.

    Called after loading: what was read between two equal digests is what the identity names. A hub commit is final.
    """
    if not pinned.revision.startswith("sha256:"):
        return
    if digest_folder(pinned.folder, patterns=pinned.patterns, field=pinned.field) != pinned.revision:
        raise ModelChangedError(
            f"{pinned.field}.id: the files in {str(pinned.folder)!r} changed while they were being used, so their "
            "answers would bear another revision's name. Nothing of that was kept; give the same command again."
        )


def digest_folder(folder: Path, *, patterns: Sequence[str] = READ_FILES, field: str = "model") -> str:
    """Digest the files that count in a folder, names and contents: of a model its configs, weights and tokenizer.

    Raises `ModelUnavailableError` for a folder that is gone, `ModelChangedError` for one that is changed meanwhile.
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
        changed = True
    except OSError as error:
        raise ModelUnavailableError(
            f"{field}.id: {str(folder)!r} cannot be read ({error.strerror or error}); give yourself access to it, or "
            "mount its disk again."
        ) from None
    if not folder.is_dir():
        raise ModelUnavailableError(
            f"{field}.id: the folder {str(folder)!r} is gone since it was looked at; put it back."
        )
    if changed:
        raise ModelChangedError(
            f"{field}.id: {str(folder)!r} was changed while it was read; wait until its new files are all there."
        )
    return f"sha256:{total.hexdigest()}"


def _list_files(folder: Path, patterns: Sequence[str]) -> dict[Path, tuple[int, int, int]]:
    """The files that count, in order, each with what changes when it is written: inode, bytes, time."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    found = {path: path.stat() for path in paths}
    return {path: (one.st_ino, one.st_size, one.st_mtime_ns) for path, one in found.items()}


def download_model(
    model_id: str, revision: str, *, patterns: Sequence[str] = READ_FILES, field: str = "model"
) -> tuple[str, Path]:
    """Resolve a hub id to its commit and fetch the files that count: commit and folder.

    Raises `ModelUnavailableError`, and `UserError` where the hub has no such model.
    """
    commit = _find_commit(model_id, revision, field=field)
    # The hub client is imported here because a local folder needs none of it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import is_offline_mode

    # The hub's patterns know no folders: an asterisk of theirs stands for slashes too.
    wanted = [pattern.removeprefix("**/") for pattern in patterns]
    with _explained(model_id, revision, field):
        fetched = snapshot_download(
            model_id, revision=commit, allow_patterns=wanted, local_files_only=is_offline_mode()
        )
    return commit, Path(fetched)


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
            f"{field}.id: {model_id!r} at revision {revision!r} is neither a folder nor to be had from the hub "
            f"({reason}). Check the spelling and the connection, log in for gated models (HF_TOKEN), give a local "
            "folder, or set HF_HUB_OFFLINE=1 to use what is cached."
        ) from None

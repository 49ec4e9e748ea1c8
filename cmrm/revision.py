"""Which model exactly: an id and a revision become an immutable identity before anything is keyed.

Nothing here imports torch, so a run that finds all its work done never pays for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError
from cmrm.families import get_family

COMMIT = re.compile(r"[0-9a-f]{40}")
READ_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
# Seconds for a hub that is asked for a commit, which is a few hundred bytes.
PATIENCE = 20.0


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """A model that cannot change any more: `revision` is a hub commit or the digest of the local files.

    `id` is what the user wrote; `folder` is where the files lie on this machine, links followed, and is no part of the
    identity.
    """

    id: str
    revision: str
    model_type: str
    folder: Path

    @property
    def fingerprint(self) -> str:
        """What keys are made of: equal weights in two folders share it, two revisions never do."""
        return make_fingerprint(self.id, self.revision)

    def call(self, label: str | None = None) -> str:
        """The model for people and for tables: its label, else its folder's name or its id; and its revision.

        It is part of keys, so nothing here may look at the disk again: a link that is turned is another model.
        """
        own = self.folder.name if self.revision.startswith("sha256:") else self.id
        return f"{label or own}@{self.revision.removeprefix('sha256:')[:12]}"


def make_fingerprint(model_id: str, revision: str) -> str:
    """The fingerprint of a model at an immutable revision."""
    return revision if revision.startswith("sha256:") else f"hub:{model_id}@{revision}"


def find_revision(model_id: str, *, revision: str = "main") -> str:
    """Find which immutable revision a model has now, without downloading or checking it.

    Raises `UserError` for what can be no model, `ModelUnavailableError` where there is none (now), `ModelChangedError`
    for a folder that is changed meanwhile.
    """
    folder = _find_folder(model_id)
    return _find_commit(model_id, revision) if folder is None else digest_folder(folder)


def resolve_model(model_id: str, *, revision: str = "main") -> ModelIdentity:
    """Resolve a local folder or a hub id to an immutable identity, checking that it is a VLM this project can steer.

    A local folder is digested whole; a hub id is resolved to its commit and downloaded if it is not cached.
    Raises `UserError` when its weights are not safetensors or it is not a known VLM, `ModelUnavailableError` where
    there is no such model (now), `ModelChangedError` for a folder that is changed meanwhile.
    """
    if (folder := _find_folder(model_id)) is not None:
        return _identify(model_id, digest_folder(folder), folder)
    commit, snapshot = download_model(model_id, revision)
    return _identify(model_id, commit, snapshot)


def _find_folder(model_id: str) -> Path | None:
    """The folder that an id names, None for an id on the hub."""
    folder = Path(model_id).expanduser()
    if folder.exists():
        return folder.resolve()
    if model_id.startswith((".", "~", os.sep)) or model_id.count("/") != 1:
        raise ModelUnavailableError(
            f"model.id: no folder {model_id!r}; give a model folder or a hub id such as llava-hf/llava-1.5-7b-hf."
        )
    return None


def place_model(identity: ModelIdentity) -> ModelIdentity:
    """The same identity with its files on this machine, where another one resolved it; `UserError` if it has none."""
    if identity.folder.is_dir():
        return identity
    if identity.revision.startswith("sha256:"):
        raise ModelUnavailableError(
            f"model.id: the folder {str(identity.folder)!r} is not on this machine; put it on a disk that all "
            "workers share, at the same path, or give a hub id."
        )
    _, folder = download_model(identity.id, identity.revision)
    return replace(identity, folder=folder)


def check_unchanged(identity: ModelIdentity) -> None:
    """Raise `ModelChangedError` unless a local folder still holds what its identity says.

    Called after loading: what was read between two equal digests is what the identity names. A hub commit is final.
    """
    if identity.revision.startswith("sha256:") and digest_folder(identity.folder) != identity.revision:
        raise ModelChangedError(
            f"model.id: the files in {str(identity.folder)!r} changed while they were being used, so their answers "
            "would bear another revision's name. Nothing of that was kept; give the same command again."
        )


def digest_folder(folder: Path) -> str:
    """Digest the files that make a model: names and contents of its configs, weights, tokenizer and templates.

    Raises `ModelUnavailableError` for a folder that is gone, `ModelChangedError` for one that is changed meanwhile.
    """
    if folder.is_file():
        raise UserError(f"model.id: {str(folder)!r} is a file; give the folder that holds config.json.")
    total = hashlib.sha256()
    try:
        before = _list_files(folder)
        for path in before:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256")
            total.update(f"{path.name}\0{content.hexdigest()}\n".encode())
        changed = _list_files(folder) != before
    except FileNotFoundError:
        changed = True
    except OSError as error:
        raise ModelUnavailableError(
            f"model.id: {str(folder)!r} cannot be read ({error.strerror or error}); give yourself access to it, or "
            "mount its disk again."
        ) from None
    if not folder.is_dir():
        raise ModelUnavailableError(
            f"model.id: the folder {str(folder)!r} is gone since it was looked at; put it back."
        )
    if changed:
        raise ModelChangedError(
            f"model.id: {str(folder)!r} was changed while it was read; wait until its new files are all there."
        )
    return f"sha256:{total.hexdigest()}"


def _list_files(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """The files that make a model, in order, each with what changes when it is written: inode, bytes, time."""
    paths = sorted({path for pattern in READ_FILES for path in folder.glob(pattern)})
    found = {path: path.stat() for path in paths}
    return {path: (one.st_ino, one.st_size, one.st_mtime_ns) for path, one in found.items()}


def _identify(model_id: str, revision: str, folder: Path) -> ModelIdentity:
    config = read_config(model_id, folder)
    model_type = str(config.get("model_type", ""))
    if "vision_config" not in config:
        raise UserError(
            f"model.id: {model_id!r} is not a vision-language model: its config.json (model_type {model_type!r}) "
            "has no vision_config. Give a model that takes images, such as llava-hf/llava-1.5-7b-hf."
        )
    get_family(model_type, where=model_id)
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model.id: {model_id!r} holds no .safetensors weights, and pickled weights are not read. "
            "Convert it once: load it with transformers and save_pretrained() it to a new folder."
        )
    return ModelIdentity(id=model_id, revision=revision, model_type=model_type, folder=folder)


def read_config(model_id: str, folder: Path) -> dict[str, Any]:
    """Read a model's config.json; raises `UserError` when it is missing or no JSON object."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"model.id: {model_id!r} has no config.json; give a folder saved by transformers' save_pretrained()."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.id: {path.name} of {model_id!r} cannot be read ({error}); save the model again."
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"model.id: {path.name} of {model_id!r} is not a JSON object; save the model again.")
    return config


def download_model(model_id: str, revision: str) -> tuple[str, Path]:
    """Resolve a hub id to its commit and fetch what loading reads: commit and folder.

    Raises `ModelUnavailableError`, and `UserError` where the hub has no such model.
    """
    commit = _find_commit(model_id, revision)
    # The hub client is imported here because a local folder needs none of it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import is_offline_mode

    with _explained(model_id, revision):
        fetched = snapshot_download(
            model_id, revision=commit, allow_patterns=list(READ_FILES), local_files_only=is_offline_mode()
        )
    return commit, Path(fetched)


def _find_commit(model_id: str, revision: str) -> str:
    if COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import is_offline_mode

    with _explained(model_id, revision):
        if is_offline_mode():
            return Path(snapshot_download(model_id, revision=revision, local_files_only=True)).name
        commit = HfApi().model_info(model_id, revision=revision, timeout=PATIENCE).sha
    if commit is None:
        raise UserError(
            f"model.revision: the hub names no commit for {model_id!r} at {revision!r}; name a commit."
        )
    return commit


@contextmanager
def _explained(model_id: str, revision: str) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelUnavailableError(
            f"model.id: {model_id!r} at revision {revision!r} is neither a folder nor to be had from the hub "
            f"({reason}). Check the spelling and the connection, log in for gated models (HF_TOKEN), give a local "
            "folder, or set HF_HUB_OFFLINE=1 to use what is cached."
        ) from None

"""Model identity: an id and a revision are resolved to an immutable identity before anything is keyed.

Nothing here imports torch, so a run with nothing left to do never pays for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmrm.errors import UserError
from cmrm.models.family_lookup import find_family, get_family
from cmrm.models.folder_json import need_whole_settings
from cmrm.models.pinning import CODE_FILES, READ_FILES, WEIGHTS, Pinned, digest_folder, find_pin, pin
from cmrm.models.refused_types import explain_refused_type
from cmrm.models.remote_code import describe_trust, names_code, refuse_code_from_elsewhere
from cmrm.models.vision_types import is_image_text_type, takes_images
from cmrm.models.weight_files import need_safetensors


@dataclass(frozen=True, kw_only=True)
class ModelIdentity(Pinned):
    """A model pinned to an immutable revision, with its Python files under `trust_remote_code`."""

    model_type: str
    trust_remote_code: bool = False
    # The section of the spec that names it, for errors.
    section: str = "model"

    @property
    def field(self) -> str:
        return self.section

    @property
    def patterns(self) -> tuple[str, ...]:
        return choose_patterns(trust_remote_code=self.trust_remote_code)

    def digest_settings(self) -> str:
        """Compute the SHA-256 checksum of its files but the weights; raises as `digest_folder` does."""
        patterns = [one for one in self.patterns if one != WEIGHTS]
        return digest_folder(self.folder, patterns=patterns, field=self.field)


def choose_patterns(*, trust_remote_code: bool) -> tuple[str, ...]:
    """Choose the glob patterns of a model's files."""
    return (*READ_FILES, *CODE_FILES) if trust_remote_code else READ_FILES


def find_revision(model_id: str, *, revision: str = "main", trust_remote_code: bool = False) -> str:
    """Find the current immutable revision of a model, without download or check; raises as `pin` does."""
    return find_pin(
        model_id, revision=revision, patterns=choose_patterns(trust_remote_code=trust_remote_code)
    )


def resolve_model(
    model_id: str,
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
    family: Mapping[str, Any] | None = None,
) -> ModelIdentity:
    """Resolve a local folder or a hub id to an immutable identity, checking that it is a VLM this project can steer.

    A local folder is identified by the checksum of its files; a hub id is resolved to its commit and downloaded if it
    is not cached. With a `family` of the user's own, nothing is asked about its type.
    Raises `UserError` if its weights are not safetensors, it is no VLM, its type is one of `REFUSED_TYPES`, or neither
    a table nor transformers nor its own code has its type; and as `pin` does.
    """
    found, folder = pin(
        model_id, revision=revision, patterns=choose_patterns(trust_remote_code=trust_remote_code)
    )
    config = read_config(model_id, folder)
    identity = ModelIdentity(
        id=model_id,
        revision=found,
        model_type=str(config.get("model_type", "")),
        folder=folder,
        trust_remote_code=trust_remote_code,
    )
    if family is None:
        _refuse_type(identity)
    _check_files(identity, config)
    if family is None:
        _check_type(identity, config)
    if trust_remote_code:
        refuse_code_from_elsewhere(folder, where=model_id)
    return identity


def _refuse_type(identity: ModelIdentity) -> None:
    reason = explain_refused_type(identity.model_type, where=identity.id)
    # A row that a package registers goes before the table of refused types.
    if reason is not None and find_family(identity.model_type) is None:
        raise UserError(reason)


def _check_files(identity: ModelIdentity, config: Mapping[str, Any]) -> None:
    if (identity.folder / "adapter_config.json").exists():
        # transformers would ignore these weights and load the adapter's base model, at whatever revision.
        raise UserError(
            f"model.id: {identity.id!r} holds an adapter (adapter_config.json) beside or instead of a model. Give the "
            "model that it was made for as model.id, and the adapter as model.adapter, each in a folder of its own."
        )
    if not takes_images(config):
        raise UserError(
            f"model.id: {identity.id!r} is not a vision-language model: its config.json (model_type "
            f"{identity.model_type!r}) has no vision_config. Give a model that takes images, such as "
            "llava-hf/llava-1.5-7b-hf."
        )
    need_whole_settings(identity.folder, where=f"model.id: {identity.id!r}")
    need_safetensors(identity.folder, where=f"model.id: {identity.id!r}")


def _check_type(identity: ModelIdentity, config: Mapping[str, Any]) -> None:
    if find_family(identity.model_type) is not None or is_image_text_type(identity.model_type):
        return
    if not names_code(config):
        # Neither transformers nor the folder has a class for it.
        get_family(identity.model_type, where=identity.id)
    elif not identity.trust_remote_code:
        raise UserError(describe_trust(identity.id))


def read_config(model_id: str, folder: Path, *, field: str = "model") -> dict[str, Any]:
    """Read a model's config.json; raises `UserError`, naming the field, if it is missing or not a JSON object."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / "adapter_config.json").exists():
            raise UserError(
                f"model.id: {model_id!r} is a LoRA adapter, not a model. Give the model that it was made for"
                f"{_name_base(folder)} as model.id, and this one as model.adapter: {{id: {model_id}}}."
            ) from None
        below = sorted(path.parent.name for path in folder.glob(f"*/{path.name}"))
        inside = (
            f" It has one in {below[0]!r}: give that folder, a copy on disk if this is a hub id."
            if below
            else ""
        )
        raise UserError(
            f"{field}.id: {model_id!r} has no config.json; give a folder saved by transformers' save_pretrained()."
            f"{inside}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{field}.id: {path.name} of {model_id!r} cannot be read ({error}); save the model again."
        ) from None
    if not isinstance(config, dict):
        raise UserError(
            f"{field}.id: {path.name} of {model_id!r} is not a JSON object; save the model again."
        )
    return config


def _name_base(folder: Path) -> str:
    """Name an adapter's base model, in brackets; empty if the adapter does not name it."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" ({base})" if isinstance(base, str) and base else ""

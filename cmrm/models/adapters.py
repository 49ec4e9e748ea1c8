"""LoRA adapters: pinned to a revision like models, and applied to a loaded model with peft.

peft is imported with the first adapter, and torch with the first model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cmrm.errors import UserError
from cmrm.models.optional_packages import need_package
from cmrm.models.pinning import Pinned, find_pin, pin

FIELD = "model.adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)
PICKLED = "adapter_model.bin"
KIND = "LORA"


@dataclass(frozen=True, kw_only=True)
class AdapterIdentity(Pinned):
    """An adapter pinned to an immutable revision."""

    @property
    def field(self) -> str:
        return FIELD

    @property
    def patterns(self) -> tuple[str, ...]:
        return FILES


def find_adapter_revision(adapter_id: str, *, revision: str = "main") -> str:
    """Find the current immutable revision of an adapter, without download or check; raises as `pin` does."""
    return find_pin(adapter_id, revision=revision, patterns=FILES, field=FIELD)


def resolve_adapter(adapter_id: str, *, revision: str = "main") -> AdapterIdentity:
    """Resolve a local folder or a hub id to an immutable identity, checking that it is a LoRA in safetensors.

    Raises `UserError` for anything else, and as `pin` does.
    """
    found, folder = pin(adapter_id, revision=revision, patterns=FILES, field=FIELD)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except FileNotFoundError:
        raise UserError(
            f"{FIELD}.id: {adapter_id!r} has no {CONFIG}; give a folder saved by peft's save_pretrained()."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{FIELD}.id: {CONFIG} of {adapter_id!r} cannot be read ({type(error).__name__}: {error}); save the "
            "adapter again."
        ) from None
    if kind != KIND:
        raise UserError(
            f"{FIELD}.id: {adapter_id!r} is a {kind!r} adapter, and only LoRA adapters are supported. Merge it into "
            "its model with peft (merge_and_unload), save that, and give its folder as model.id."
        )
    if not (folder / WEIGHTS).is_file():
        found_one = f"a pickled {PICKLED}, which is not read" if (folder / PICKLED).exists() else "no weights"
        raise UserError(
            f"{FIELD}.id: {adapter_id!r} holds {found_one}. Load it once with peft and save_pretrained() it to a new "
            f"folder, which then holds {WEIGHTS}."
        )
    return AdapterIdentity(id=adapter_id, revision=found, folder=folder)


def apply_adapter(model: Any, adapter: AdapterIdentity) -> None:
    """Apply a LoRA to a loaded model, in place: its decoder and blocks stay the same modules.

    Raises `UserError` if peft is not installed, or the adapter was made for another model.
    """
    need_package("peft", extra="adapters", field=FIELD)
    try:
        loaded = model.load_adapter(
            str(adapter.folder), use_safetensors=True, adapter_kwargs={"local_files_only": True}
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _misfit(adapter, reason) from error
    wrong = {
        "has weights of other shapes": loaded.mismatched_keys,
        "has weights for what the model does not have": loaded.unexpected_keys,
        "has no weights for what it names": loaded.missing_keys,
    }
    for what, keys in wrong.items():
        if keys:
            raise _misfit(adapter, f"it {what}: {min(map(str, keys))}")


def _misfit(adapter: AdapterIdentity, reason: str) -> UserError:
    return UserError(
        f"{FIELD}.id: {adapter.id!r} cannot be applied to this model: {reason}. Give the model that it was made for "
        f"(base_model_name_or_path in its {CONFIG}) as model.id."
    )

"""LoRA adapters: pinned to a revision like models, and applied to a loaded model with peft.

peft is imported with the first adapter, and torch with the first model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from cmrm.errors import UserError
from cmrm.models.folder_json import read_settings
from cmrm.models.folder_note import FolderNote
from cmrm.models.load_lock import LOADING
from cmrm.models.optional_packages import need_package
from cmrm.models.pinning import Pinned, find_pin, pin
from cmrm.models.template_files import TEMPLATE_FILE, find_template

FIELD = "model.adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)
PICKLED = "adapter_model.bin"
TOKENIZER_FILE = "tokenizer.json"
KIND = "LORA"
# The names of a DoRA's magnitudes end so.
MAGNITUDE = "lora_magnitude_vector"
# Modules with a row for each token.
VOCABULARY = ("embed_tokens", "lm_head", "lora_embedding_A")


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
        # Mismatched weights are refused here, by name; transformers only refers to what it has logged.
        with LOADING:
            loaded = model.load_adapter(**_choose_source(adapter), ignore_mismatched_sizes=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _misfit(adapter, reason) from error
    for name, there, expected in sorted(loaded.mismatched_keys):
        raise _misfit(adapter, _explain_shape(name, list(there), list(expected)))
    wrong = {
        "has weights for what the model does not have": loaded.unexpected_keys,
        "has no weights for what it names": loaded.missing_keys,
    }
    for what, keys in wrong.items():
        if keys:
            raise _misfit(adapter, f"it {what}: {min(map(str, keys))}")


def note_adapter(model: Any, adapter: AdapterIdentity, identity: Pinned) -> Iterator[FolderNote]:
    """Tell what an adapter changes, and where its folder says that it belongs to another model or other prompts."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    decoder = set(model.get_decoder().modules())
    changed: list[Any] = [
        one for one in model.modules() if isinstance(one, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    within = {part for one in changed for part in one.modules() if part is not one}
    adapted = [one for one in changed if one not in within]
    outside = sum(one not in decoder for one in adapted)
    text = f"{adapter.id} changes {len(adapted)} modules, {outside} of them outside the decoder"
    yield FolderNote(about="adapter", text=text)
    for fault in _find_foreign(adapter, identity):
        yield FolderNote(about="adapter", text=f"{adapter.id}: {fault}", warning=True)


def _choose_source(adapter: AdapterIdentity) -> dict[str, Any]:
    """Make the arguments by which transformers loads an adapter: its folder, or its weights where it misreads them."""
    if not read_settings(adapter.folder / CONFIG).get("use_dora"):
        return {
            "peft_model_id": str(adapter.folder),
            "use_safetensors": True,
            "adapter_kwargs": {"local_files_only": True},
        }
    from peft import PeftConfig
    from safetensors.torch import load_file

    # transformers looks for a DoRA's magnitudes under another name than peft saves them by.
    weights = load_file(adapter.folder / WEIGHTS)
    return {
        "peft_config": PeftConfig.from_pretrained(str(adapter.folder), local_files_only=True),
        "adapter_state_dict": {
            f"{name}.weight" if name.endswith(MAGNITUDE) else name: tensor for name, tensor in weights.items()
        },
    }


def _explain_shape(name: str, there: list[int], expected: list[int]) -> str:
    reason = f"it has weights of other shapes: {name} {there} instead of {expected}"
    if there[-1:] == expected[-1:] and any(part in name for part in VOCABULARY):
        return (
            f"{reason}, as of a vocabulary of {max(there)} tokens. Resize the model to that (resize_token_embeddings), "
            "merge the adapter into it with peft, and save both with the adapter's tokenizer"
        )
    return reason


def _find_foreign(adapter: AdapterIdentity, identity: Pinned) -> Iterator[str]:
    base = read_settings(adapter.folder / CONFIG).get("base_model_name_or_path")
    if (
        isinstance(base, str)
        and base
        and _name_model(base) not in {_name_model(identity.id), identity.folder.name}
    ):
        yield f"it was made for {base}, and model.id is {identity.id}; its weights fit, and may not belong to them."
    own = _read_vocabulary(adapter.folder)
    if own is not None and own != _read_vocabulary(identity.folder):
        yield (
            f"its folder has a {TOKENIZER_FILE} with other tokens than the model's, which is not read. If it was "
            "trained with that one, merge it into its model, and save that with this tokenizer."
        )
    template, models = (find_template(one.folder, family=None) for one in (adapter, identity))
    if template is not None and (models is None or template[1].strip() != models[1].strip()):
        yield (
            f"its folder has a chat template other than the model's ({template[0]}), which is not read. If it was "
            f"trained with that one, copy it into a copy of the model's folder as {TEMPLATE_FILE}."
        )


def _name_model(given: str) -> str:
    return PurePath(given).name


def _read_vocabulary(folder: Path) -> tuple[Any, Any] | None:
    """Read the tokens of a tokenizer.json; how it writes all else differs from one release to the next."""
    content = read_settings(folder / TOKENIZER_FILE)
    if not isinstance(model := content.get("model"), dict):
        return None
    return model.get("vocab"), content.get("added_tokens")


def _misfit(adapter: AdapterIdentity, reason: str) -> UserError:
    return UserError(
        f"{FIELD}.id: {adapter.id!r} cannot be applied to this model: {reason}. Give the model that it was made for "
        f"(base_model_name_or_path in its {CONFIG}) as model.id."
    )
